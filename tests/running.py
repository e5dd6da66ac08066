"""Commands in tests: under a scope, in many threads, and what the log holds afterwards."""

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from uuid import UUID, uuid4

import psycopg

from domain.kernel import CommandScope, new_scope, within
from infrastructure.database import Role, conninfo_for
from infrastructure.event_store import LogReader
from infrastructure.event_store.reader import Record
from tests.ledger import Ledger

BODY = b"\x01" * 32


def asked(actor: str = "test", **given: Any) -> AbstractContextManager[CommandScope]:
    """The scope of one command."""
    return within(new_scope(actor, **given))


def keyed(key: str, body: bytes = BODY, actor: str = "test") -> AbstractContextManager[CommandScope]:
    """The scope of one command with an idempotency key."""
    return asked(actor, idempotency_key=key, body_hash=body)


def opened(ledger: Ledger, balance: int = 0) -> UUID:
    """A new account."""
    account_id = uuid4()
    with asked():
        ledger.open(account_id=account_id)
    if balance:
        deposit(ledger, account_id, balance)
    return account_id


def deposit(ledger: Ledger, account_id: UUID, grains: int) -> None:
    with asked():
        ledger.deposit(account_id=account_id, grains=grains)


def withdraw(ledger: Ledger, account_id: UUID, grains: int) -> None:
    with asked():
        ledger.withdraw(account_id=account_id, grains=grains)


def records(url: str) -> list[Record]:
    """The whole log in order of position."""
    with psycopg.connect(conninfo_for(url, Role.READER)) as connection:
        reader = LogReader(connection)
        return [record for batch in reader.all(reader.head()) for record in batch.records]


def names(url: str) -> list[str]:
    """The names of all facts in order of position."""
    return [record.topic.rpartition(".")[2] for record in records(url)]


def assert_sound(found: Sequence[Record]) -> None:
    """What holds for every log: gapless positions and versions, one time line, whole commands, each event once."""
    assert [record.position for record in found] == list(range(1, len(found) + 1))
    heads: Counter[UUID] = Counter()
    for record in found:
        heads[record.stream] += 1
        assert record.version == heads[record.stream], f"{record.topic} at {record.position}"
    assert len({record.event_id for record in found}) == len(found)
    assert all(before.recorded_at <= after.recorded_at for before, after in itertools.pairwise(found))
    ended: set[UUID] = set()
    for before, after in itertools.pairwise(found):
        if before.command_id != after.command_id:
            ended.add(before.command_id)
        assert after.command_id not in ended, f"the command of {after.position} is not in one piece"


@contextmanager
def in_background(*runs: Callable[[threading.Event], object], timeout_s: float = 60.0) -> Iterator[None]:
    """Runs what goes on until it is told to stop, each in a thread of its own, for as long as the block."""
    stopping = threading.Event()
    threads = [threading.Thread(target=run, args=(stopping,)) for run in runs]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopping.set()
        for thread in threads:
            thread.join(timeout_s)
    assert not any(thread.is_alive() for thread in threads), "it does not stop"


def in_threads(count: int, work: Callable[[int], object], timeout_s: float = 60.0) -> list[BaseException]:
    """Run `work(index)` in that many threads at once; answers what they raised."""
    start = threading.Barrier(count)
    raised: list[BaseException] = []

    def run(index: int) -> None:
        start.wait(timeout_s)
        try:
            work(index)
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    join(threads, timeout_s)
    return raised


def join(threads: Iterable[threading.Thread], timeout_s: float = 60.0) -> None:
    for thread in threads:
        thread.join(timeout_s)
        assert not thread.is_alive(), "a thread hangs"
