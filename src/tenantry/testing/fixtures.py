"""pytest fixtures over `tenantry.testing`; a conftest imports the ones it wants."""

from collections.abc import Iterator
from typing import Any

import pytest

from tenantry.testing.control import (
    ControlDatabase,
    create_control_database,
    create_template,
    drop_control_database,
    prepare_django,
)
from tenantry.testing.postgres import PostgresServer, start_postgres


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL server of this test process alone."""
    server = start_postgres()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def control_template(postgres_server: PostgresServer, django_db_blocker: Any) -> PostgresServer:
    """The server, with control's template database in it."""
    prepare_django()
    with _unblocked(django_db_blocker):
        create_template(postgres_server)
    return postgres_server


@pytest.fixture
def control_database(control_template: PostgresServer, django_db_blocker: Any) -> Iterator[ControlDatabase]:
    """A fresh control database; Django's default connection points at it. Commits are real."""
    with _unblocked(django_db_blocker):
        database = create_control_database(control_template)
        try:
            yield database
        finally:
            drop_control_database(database)


class _unblocked:  # noqa: N801 - used as a function
    """pytest-django forbids database access outside its own fixtures; these fixtures are another way."""

    def __init__(self, blocker: Any) -> None:
        self._guard = blocker.unblock() if blocker is not None else None

    def __enter__(self) -> None:
        if self._guard is not None:
            self._guard.__enter__()

    def __exit__(self, *error: Any) -> None:
        if self._guard is not None:
            self._guard.__exit__(*error)
