"""Control: the Django project that owns the desired state, and everything that may change it.

Owns: models, services (writes), queries (reads), the change log, the REST API, the dashboard, the jobs.
May import: `tenantry.spec`, `tenantry.sealing`, Django, psycopg, procrastinate, ninja.
Must never import the node or the CLI: they meet it through `agent_v1.*` and through REST.
"""
