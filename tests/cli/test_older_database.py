"""A command of one release meets the database of another."""

from pathlib import Path

import psycopg

from tests.cli.villages import environment
from tests.commands import village


def test_a_database_that_lacks_a_table_of_this_release_is_told_in_one_line(tmp_path: Path, database_url: str) -> None:
    with psycopg.connect(database_url) as owner:
        owner.execute("DROP TABLE read.sagas")
    done = village("sagas", "list", env=environment(tmp_path, database_url=database_url))
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        'The database is of another release (relation "read.sagas" does not exist): see `village db status`'
    ]
