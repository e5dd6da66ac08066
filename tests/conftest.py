"""Real servers for the tests: one Postgres and one NATS a session, one database a test."""

import os
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import psycopg
import pytest
from hypothesis import settings
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from infrastructure.database import Database, migrate
from infrastructure.embedded.nats import EmbeddedNats
from infrastructure.embedded.postgres import EmbeddedPostgres

# What these tests write need not survive the machine: the tests of durability start servers of their own.
UNSAFE_AND_FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}

_numbers = count(1)

# A property says what is true, not how fast: on a busy machine any example may take long.
# Where a change is judged, the same examples are drawn every time; elsewhere new ones.
settings.register_profile("village", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("village")


@pytest.fixture(scope="session")
def short_home() -> Iterator[Path]:
    """A folder that an unprivileged account can pass through, which pytest's own is not when root runs it."""
    with tempfile.TemporaryDirectory(prefix="village-tests-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)


@pytest.fixture(scope="session")
def postgres(short_home: Path) -> Iterator[EmbeddedPostgres]:
    """The session's server."""
    with EmbeddedPostgres(short_home / "session", flags=UNSAFE_AND_FAST) as server:
        yield server


@pytest.fixture(scope="session")
def template_url(postgres: EmbeddedPostgres) -> str:
    """A migrated database that nobody connects to: the tests get copies."""
    return _create(postgres.url, "template_village", template=None, then_migrate=True)


@pytest.fixture
def empty_database_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    """A database without any schema."""
    name = f"empty_{next(_numbers)}"
    yield _create(postgres.url, name, template=None)
    _drop(postgres.url, name)


@pytest.fixture
def database_url(postgres: EmbeddedPostgres, template_url: str) -> Iterator[str]:
    """A fresh, migrated database of the test's own, dropped with all its connections afterwards."""
    name = f"test_{next(_numbers)}"
    yield _create(postgres.url, name, template="template_village")
    _drop(postgres.url, name)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """Pools on that database."""
    with Database(database_url, application="tests") as database:
        yield database


@pytest.fixture(scope="session")
def nats_url(short_home: Path) -> Iterator[str]:
    """The session's NATS server; tests use streams and subjects of their own names."""
    with EmbeddedNats(short_home / "session") as server:
        yield server.url


def _create(server_url: str, name: str, *, template: str | None, then_migrate: bool = False) -> str:
    statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
        sql.Identifier(name), sql.Identifier(template or "template0")
    )
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(statement)
    url = server_url.replace("/village?", f"/{name}?")
    assert conninfo_to_dict(url)["dbname"] == name
    if then_migrate:
        migrate(url)
    return url


def _drop(server_url: str, name: str) -> None:
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
