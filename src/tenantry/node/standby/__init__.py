"""The process that answers visitors in place of a site: of one in a mode that nginx alone cannot explain.

Owns: the listener on `run/standby.sock`, what is read from nginx there and what goes back to it. It reads
`run/sites/<slug>/mode.json`, which the agent writes, and needs neither the agent nor a database. May import:
`tenantry.spec`, the node's layout and configuration. Must never write a site's files, or trust a header: what decides
comes in variables that only nginx sets. Without it nginx falls back to pages of its own.
"""
