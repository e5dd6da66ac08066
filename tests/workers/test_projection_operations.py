"""Operating read models on a real Postgres: dead letters, retry, skip, pause, rebuild, shared work."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from domain.kernel import EventLog, Fact, new_scope, within
from domain.kernel.errors import PositionAhead
from domain.monitoring import MonitoringService, Projection
from domain.monitoring.projection import LetterAlreadySkipped, ProjectionAlreadyPaused, ProjectionNotPaused
from domain.monitoring.service import LetterUnknown, ProjectionUnknown
from infrastructure.database import Database, Role
from infrastructure.event_store import open_event_log
from projections.letters import DeadLetters
from projections.monitoring import Controls
from projections.replay import Comparison, compare
from projections.rows import ReadModel
from tests.balances import BalanceRow, Balances, create_tables
from tests.ledger import Account, Ledger
from tests.running import in_background
from workers.projector import Projector

BROKEN: set[str] = set()
"""Owners whose accounts the broken model cannot fold, until it is mended."""


class Breakable(Balances):
    """Balances that fail while their owner is in BROKEN."""

    def evolve(self, row: BalanceRow | None, fact: Fact, key: Any) -> BalanceRow | None:
        after = super().evolve(row, fact, key)
        if after is not None and after.owner in BROKEN and isinstance(fact.event, Account.Deposited):
            raise ValueError(f"cannot fold {after.owner}")
        return after


class Parted(Balances):
    """Balances in four partitions."""

    partitions = 4


class Village:
    """A log, a ledger, the operator's commands and a projector, all real."""

    def __init__(self, url: str, database: Database) -> None:
        create_tables(database)
        self.url = url
        self.database = database
        self.log: EventLog = open_event_log(url)
        self.ledger = Ledger(self.log)
        self.monitoring = MonitoringService(self.log, ["balances"])
        self.models: list[ReadModel[Any]] = [Controls(), Breakable()]

    def open(self, owner: str, *amounts: int) -> UUID:
        account_id = uuid4()
        with within(new_scope("test")):
            self.ledger.open(account_id=account_id, owner=owner)
        self.deposit(account_id, *amounts)
        return account_id

    def deposit(self, account_id: UUID, *amounts: int) -> None:
        for grains in amounts:
            with within(new_scope("test")):
                self.ledger.deposit_to_open(account_id=account_id, grains=grains)

    def operate(self, command: Callable[..., Any], **arguments: Any) -> None:
        with within(new_scope("operator:test")):
            command(name="balances", reason="the test asks", **arguments)

    def project(self) -> int:
        return Projector(self.database, self.models).run_once()

    def balances(self) -> dict[str, int]:
        return dict(self.query("SELECT owner, grains FROM read.balances"))

    def letters(self) -> list[tuple[str, int, bool]]:
        return self.query("SELECT key, position, poison FROM engine.dead_letters ORDER BY key, position")

    def query(self, text: str) -> list[Any]:
        with self.database.reader.connection() as connection:
            return connection.execute(text.encode()).fetchall()

    def compared(self, until: int | None = None) -> Comparison:
        with self.database.connect(Role.READER) as connection:
            return compare(connection, self.models, until)

    def differences(self) -> list[Any]:
        return self.compared().differences


@pytest.fixture
def village(database_url: str, database: Database) -> Iterator[Village]:
    BROKEN.clear()
    village = Village(database_url, database)
    yield village
    village.log.close()


def test_later_facts_of_a_poisoned_row_wait_behind_the_letter_and_other_rows_go_on(village: Village) -> None:
    BROKEN.add("Bob")
    bob = village.open("Bob", 1, 2)
    village.open("Ada", 5)
    village.project()
    village.deposit(bob, 3)
    village.project()

    assert village.balances() == {"Bob": 0, "Ada": 5}
    assert [poison for _, _, poison in village.letters()] == [True, False, False]


def test_retry_folds_the_letters_in_order_once_the_fault_is_mended(village: Village) -> None:
    BROKEN.add("Bob")
    bob = village.open("Bob", 1, 2)
    village.project()
    BROKEN.clear()
    village.deposit(bob, 4)
    village.operate(village.monitoring.retry_letter, key=f'"{bob}"')
    village.project()

    assert village.balances() == {"Bob": 7}
    assert village.letters() == []
    assert village.differences() == []


