"""Migrations: one line of plain SQL files, run once, by one process at a time."""

import re
import threading

import psycopg
from alembic.config import Config
from alembic.script import ScriptDirectory

from infrastructure.database import MIGRATIONS, head, migrate, revision


def scripts() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    return ScriptDirectory.from_config(config)


def test_revisions_form_one_line_and_the_newest_is_the_one_with_the_highest_number() -> None:
    assert scripts().get_heads() == [head()]
    assert [script.revision for script in scripts().walk_revisions()] == sorted(
        (script.revision for script in scripts().walk_revisions()), reverse=True
    )


def test_an_empty_database_is_at_no_revision_and_migrating_brings_it_to_the_newest(empty_database_url: str) -> None:
    assert revision(empty_database_url) is None
    migrate(empty_database_url)
    assert revision(empty_database_url) == head()


def test_processes_that_migrate_at_once_wait_for_each_other(empty_database_url: str) -> None:
    failures: list[Exception] = []

    def work() -> None:
        try:
            migrate(empty_database_url)
        except Exception as error:
            failures.append(error)

    # Alembic keeps its state per process: the other one is played by a session that holds the lock.
    lock = int(re.findall(r"MIGRATION_LOCK = ([0-9_]+)", (MIGRATIONS / "env.py").read_text())[0])
    with psycopg.connect(empty_database_url, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(%s)", [lock])
        thread = threading.Thread(target=work)
        thread.start()
        thread.join(1.0)
        assert thread.is_alive()
        assert revision(empty_database_url) is None
        other.execute("SELECT pg_advisory_unlock(%s)", [lock])
        thread.join(60)
    assert not failures
    assert revision(empty_database_url) == head()
