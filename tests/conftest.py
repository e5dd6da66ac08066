"""Real servers for the tests: one Postgres and one NATS a session, one database a test."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import Phase, settings

from infrastructure.database import Database, migrate
from infrastructure.embedded.nats import EmbeddedNats
from infrastructure.embedded.postgres import EmbeddedPostgres
from tests.databases import Copies, create, drop
from tests.needs import THOROUGH

# What these tests write need not survive the machine: the tests of durability start servers of their own.
UNSAFE_AND_FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}

# More than 20 s each, the longest first.
LONGEST = (
    "tests/simulation/test_chaos.py",
    "tests/workers/device_agent/test_crash.py",
    "tests/cli/test_operations.py",
    "tests/cli/test_up.py",
    "tests/browser/test_dashboard.py",
    "tests/cli/test_demo.py",
    "tests/workers/device_agent/test_device_command.py",
    "tests/simulation/test_bus_storm.py",
)

TEMPLATE = "template_village"
IN_MEMORY = Path("/dev/shm")
ROOM = 4 * 2**30
"""All tests, in three processes, have taken less than a quarter of it at a time."""
_numbers = count(1)

# A property says what is true, not how fast: on a busy machine any example may take long.
# Where a change is judged, the same examples are drawn every time; elsewhere new ones.
settings.register_profile("village", deadline=None, derandomize="CI" in os.environ)
settings.register_profile("thorough", deadline=None, max_examples=1_000)
settings.load_profile("thorough" if THOROUGH else "village")
# A mutant is to be found quickly, not explained (`make mutation`).
settings.register_profile(
    "mutants", deadline=None, derandomize=True, max_examples=40, phases=[Phase.explicit, Phase.generate]
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The modules that boot villages come first, the longest of them at once: at the end no worker waits for another.

    Works with `--no-loadscope-reorder`; the order of a module's own tests stays.
    """
    unlike = [item.nodeid for item in items if " at 0x" in item.nodeid]
    assert not unlike, f"named after an address, which differs in each process: {unlike}"
    booting = {item.nodeid.partition("::")[0] for item in items if item.get_closest_marker("slow")}

    def rank(item: pytest.Item) -> int:
        module = item.nodeid.partition("::")[0]
        return LONGEST.index(module) if module in LONGEST else len(LONGEST) + (module not in booting)

    items.sort(key=rank)


@pytest.fixture(scope="session")
def short_home() -> Iterator[Path]:
    """A folder that an unprivileged account can pass through, which pytest's own is not when root runs it.

    In memory where there is room: a database a test makes and deletes hundreds of files, which a disk remembers.
    """
    roomy = IN_MEMORY.is_dir() and shutil.disk_usage(IN_MEMORY).free >= ROOM
    place = IN_MEMORY if roomy else None
    with tempfile.TemporaryDirectory(prefix="village-tests-", dir=place, ignore_cleanup_errors=True) as folder:
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
    url = create(postgres.url, TEMPLATE, "template0")
    migrate(url)
    return url


@pytest.fixture(scope="session")
def copies(postgres: EmbeddedPostgres, template_url: str) -> Iterator[Copies]:
    """The session's copies of it."""
    with Copies(postgres.url, TEMPLATE) as copies:
        yield copies


@pytest.fixture
def empty_database_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    """A database without any schema."""
    url = create(postgres.url, f"empty_{next(_numbers)}", "template0")
    yield url
    drop(url, postgres.url)


@pytest.fixture
def database_url(copies: Copies) -> Iterator[str]:
    """A fresh, migrated database of the test's own, dropped with all its connections afterwards."""
    with copies.one() as url:
        yield url


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
