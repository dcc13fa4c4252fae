"""The embedded platform: PostgreSQL, Redis, control, jobs, nginx, the emperor and the agent in one home directory.

Owns the home directory's layout, its secrets, the supervisor's configuration, and bringing everything up and down.
It meets the other halves through their command lines, REST and configuration files, and never imports them.
`config`, `errors`, `files`, `home`, `lock`, `network`, `options`, `programs` and `signals` use the standard library
alone: `bin/up` imports them before any virtualenv exists.
"""
