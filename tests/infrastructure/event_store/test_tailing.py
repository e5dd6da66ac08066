"""Readers of a log that many write: nothing missed, nothing doubled, order kept, commands whole."""

import multiprocessing
import random
import threading
from collections import Counter
from typing import Any
from uuid import UUID, uuid4

import pytest

from domain.kernel import Conflict, EventLog
from infrastructure.database import Database, Role
from infrastructure.event_store import Listener, LogReader, open_event_log
from infrastructure.event_store.listener import Pacer
from infrastructure.event_store.reader import Record
from tests.ledger import Account, Ledger, Overdrawn
from tests.running import asked, assert_sound, in_threads, opened, records

PROCESSES, THREADS, COMMANDS = 2, 8, 25


def several(log: EventLog, count: int, stream: UUID | None = None) -> None:
    """One command of several facts."""
    facts = [Account.fact(Account.Deposited, stream, grains=1) for _ in range(count)] if stream else []
    account = Account(account_id=uuid4(), owner="several")
    for _ in range(count - 1):
        account.deposit(1)
    log.record(account, *facts)


def write_much(url: str, streams: list[str], seed: int, answers: Any) -> None:
    """A process of its own: many threads writing to few streams, told of every command that stands."""
    log = open_event_log(url)
    ledger = Ledger(log)
    ids = [UUID(stream) for stream in streams]

    def work(index: int) -> None:
        chance = random.Random(f"{seed} {index}")
        for number in range(COMMANDS):
            stream, kind = chance.choice(ids), chance.randrange(4)
            with asked(f"{seed}") as scope:
                try:
                    match kind:
                        case 0:
                            ledger.withdraw(account_id=stream, grains=1)
                        case 1:
                            ledger.deposit(account_id=stream, grains=1)
                        case 2:
                            several(log, 1 + number % 5, stream)
                        case _:
                            log.transact(
                                lambda: (
                                    ledger.withdraw(account_id=ids[0], grains=1),
                                    ledger.withdraw(account_id=ids[1], grains=1),
                                    ledger.deposit_to_open(account_id=ids[2], grains=2),
                                )
                            )
                except (Conflict, Overdrawn) as refusal:
                    answers.put(("refused", type(refusal).__name__))
                else:
                    answers.put(("stands", str(scope.command_id)))

    raised = in_threads(THREADS, work)
    log.close()
    answers.put(("raised", [repr(error) for error in raised]))


class Tail:
    """A consumer in a thread of its own, woken by hints, with small batches."""

    def __init__(self, database: Database, limit: int) -> None:
        self.batches: list[list[Record]] = []
        self._database, self._limit = database, limit
        self._stopping = threading.Event()
        self._listener = Listener(lambda: database.connect(Role.READER)).start()
        self._pacer = Pacer(self._listener, poll_s=0.25)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> list[Record]:
        """Read to the end and answer all that was read."""
        self._stopping.set()
        self._pacer.wake()
        self._thread.join(30)
        self._listener.stop()
        return [record for batch in self.batches for record in batch]

    def _run(self) -> None:
        with self._database.connect(Role.READER) as connection:
            reader, position = LogReader(connection), 0
            while True:
                ending = self._stopping.is_set()
                batch = reader.after(position, self._limit)
                position = batch.end
                if batch.records:
                    self.batches.append(batch.records)
                elif ending:
                    return
                else:
                    self._pacer.wait()


def test_a_reader_that_tails_sixteen_conflicting_writers_of_two_processes_sees_every_fact_once_and_in_order(
    database: Database, database_url: str, ledger: Ledger
) -> None:
    streams = [str(opened(ledger, balance=10_000)) for _ in range(3)]
    before = {record.command_id for record in records(database_url)}
    tails = [Tail(database, limit=1), Tail(database, limit=7), Tail(database, limit=1_000)]
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    processes = [
        context.Process(target=write_much, args=(database_url, streams, seed, answers)) for seed in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    told = [answers.get(timeout=100) for _ in range(PROCESSES * (THREADS * COMMANDS + 1))]
    for process in processes:
        process.join(30)
    assert [raised for kind, raised in told if kind == "raised"] == [[]] * PROCESSES

    whole = records(database_url)
    assert_sound(whole)
    stands = {UUID(command) for kind, command in told if kind == "stands"}
    assert {record.command_id for record in whole} == stands | before
    assert len(stands) > 100
    for tail in tails:
        assert tail.stop() == whole
        ends = [(left[-1], right[0]) for left, right in zip(tail.batches, tail.batches[1:], strict=False)]
        assert all(left.command_id != right.command_id for left, right in ends)
    balances = [ledger.log.load(Account, UUID(stream)).balance for stream in streams]
    assert sum(balances) == grains_in(whole, {UUID(stream) for stream in streams})


def grains_in(found: list[Record], streams: set[UUID]) -> int:
    total: Counter[str] = Counter()
    for record in found:
        if record.stream in streams and record.topic != Account.Opened.TOPIC:  # type: ignore[attr-defined]
            total[record.topic] += record.fact().event.grains
    return total["testing.Account.Deposited"] - total["testing.Account.Withdrawn"]


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 100])
def test_a_batch_never_ends_inside_a_command(database: Database, log: EventLog, limit: int) -> None:
    sizes = [3, 1, 5, 2]
    for size in sizes:
        with asked():
            several(log, size)
    with database.connect(Role.READER) as connection:
        batches = list(LogReader(connection).all(log.head(), limit=limit))
    ends = {3, 4, 9, 11}
    assert {batch.end for batch in batches} <= ends
    assert [record.position for batch in batches for record in batch.records] == list(range(1, 12))
    assert all(batch.start == before for batch, before in zip(batches, [0, *(b.end for b in batches)], strict=False))


def test_the_largest_command_is_one_batch(database: Database, log: EventLog) -> None:
    stream = uuid4()
    account = Account(account_id=stream, owner="x")
    with asked():
        log.record(account, *[Account.fact(Account.Deposited, stream, grains=1)] * 4_095)
    with database.connect(Role.READER) as connection:
        batch = LogReader(connection).after(0, limit=10)
    assert (batch.start, batch.end, len(batch.records)) == (0, 4_096, 4_096)


def test_reading_stops_at_the_position_it_is_told_even_inside_a_command(database: Database, log: EventLog) -> None:
    with asked():
        several(log, 5)
    with database.connect(Role.READER) as connection:
        assert LogReader(connection).after(0, limit=2, until=3).end == 3


def test_an_empty_log_has_an_empty_batch_that_ends_where_it_began(database: Database) -> None:
    with database.connect(Role.READER) as connection:
        batch = LogReader(connection).after(7)
    assert (batch.start, batch.end, batch.records) == (7, 7, [])


def test_a_batch_decodes_only_the_topics_that_are_wanted(database: Database, log: EventLog) -> None:
    with asked():
        several(log, 3)
    with database.connect(Role.READER) as connection:
        batch = LogReader(connection).after(0)
    (fact,) = batch.facts({"testing.Account.Opened"})
    assert (fact.position, fact.version, fact.event.owner, fact.actor) == (1, 1, "several", "test")
    assert fact.event.timestamp == fact.recorded_at


def test_the_rows_of_some_streams_come_in_order_of_position(database: Database, ledger: Ledger) -> None:
    first, other, second = opened(ledger, 1), opened(ledger, 1), opened(ledger, 1)
    with database.connect(Role.READER) as connection:
        found = LogReader(connection).of_streams([second, first], after=1, until=5)
    assert [(record.position, record.stream) for record in found] == [(2, first), (5, second)]
    assert other not in {record.stream for record in found}
