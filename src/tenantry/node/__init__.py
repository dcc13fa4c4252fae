"""The agent of a node: makes nginx, the uWSGI emperor and the files they read agree with what the database says.

Owns: `<home>/run/{hosts,sites,vassals}`, `<home>/state`, `<home>/etc/{nginx.conf,emperor.ini,vassal}` and
`<home>/logs/sites`. May import: `tenantry.spec`, `tenantry.sealing`, asyncio, psycopg. Must never import Django,
`tenantry.control`, `tenantry.cli` or `tenantry.embedded`, write below a directory that a tenant can write, or let
something a person typed into a file that nginx or uWSGI parses.
"""
