"""The event log against a plain model of it: any sequence of commands leaves both the same."""

from typing import Any
from uuid import UUID, uuid5

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from domain.kernel import AggregateNotFound, AlreadyExists, Conflict, CursorMove, EventLog, Receipt, new_scope, within
from domain.kernel.cache import AggregateCache
from domain.kernel.errors import CursorMoved, IdempotencyKeyReused
from infrastructure.event_store import LogReader
from infrastructure.event_store.reader import Record
from tests.ledger import Account, Ledger, Overdrawn
from tests.running import assert_sound

STREAMS = [uuid5(UUID(int=0), name) for name in "abc"]
streams = st.sampled_from(STREAMS)
writers = st.sampled_from([0, 1])
grains = st.integers(1, 4)
keys = st.none() | st.sampled_from(["k", "l"])
bodies = st.sampled_from([b"1", b"2"])

Told = Receipt | type[BaseException] | tuple[type[BaseException], ...]


class Model:
    """What a log is: streams of names and balances, a head, cursors, and first answers by key."""

    def __init__(self) -> None:
        self.facts: list[tuple[UUID, str]] = []
        self.balances: dict[UUID, int] = {}
        self.cursors: dict[str, int] = {}
        self.answers: dict[tuple[str, str], tuple[bytes, Receipt]] = {}

    def add(self, stream: UUID, name: str, change: int = 0) -> None:
        self.facts.append((stream, name))
        self.balances[stream] = self.balances.get(stream, 0) + change

    def answered(self, method: str, key: str | None, body: bytes, answer: Any) -> Told:
        """The first answer of the key, else what `answer()` tells."""
        if key is not None and (method, key) in self.answers:
            held, first = self.answers[method, key]
            return first if held == body else IdempotencyKeyReused
        told: Told = answer()
        if key is not None and isinstance(told, Receipt):
            self.answers[method, key] = (body, told)
        return told

    def receipt(self, stream: UUID | None, **extra: Any) -> Receipt:
        return Receipt(len(self.facts), stream, extra)

    def open(self, stream: UUID) -> Told:
        if stream in self.balances:
            return AlreadyExists
        self.add(stream, "Opened")
        return self.receipt(stream)

    def withdraw(self, stream: UUID, amount: int) -> Told:
        if stream not in self.balances:
            return AggregateNotFound
        if amount > self.balances[stream]:
            return Overdrawn
        self.add(stream, "Withdrawn", -amount)
        return self.receipt(stream, left=self.balances[stream])

    def deposit(self, stream: UUID, amount: int) -> Told:
        if stream not in self.balances:
            self.add(stream, "Opened")
        self.add(stream, "Deposited", amount)
        return self.receipt(stream)

    def deposit_to_open(self, stream: UUID, amount: int) -> Told:
        if stream not in self.balances:
            return AggregateNotFound
        self.add(stream, "Deposited", amount)
        return self.receipt(None)


