"""Sites and hostnames: one tenant each, the project and release it runs, its sealed secrets, its names.

Owns: `Site`, `Hostname` and every act on them. May import: `changelog`, `releases`, `access.actors`.
Must never touch a file or another database: the jobs and the nodes do.
"""
