"""Rebuilding a read model on a real Postgres: beside the live one, paused, killed, cut off; and comparing it."""

import subprocess
import sys
import threading
import time
from typing import Any

import psycopg
import pytest

from domain.kernel.errors import PositionAhead
from infrastructure.database import Role
from projections.monitoring import Controls
from projections.replay import compare
from tests.balances import Balances
from tests.running import in_background
from workers.projector import Projector

from .operated import Village, until, village

__all__ = ["village"]


def test_a_rebuild_mends_rows_that_were_tampered_with_and_keeps_indexes_and_grants(village: Village) -> None:
    village.open("Ada", 5)
    village.project()
    with village.database.connect(Role.PROJECTOR) as connection:
        connection.execute("UPDATE read.balances SET grains = 999")
    indexes = village.query("SELECT indexname FROM pg_indexes WHERE tablename = 'balances'")

    village.operate(village.monitoring.rebuild_projection)
    village.project()

    assert village.balances() == {"Ada": 5}
    assert village.query("SELECT indexname FROM pg_indexes WHERE tablename = 'balances'") == indexes
    assert village.query("SELECT count(*) FROM engine.cursors WHERE name LIKE 'rebuild:%'") == [(0,)]


def test_a_replay_to_a_past_position_is_compared_with_the_rows_that_nothing_has_touched_since(village: Village) -> None:
    ada, bob = village.open("Ada", 5), village.open("Bob", 1)
    then = village.log.head()
    village.deposit(bob, 2)
    village.project()
    told = list[tuple[int, int]]()
    with village.database.connect(Role.READER) as connection:
        compare(connection, village.models, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (then + 1, then + 1)
    found = village.compared(until=then)
    assert (found.facts, found.rows, found.moved, found.differences) == (then, 2, 1, [])

    with village.database.connect(Role.PROJECTOR) as connection:
        connection.execute("UPDATE read.balances SET grains = 999")
    assert [difference.key for difference in village.compared(until=then).differences] == [ada]
    assert {difference.key for difference in village.differences()} == {ada, bob}
    with pytest.raises(PositionAhead):
        village.compared(until=village.log.head() + 1)


def test_a_reader_sees_neither_error_nor_gap_while_models_are_rebuilt(village: Village) -> None:
    accounts = [village.open(f"owner {number}", 1) for number in range(20)]
    village.project()
    seen = list[Any]()

    def read(stopping: threading.Event) -> None:
        with village.database.connect(Role.READER) as connection:
            while not stopping.is_set():
                seen.append(
                    connection.execute("SELECT count(*), sum(grains) FROM read.balances", prepare=True).fetchone()
                )

    with in_background(read):
        for round_ in range(5):
            village.deposit(accounts[round_], 1)
            village.operate(village.monitoring.rebuild_projection)
            village.project()

    assert {count for count, _ in seen} == {20}
    assert [total for _, total in seen] == sorted(total for _, total in seen)
    assert seen[-1] == (20, 25)


def test_a_rebuild_that_was_killed_goes_on_from_where_it_was(village: Village, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("projections.rebuild.MAX_LAST_FACTS", 5)
    for number in range(30):
        village.open(f"owner {number}", 1)
    village.project()
    village.operate(village.monitoring.rebuild_projection)
    half = Projector(village.database, village.models, batch_size=7, lease_s=0.2)
    half.step()
    half.step()
    half._refresh_at = 0.0
    half.step()
    half.step()
    half.close()  # as dead as after a kill: the connection is gone and the lease is not given back
    (progress,) = village.query("SELECT position FROM engine.cursors WHERE name = 'rebuild:balances'")
    time.sleep(0.3)

    village.project()

    assert 0 < progress[0] < village.log.head()
    assert village.differences() == []
    assert len(village.balances()) == 30


def test_a_rebuild_is_paused_where_it_is_and_goes_on_from_there(
    village: Village, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("projections.rebuild.MAX_LAST_FACTS", 5)
    for number in range(30):
        village.open(f"owner {number}", 1)
    village.project()
    village.operate(village.monitoring.rebuild_projection)
    projector = Projector(village.database, village.models, batch_size=7)

    def stepped(times: int) -> list[Any]:
        for _ in range(times):
            projector._refresh_at = 0.0
            projector.step()
        return village.query("SELECT position FROM engine.cursors WHERE name = 'rebuild:balances'")

    stepped(3)
    village.operate(village.monitoring.pause_projection)
    ((paused_at,),) = stepped(2)
    assert 0 < paused_at < village.log.head()
    assert stepped(5) == [(paused_at,)]

    village.operate(village.monitoring.resume_projection)
    projector.run_once()
    projector.close()
    assert village.query("SELECT 1 FROM engine.cursors WHERE name = 'rebuild:balances'") == []
    assert (len(village.balances()), village.differences()) == (30, [])


SLOW_REBUILD = """
import sys, threading, time
import projections.rebuild
from infrastructure.database import Database
from projections.monitoring import Controls
from tests.balances import Balances
from workers.projector import Projector

class Slow(Balances):
    def evolve(self, row, fact, key):
        time.sleep(0.01)
        return super().evolve(row, fact, key)

projections.rebuild.MAX_LAST_FACTS = 5
Projector(Database(sys.argv[1]), [Controls(), Slow()], batch_size=7, lease_s=1.0).run(threading.Event())
"""


def test_a_process_killed_in_a_rebuild_leaves_it_to_the_next_one_which_goes_on_from_there(village: Village) -> None:
    village.models = [Controls(), Balances()]
    for number in range(60):
        village.open(f"owner {number}", 1)
    village.project()
    village.operate(village.monitoring.rebuild_projection)
    rebuilt_to = "SELECT position FROM engine.cursors WHERE name = 'rebuild:balances'"
    with subprocess.Popen([sys.executable, "-c", SLOW_REBUILD, village.url]) as process:
        try:
            until(lambda: any(position > 0 for (position,) in village.query(rebuilt_to)))
        finally:
            process.kill()
    dead = "SELECT 1 FROM engine.workers WHERE seen_at > clock_timestamp() - interval '1 second'"
    until(lambda: village.query(dead) == [])  # nor does it share the work any more
    ((killed_at,),) = village.query(rebuilt_to)
    assert 0 < killed_at < village.log.head()
    again = Projector(village.database, village.models, batch_size=7, lease_s=1.0)
    again.step()
    ((goes_on_at,),) = village.query(rebuilt_to) or [(village.log.head(),)]
    assert goes_on_at >= killed_at
    again.run_once()
    again.close()
    assert (village.query(rebuilt_to), len(village.balances()), village.differences()) == ([], 60, [])


def test_a_projector_recovers_when_postgres_ends_all_its_connections_in_a_rebuild(village: Village) -> None:
    village.open("Ada", 5)
    village.operate(village.monitoring.rebuild_projection)
    with in_background(Projector(village.database, village.models).run):
        for _ in range(3):
            with psycopg.connect(village.url, autocommit=True) as admin:
                admin.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
        until(lambda: village.query("SELECT 1 FROM engine.cursors WHERE name LIKE 'rebuild:%'") == [])
        until(lambda: village.balances() == {"Ada": 5})
    assert village.differences() == []