def test_retry_of_a_fault_that_stands_is_obeyed_once_and_leaves_the_letters(village: Village) -> None:
    BROKEN.add("Bob")
    bob = village.open("Bob", 1, 2)
    village.project()
    village.operate(village.monitoring.retry_letter, key=f'"{bob}"')
    village.project()

    assert [poison for _, _, poison in village.letters()] == [True, False]
    assert village.balances() == {"Bob": 0}


def test_skip_leaves_the_fact_out_for_good_and_a_rebuild_leaves_it_out_too(village: Village) -> None:
    BROKEN.add("Bob")
    bob = village.open("Bob", 1, 2)
    village.project()
    BROKEN.clear()
    key, position, _ = village.letters()[0]
    village.operate(village.monitoring.skip_letter, key=key, position=position)
    village.project()
    assert village.balances() == {"Bob": 2}

    village.operate(village.monitoring.rebuild_projection)
    village.project()
    assert village.balances() == {"Bob": 2}
    assert village.differences() == []
    assert bob is not None


def test_a_row_that_cannot_be_stored_is_found_and_held_back_alone(village: Village) -> None:
    village.open("Bob", 1, 10**9, 1)
    village.open("Ada", 5)
    village.project()

    assert village.balances() == {"Bob": 1, "Ada": 5}
    assert [poison for _, _, poison in village.letters()] == [True, False]


def test_a_paused_model_stands_still_and_goes_on_where_it_was(village: Village) -> None:
    village.open("Ada", 5)
    village.operate(village.monitoring.pause_projection)
    village.project()
    before = village.balances()
    ada = village.open("Eve", 6)
    village.project()
    assert village.balances() == before

    village.operate(village.monitoring.resume_projection)
    village.project()
    assert village.balances() == {"Ada": 5, "Eve": 6}
    assert ada is not None


def test_controls_refuse_what_makes_no_sense_and_record_nothing(village: Village) -> None:
    village.operate(village.monitoring.pause_projection)
    village.operate(village.monitoring.skip_letter, key='"x"', position=1)
    head = village.log.head()
    with within(new_scope("operator:test")):
        with pytest.raises(ProjectionUnknown):
            village.monitoring.pause_projection(name="nothing", reason="?")
        with pytest.raises(ProjectionAlreadyPaused):
            village.monitoring.pause_projection(name="balances", reason="again")
        with pytest.raises(LetterAlreadySkipped):
            village.monitoring.skip_letter(name="balances", key='"x"', position=1, reason="again")
        village.monitoring.resume_projection(name="balances", reason="go on")
        with pytest.raises(ProjectionNotPaused):
            village.monitoring.resume_projection(name="balances", reason="again")
    assert village.log.head() == head + 1
    assert village.log.load(Projection, Projection.create_id("balances")).paused is False


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


def test_controls_that_were_paused_by_an_older_village_are_obeyed_all_the_same(village: Village) -> None:
    paused = Projection(name=Controls.name)
    paused._paused(name=Controls.name, reason="a mistake")
    with within(new_scope("operator:test")):
        village.log.record(paused)
    village.project()
    village.operate(village.monitoring.pause_projection)
    village.project()
    assert village.query("SELECT projection, paused FROM read.projection_controls ORDER BY 1") == [
        ("balances", True),
        ("projection_controls", True),
    ]


def test_only_what_is_set_aside_is_retried_or_skipped(village: Village) -> None:
    monitoring = MonitoringService(village.log, ["balances"], DeadLetters(village.database))
    BROKEN.add("Bob")
    bob = village.open("Bob", 1)
    village.project()
    BROKEN.clear()
    ((key, position, _),) = village.letters()
    head = village.log.head()
    for wrong in ({"key": key, "position": position + 1}, {"key": f'"{uuid4()}"', "position": position}):
        with pytest.raises(LetterUnknown):
            village.operate(monitoring.skip_letter, **wrong)
    with pytest.raises(LetterUnknown):
        village.operate(monitoring.retry_letter, key="bob")
    assert village.log.head() == head
    village.operate(monitoring.retry_letter, key=f'"{bob}"')
    village.project()
    assert village.balances() == {"Bob": 1}


