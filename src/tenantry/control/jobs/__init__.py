"""Durable jobs (procrastinate): the slow work that follows a committed change.

Owns: the tasks, when they are tried again, the worker that runs them (`python -m tenantry.control work`).
May import: `control.data`, `control.releases.building`, services and outcomes. Must never decide what people may do,
nor write below `data/<slug>` as root. A job may be killed at any point and is run again: each is idempotent.
"""