class Logs(RuleBasedStateMachine):
    """Two event logs on one database, as two processes have them, take turns."""

    ledgers: list[Ledger]
    connection: psycopg.Connection[Any]

    def __init__(self) -> None:
        super().__init__()
        self.connection.execute("TRUNCATE log.events, log.commands, engine.cursors, engine.snapshots")
        for ledger in self.ledgers:
            ledger.log.cache = AggregateCache(2)
        self.model = Model()
        self.held: list[tuple[Account, int]] = []

    def teardown(self) -> None:
        assert_sound(self.records())

    def records(self) -> list[Record]:
        return LogReader(self.connection).after(0, 10_000).records

    def log(self, writer: int) -> EventLog:
        return self.ledgers[writer].log

    @rule(writer=writers, stream=streams, key=keys, body=bodies)
    def open(self, writer: int, stream: UUID, key: str | None, body: bytes) -> None:
        expected = self.model.answered("open", key, body, lambda: self.model.open(stream))
        self.told(expected, key, body, lambda: self.ledgers[writer].open(account_id=stream))

    @rule(writer=writers, stream=streams, amount=grains, key=keys, body=bodies)
    def withdraw(self, writer: int, stream: UUID, amount: int, key: str | None, body: bytes) -> None:
        expected = self.model.answered("withdraw", key, body, lambda: self.model.withdraw(stream, amount))
        self.told(expected, key, body, lambda: self.ledgers[writer].withdraw(account_id=stream, grains=amount))

    @rule(writer=writers, stream=streams, amount=grains, key=keys, body=bodies)
    def deposit(self, writer: int, stream: UUID, amount: int, key: str | None, body: bytes) -> None:
        expected = self.model.answered("deposit", key, body, lambda: self.model.deposit(stream, amount))
        self.told(expected, key, body, lambda: self.ledgers[writer].deposit(account_id=stream, grains=amount))

    @rule(writer=writers, stream=streams, amount=grains)
    def deposit_to_open(self, writer: int, stream: UUID, amount: int) -> None:
        expected = self.model.deposit_to_open(stream, amount)
        self.told(expected, None, b"", lambda: self.ledgers[writer].deposit_to_open(account_id=stream, grains=amount))

    @rule(writer=writers, source=streams, sink=streams, amount=grains, old=st.integers(0, 3), new=st.integers(0, 3))
    def move(self, writer: int, source: UUID, sink: UUID, amount: int, old: int, new: int) -> None:
        """A unit of two commands and a cursor: all or nothing."""
        ledger, model = self.ledgers[writer], self.model
        expected: Told
        is_moved = model.cursors.get("c", 0) != old
        if model.balances.get(source, -1) < amount:
            refusal = AggregateNotFound if source not in model.balances else Overdrawn
            # Where both hold, a stale copy may pass the refusal, and then meets the cursor: nothing is recorded.
            expected = (refusal, CursorMoved) if is_moved else refusal
        elif is_moved:
            expected = CursorMoved
        else:
            model.withdraw(source, amount)
            model.deposit(sink, amount)
            model.cursors["c"] = new
            expected = model.receipt(sink)
        self.told(
            expected, None, b"",
            lambda: ledger.log.transact(
                lambda: (
                    ledger.withdraw(account_id=source, grains=amount),
                    ledger.deposit(account_id=sink, grains=amount),
                ),
                cursors=[CursorMove("c", 0, old, new)],
            ),
        )  # fmt: skip

    @rule(writer=writers, stream=streams)
    def hold_a_copy(self, writer: int, stream: UUID) -> None:
        """Load now, to record later, when others may have been there."""
        found = self.log(writer).find(Account, stream)
        assert (found is not None) == (stream in self.model.balances)
        if found is not None and found.balance:
            self.held = [*self.held[-1:], (found, len(self.model.facts))]

    @rule(writer=writers)
    def record_a_held_copy(self, writer: int) -> None:
        if not self.held:
            return
        held, head = self.held.pop()
        held.withdraw(1)
        since = [name for stream, name in self.model.facts[head:] if stream == held.id]
        expected: Told = Conflict
        if set(since) <= {"Deposited"}:
            self.model.add(held.id, "Withdrawn", -1)
            expected = self.model.receipt(held.id)
        self.told(expected, None, b"", lambda: self.log(writer).record(held))

    @invariant()
    def the_log_holds_what_the_model_holds(self) -> None:
        found = self.records()
        assert [(record.stream, record.topic.rpartition(".")[2]) for record in found] == self.model.facts

    @invariant()
    def both_logs_load_the_balances_of_the_model(self) -> None:
        for writer in range(len(self.ledgers)):
            for stream in STREAMS:
                found = self.log(writer).find(Account, stream)
                assert (None if found is None else found.balance) == self.model.balances.get(stream)

    @invariant()
    def the_cursor_stands_where_the_model_has_it(self) -> None:
        found: dict[str, int] = dict(self.connection.execute("SELECT name, position FROM engine.cursors").fetchall())
        assert found == self.model.cursors

    def told(self, expected: Told, key: str | None, body: bytes, command: Any) -> None:
        with within(new_scope("test", idempotency_key=key, body_hash=body)):
            if isinstance(expected, Receipt):
                assert command() == expected
            else:
                with pytest.raises(expected) as refusal:
                    command()
                assert refusal.type in (expected if isinstance(expected, tuple) else (expected,))


def test_any_sequence_of_commands_of_two_processes_leaves_the_log_as_a_plain_model_says(
    database_url: str, ledger: Ledger, elsewhere: Ledger
) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        machine = type("LogsHere", (Logs,), {"ledgers": [ledger, elsewhere], "connection": connection})
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=20,
                stateful_step_count=25,
                deadline=None,
                # Shrinking a run of minutes takes an hour: a failure is told as it was found.
                phases=[Phase.explicit, Phase.reuse, Phase.generate],
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
            ),
        )