def test_partitions_folded_by_two_projectors_add_up_to_the_whole(village: Village) -> None:
    village.models = [Controls(), Parted()]
    projectors = [Projector(village.database, village.models, batch_size=10) for _ in range(2)]
    with in_background(*(projector.run for projector in projectors)):
        accounts = [village.open(f"owner {number}", 1) for number in range(20)]
        _until(lambda: len({owner for (owner,) in village.query("SELECT owner FROM engine.cursors")} - {None}) == 2)
        for account in accounts:
            village.deposit(account, 1)
        head = village.log.head()
        _until(lambda: village.query("SELECT min(position) FROM engine.cursors") == [(head,)])

    assert village.balances() == {f"owner {number}": 2 for number in range(20)}
    assert village.differences() == []


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
            _until(lambda: any(position > 0 for (position,) in village.query(rebuilt_to)))
        finally:
            process.kill()
    dead = "SELECT 1 FROM engine.workers WHERE seen_at > clock_timestamp() - interval '1 second'"
    _until(lambda: village.query(dead) == [])  # nor does it share the work any more
    ((killed_at,),) = village.query(rebuilt_to)
    assert 0 < killed_at < village.log.head()
    again = Projector(village.database, village.models, batch_size=7, lease_s=1.0)
    again.step()
    ((goes_on_at,),) = village.query(rebuilt_to) or [(village.log.head(),)]
    assert goes_on_at >= killed_at
    again.run_once()
    again.close()
    assert (village.query(rebuilt_to), len(village.balances()), village.differences()) == ([], 60, [])


PROJECTOR_PROCESS = """
import sys, threading
from infrastructure.database import Database
from tests.balances import Balances
from projections.monitoring import Controls
from workers.projector import Projector
Projector(Database(sys.argv[1]), [Controls(), Balances()], batch_size=10).run(threading.Event())
"""


def _projector_process(url: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", PROJECTOR_PROCESS, url])


def test_another_process_takes_over_within_ten_seconds_of_a_kill(village: Village) -> None:
    village.models = [Controls(), Balances()]
    first = _projector_process(village.url)
    second: subprocess.Popen[bytes] | None = None
    try:
        account = village.open("Ada", 1)
        _until(lambda: village.balances() == {"Ada": 1})
        second = _projector_process(village.url)
        # A process that has not come up yet could not take over, however good the lease is.
        _until(lambda: village.query("SELECT count(*) FROM engine.workers") == [(2,)], timeout_s=60)
        os.kill(first.pid, signal.SIGKILL)
        village.deposit(account, 1)
        _until(lambda: village.balances() == {"Ada": 2}, timeout_s=10)
    finally:
        for process in filter(None, (first, second)):
            process.kill()
            process.wait(10)


def test_a_frozen_process_that_wakes_up_late_does_no_harm(village: Village) -> None:
    village.models = [Controls(), Balances()]
    frozen = _projector_process(village.url)
    other: subprocess.Popen[bytes] | None = None
    try:
        account = village.open("Ada", 1)
        _until(lambda: village.balances() == {"Ada": 1})
        os.kill(frozen.pid, signal.SIGSTOP)
        other = _projector_process(village.url)
        village.deposit(account, *[1] * 30)
        _until(lambda: village.balances() == {"Ada": 31})
        ((woken_at,),) = village.query("SELECT clock_timestamp()::text")
        os.kill(frozen.pid, signal.SIGCONT)
        village.deposit(account, *[1] * 30)
        _until(lambda: village.balances() == {"Ada": 61})
        seen = f"SELECT count(*) FROM engine.workers WHERE seen_at > '{woken_at}'"
        _until(lambda: village.query(seen) == [(2,)])  # the woken process has gone on from where it was
        assert village.balances() == {"Ada": 61}
        assert village.differences() == []
    finally:
        for process in filter(None, (frozen, other)):
            process.kill()
            process.wait(10)


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
        _until(lambda: village.query("SELECT 1 FROM engine.cursors WHERE name LIKE 'rebuild:%'") == [])
        _until(lambda: village.balances() == {"Ada": 5})
    assert village.differences() == []


def _until(holds: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            if holds():
                return
        except psycopg.OperationalError:
            pass
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.05)
