"""The command line `tenantry`, over the REST API.

Owns: the command tree, how answers look on a terminal, which exit code an error gets.
May import: `tenantry.spec` (names are checked before they are put into a path; the server decides), typer, rich.
Must never import `tenantry.control`, `tenantry.node` or `tenantry.embedded`, nor touch the database or a site's files:
`up`, `down`, `site manage` and `site shell` start the other half as a program of its own.

Exit codes: 0 done, 1 failed, 2 invalid input, 130 interrupted by the person.
"""
