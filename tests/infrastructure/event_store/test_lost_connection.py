"""A connection lost at any byte of a flush: each command is recorded once, and gets its right answer."""

import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from uuid import UUID, uuid4

import psycopg
import pytest

import infrastructure.database as database_module
from domain.kernel import CursorMove, EventLog
from domain.kernel.errors import LogUnavailable
from domain.kernel.write import Written
from infrastructure.database import Database
from infrastructure.event_store import open_event_log
from infrastructure.event_store.recorder import PostgresRecorder
from tests.infrastructure.event_store.proxy import CuttingProxy, Direction
from tests.infrastructure.event_store.test_closing import Callers, locked, until
from tests.infrastructure.event_store.test_flush import DEPOSITED, OPENED, write
from tests.ledger import Account, Ledger
from tests.running import asked, assert_sound, join, keyed, names, opened, records


@pytest.fixture
def proxy(database_url: str) -> Iterator[CuttingProxy]:
    with tempfile.TemporaryDirectory(prefix="village-proxy-") as folder:
        proxy = CuttingProxy(Path(unquote(database_url.split("?host=")[1])), Path(folder))
        yield proxy
        proxy.close()


@pytest.fixture
def distant(proxy: CuttingProxy, database_url: str) -> Iterator[EventLog]:
    """An event log that reaches its database through the proxy."""
    log = open_event_log(proxy.url(database_url))
    yield log
    log.close()


class Group:
    """Commands of several kinds that run at once, and what each was told; one may move a cursor."""

    def __init__(self, ledger: Ledger, stream: UUID, step: bool = True) -> None:
        self.ledger, self.stream = ledger, stream
        self.works = [self._deposit, self._withdraw, self._keyed, *([self._step] if step else [])]
        self.told: dict[UUID, Any] = {}
        self.cursor = 0

    def run(self) -> dict[UUID, Any]:
        """Run one of each at once; answers by command id."""
        self.told = {}
        threads = [threading.Thread(target=self._tell, args=(work,)) for work in self.works]
        for thread in threads:
            thread.start()
        join(threads)
        return self.told

    def _tell(self, work: Callable[[], Any]) -> None:
        context = keyed(str(uuid4())) if work == self._keyed else asked()
        with context as scope:
            try:
                self.told[scope.command_id] = work()
            except Exception as error:
                self.told[scope.command_id] = error

    def _deposit(self) -> Any:
        return self.ledger.log.record(Account.fact(Account.Deposited, self.stream, grains=1))

    def _withdraw(self) -> Any:
        return self.ledger.withdraw(account_id=self.stream, grains=1)

    def _keyed(self) -> Any:
        return self.ledger.deposit(account_id=uuid4(), grains=1)

    def _step(self) -> Any:
        move = CursorMove("reader", 0, self.cursor, self.cursor + 1)
        answer = self.ledger.log.transact(lambda: self.ledger.open(account_id=uuid4()), cursors=[move])
        self.cursor += 1
        return answer


