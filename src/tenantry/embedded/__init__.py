"""The embedded platform: PostgreSQL, Redis, control, jobs, nginx, the emperor and the agent in one home directory.

Owns the home directory's layout, its secrets, the supervisor's configuration, and bringing everything up and down.
It meets the other halves through their command lines, REST and configuration files, and never imports them. A home may
also be a node's that joined another platform: nginx, the emperor and the agent (`join`, `nodes`).
`config`, `errors`, `files`, `home`, `invitation`, `lock`, `network`, `options`, `processes`, `programs` and `signals`
use the standard library alone: `bin/up` and `bin/join` import them before any virtualenv exists.
"""
