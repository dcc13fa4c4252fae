"""Projects and releases: a Django codebase and its immutable builds.

Owns: `Project`, `Release` and every act on them. Building itself is `releases.building`, run by the jobs worker.
"""