@pytest.mark.parametrize(
    ("step", "events_of_a_group", "fineness"), [(True, 5, 16), (False, 4, 10)], ids=["read first", "decided on a guess"]
)
def test_a_flush_cut_at_any_byte_in_either_direction_is_written_once_and_answered_right(
    proxy: CuttingProxy, distant: EventLog, database_url: str, step: bool, events_of_a_group: int, fineness: int
) -> None:
    ledger = Ledger(distant)
    group = Group(ledger, opened(ledger, balance=1_000), step)
    needed: list[tuple[int, int]] = []
    for _ in range(4):
        before = dict(proxy.counted)
        group.run()
        needed.append((proxy.counted["up"] - before["up"], proxy.counted["down"] - before["down"]))
    # A group is one flush or two, as the threads come: the points are spread over the least that a run needs.
    up, down = min(needed)
    expected = 2 + 4 * events_of_a_group
    points: list[tuple[Direction, int]] = [("up", up * part // fineness) for part in range(fineness + 1)]
    points += [("down", down * part // 10) for part in range(11)]
    for direction, after in points:
        proxy.arm(direction, after)
        told = group.run()
        proxy.disarm()
        expected += events_of_a_group
        assert not [answer for answer in told.values() if isinstance(answer, Exception)], (direction, after)
        found = records(database_url)
        assert len(found) == expected, (direction, after)
        for command_id, answer in told.items():
            assert answer.position == max(r.position for r in found if r.command_id == command_id), (direction, after)
    assert proxy.cuts > len(points) // 2
    assert_sound(records(database_url))


class LosingClock:
    """Asked between the reads and the writes of a flush; at some calls it lets the answer of the commit be lost."""

    def __init__(self, proxy: CuttingProxy, *, lose: Collection[int] = (), fail: Collection[int] = ()) -> None:
        self.proxy, self.lose, self.fail = proxy, lose, fail
        self.calls = 0

    def __call__(self) -> datetime:
        self.calls += 1
        if self.calls in self.lose:
            self.proxy.arm("down", 1)
        if self.calls in self.fail:
            raise RuntimeError("the clock fails")
        return datetime.now(UTC)


def test_a_commit_whose_answer_was_lost_stands_and_keeps_its_idempotency_key(
    proxy: CuttingProxy, database_url: str
) -> None:
    log = open_event_log(proxy.url(database_url), clock=LosingClock(proxy, lose=[3, 4]))
    ledger = Ledger(log)
    stream = opened(ledger, balance=5)
    answers = []
    for _ in range(2):
        with keyed("k"):
            answers.append(ledger.withdraw(account_id=stream, grains=5))
    log.close()
    assert proxy.cuts == 2
    assert answers[0] == answers[1]
    assert names(database_url) == ["Opened", "Deposited", "Withdrawn"]


def test_a_cursor_that_moved_alone_in_a_commit_whose_answer_was_lost_has_moved(
    proxy: CuttingProxy, database_url: str
) -> None:
    log = open_event_log(proxy.url(database_url), clock=LosingClock(proxy, lose=[2]))
    for at in range(3):
        with asked():
            log.transact(lambda: None, cursors=[CursorMove("reader", 0, at, at + 1)])
    log.close()
    assert proxy.cuts == 1
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT position FROM engine.cursors").fetchall() == [(3,)]


def test_an_error_of_another_kind_after_a_commit_of_unknown_fate_repeats_nothing(
    proxy: CuttingProxy, database_url: str
) -> None:
    # The third flush holds three commands: its answer is lost, the next try fails, then each is tried alone.
    clock = LosingClock(proxy, lose=[3], fail=[4])
    with Database(database_url) as near, Database(proxy.url(database_url)) as far:
        recorder = PostgresRecorder(far)
        recorder.clock = clock
        recorder.write(write(uuid4()))
        callers = Callers(recorder)
        with locked(near):
            callers.call(1)
            until(lambda: recorder._waiting.qsize() == 0)
            time.sleep(0.05)
            callers.call(3)
            until(lambda: recorder._waiting.qsize() == 3)
        callers.wait()
        recorder.close()
    assert (proxy.cuts, clock.calls) == (1, 7)
    assert callers.kinds() == ["Written"] * 4
    assert len(records(database_url)) == 5
    assert_sound(records(database_url))


def test_a_write_of_several_facts_is_found_again_with_the_versions_it_got(
    proxy: CuttingProxy, database_url: str
) -> None:
    with Database(proxy.url(database_url)) as far:
        recorder = PostgresRecorder(far)
        recorder.clock = LosingClock(proxy, lose=[2])
        recorder.write(write(uuid4()))
        written = recorder.write(write(uuid4(), (None, OPENED), (None, OPENED), (None, DEPOSITED), (None, DEPOSITED)))
        recorder.close()
    assert proxy.cuts == 1
    assert written == Written(written.receipt, (1, 0, 2, 3))
    assert written.receipt.position == 4


def ended(database_url: str, condition: str) -> int:
    """End the sessions of event logs for which this holds; answers how many."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        rows = connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
            f" AND application_name = 'event-log' AND {condition}".encode()
        ).fetchall()
    return len(rows)


def test_a_session_ended_between_the_reads_and_the_writes_of_a_flush_is_replaced(database_url: str) -> None:
    calls: list[int] = []

    def clock() -> datetime:
        calls.append(ended(database_url, "state LIKE 'idle in transaction%'") if len(calls) < 3 else 0)
        return datetime.now(UTC)

    log = open_event_log(database_url, clock=clock)
    try:
        opened(Ledger(log), balance=5)
    finally:
        log.close()
    assert calls[:2] == [1, 1]
    assert names(database_url) == ["Opened", "Deposited"]


def test_a_session_ended_while_it_waits_for_the_lock_is_replaced(database: Database, database_url: str) -> None:
    log = open_event_log(database_url)
    told: list[UUID] = []
    thread = threading.Thread(target=lambda: told.append(opened(Ledger(log))))
    with locked(database):
        thread.start()
        until(lambda: ended(database_url, "wait_event = 'advisory'") == 1)
    join([thread])
    log.close()
    assert len(told) == 1
    assert names(database_url) == ["Opened"]


def test_a_writer_that_the_server_gave_up_on_for_its_silence_starts_again(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "IDLE_IN_TRANSACTION_MS", 100)
    calls: list[None] = []

    def clock() -> datetime:
        calls.append(None)
        if len(calls) == 1:
            time.sleep(0.6)
        return datetime.now(UTC)

    log = open_event_log(database_url, clock=clock)
    try:
        opened(Ledger(log))
    finally:
        log.close()
    assert len(calls) == 2
    assert names(database_url) == ["Opened"]


def test_a_read_whose_session_was_ended_is_asked_again(database_url: str, log: EventLog, ledger: Ledger) -> None:
    stream = opened(ledger, balance=5)
    for _ in range(3):
        assert log.load(Account, stream).balance == 5
        assert ended(database_url, "state = 'idle'") >= 1


def test_a_database_that_does_not_answer_is_told_by_name(proxy: CuttingProxy, distant: EventLog) -> None:
    ledger = Ledger(distant)
    opened(ledger)
    proxy.close()
    proxy.arm("up", 0)
    with pytest.raises(LogUnavailable):
        opened(ledger)
