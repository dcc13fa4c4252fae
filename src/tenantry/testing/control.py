"""Control's database in a test server: one migrated template, a fresh copy for every test.

`prepare_django` must have run before a module of control that has models is imported.
"""

import os
from dataclasses import dataclass, replace

from tenantry.testing.postgres import PORT, PostgresServer

TEMPLATE = "control_template"
DATABASE = "control"  # one name for every test: a process that a test run keeps finds each new copy
CONTROL_ROLE = "tenantry_control"
JOBS_ROLE = "tenantry_jobs"
NODE_ROLE = "tenantry_node_1"
NODES_ROLE = "tenantry_nodes"  # the group of all nodes' roles
NODE_NAME = "node-1"
TEST_HOSTS = ["testserver", "127.0.0.1", "localhost"]


@dataclass(frozen=True)
class ControlDatabase:
    """A migrated, empty control database with one joined node. Django's default connection points at it."""

    server: PostgresServer
    name: str

    def dsn(self, user: str = CONTROL_ROLE) -> str:
        return self.server.dsn(self.name, user)


def prepare_django() -> None:
    """Set Django up with control's settings for this test process. Safe to call again."""
    import django
    from cryptography.fernet import Fernet
    from django.conf import settings

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tenantry.control.settings")
    django.setup()
    # pytest-django may have set Django up before, without what tests need.
    if not settings.TENANTRY.platform_key:
        settings.TENANTRY = replace(settings.TENANTRY, platform_key=Fernet.generate_key().decode("ascii"))
        settings.ALLOWED_HOSTS = TEST_HOSTS
        settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # speed


def create_roles(server: PostgresServer) -> None:
    """Create the platform's roles as the embedded platform does."""
    with server.connect() as connection:
        connection.execute(f"CREATE ROLE {CONTROL_ROLE} LOGIN")
        connection.execute(f"CREATE ROLE {JOBS_ROLE} LOGIN CREATEROLE CREATEDB IN ROLE {CONTROL_ROLE}")
        connection.execute(f"GRANT pg_read_all_stats, pg_signal_backend TO {JOBS_ROLE}")
        connection.execute(f"CREATE ROLE {NODE_ROLE} LOGIN")
        connection.execute(f"CREATE ROLE {NODES_ROLE} NOLOGIN")
        if connection.info.server_version >= 160_000:
            # Before, CREATEROLE was enough to put a role into any group, and to drop any.
            connection.execute(
                f"GRANT {NODES_ROLE}, {NODE_ROLE} TO {JOBS_ROLE} WITH ADMIN TRUE, INHERIT FALSE, SET FALSE"
            )


def point_django_at(server: PostgresServer, name: str) -> None:
    """Make Django's default connection, in every thread that opens one from now on, use database `name`."""
    from django.db import connections

    connections.close_all()
    configured = connections.settings["default"]
    configured.update(HOST=server.host, PORT=str(PORT), NAME=name, USER=CONTROL_ROLE, PASSWORD="")
    # No pool: a pooled connection would outlive its database.
    configured["OPTIONS"] = {"application_name": "tenantry-test"}


def create_template(server: PostgresServer) -> None:
    """Create and migrate the template database, with its node joined and granted."""
    from django.core.management import call_command
    from django.db import connections

    from tenantry.control.fleet import services

    create_roles(server)
    server.create_database(TEMPLATE, owner=CONTROL_ROLE)
    with server.connect(TEMPLATE) as connection:
        connection.execute(
            "REVOKE EXECUTE ON FUNCTION lo_creat(int), lo_create(oid), lo_from_bytea(oid, bytea) FROM PUBLIC"
        )
    point_django_at(server, TEMPLATE)
    call_command("migrate", verbosity=0)
    services.adopt_node(NODE_NAME, NODE_ROLE)
    connections.close_all()


def create_control_database(server: PostgresServer) -> ControlDatabase:
    """Return a new copy of the template, in place of the copy before, and point Django at it."""
    name = DATABASE
    server.drop_database(name)
    server.create_database(name, template=TEMPLATE, owner=CONTROL_ROLE)
    point_django_at(server, name)
    # CONNECT is a property of the database, which a copy does not inherit.
    with server.connect() as connection:
        connection.execute(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC")
        connection.execute(f"GRANT CONNECT ON DATABASE {name} TO {NODE_ROLE}, {NODES_ROLE}")
    return ControlDatabase(server, name)


def drop_control_database(database: ControlDatabase) -> None:
    """Close this thread's connections and drop the database, whoever is still connected."""
    from django.db import connections

    connections.close_all()
    database.server.drop_database(database.name)
