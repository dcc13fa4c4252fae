"""The change log: the platform-wide, gap-free revision, its epoch, and one row for every act.

Owns: `PlatformState`, `Change`, the SQL functions `changelog_append` and `agent_v1.*`, the feed of notifications.
May import: `control.errors`. Other apps append to it; it never writes their tables, except through `agent_v1.report`.
"""
