"""Sites' data: databases, cache users, directories, final dumps.

Owns: every role and database of a tenant on the PostgreSQL server, every tenant's Redis user, `data/` and `backups/`.
May import: the standard library, psycopg, redis, `tenantry.spec`. Must never import Django or a model, follow a link
below `data/<slug>`, or write there as root once the site has run.

Each function may be repeated after a crash at any point: it ends in the same state.
"""
