"""The saga runner: hands every fact to the sagas that listen, each step one transaction with its cursor."""

import threading
from collections.abc import Sequence
from typing import Any, Protocol

import psycopg
import structlog

from domain.kernel import CursorMove, EventLog, Fact, derive, new_scope, within
from domain.kernel.errors import CursorMoved, LogClosed, LogOverloaded, LogUnavailable
from domain.kernel.saga import saga_name
from domain.kernel.scope import CommandScope
from infrastructure import traces
from infrastructure.database import Database, Role
from infrastructure.event_store.reader import Batch, LogReader
from infrastructure.operations import tracked

from .pump import Failures, follow_log

POLL_S = 0.25
MAX_FACTS = 256
"""Facts that share one transaction."""
_log = structlog.get_logger()


class Handler(Protocol):
    """What the runner runs: a saga type, or a plan of a process."""

    @property
    def listens(self) -> tuple[type[Any], ...]: ...

    def concerns(self, fact: Fact) -> bool: ...

    def handle(self, fact: Fact, log: EventLog, village: Any) -> None: ...


def name_of(saga: Handler) -> str:
    """The name of its cursor and its actor: that of a saga's class, or a plan's own."""
    return saga_name(saga.__name__) if isinstance(saga, type) else str(getattr(saga, "name"))  # noqa: B009


def _scope(saga: Handler, fact: Fact) -> CommandScope:
    return new_scope(
        f"saga:{name_of(saga)}",
        now=fact.recorded_at,
        command_id=derive("saga.step", name_of(saga), fact.event_id),
        correlation_id=fact.correlation_id,
        causation_id=fact.event_id,
    )


class SagaRunner:
    """Runs process managers over the log.

    For one fact a saga's own events, the events of the contexts it commands and the runner's cursor are one
    transaction, which facts that come together share. Command ids derive from (saga type, event), time is the fact's:
    doing a step twice is doing it once.
    """

    def __init__(
        self, log: EventLog, database: Database, sagas: Sequence[Handler], village: Any, *, batch_size: int = 1_000
    ) -> None:
        self._log = log
        self._database = database
        self._village = village
        self._sagas = {f"saga:{name_of(saga)}": saga for saga in sagas}
        self._topics = {name: frozenset(e.TOPIC for e in saga.listens) for name, saga in self._sagas.items()}
        self._wanted = frozenset[str]().union(*self._topics.values())
        self._batch_size = batch_size
        self._failures = Failures()
        self._connection: psycopg.Connection[Any] | None = None

    def run(self, stopping: threading.Event) -> None:
        """Run sagas until told to stop."""
        try:
            follow_log("saga runner", self.step, lambda: self._database.connect(Role.READER), POLL_S, stopping)
        finally:
            self.close()

    def run_once(self) -> int:
        """Handle every fact that stands, and those the sagas add, until there is none; answers the position."""
        while self.step():
            pass
        return min(self._positions().values(), default=0)

    def step(self) -> bool:
        """Handle one batch; whether there may be more: of the log, or of what the sagas have just recorded."""
        ready = {name: at for name, at in self._positions().items() if not self._failures.is_held(name)}
        if not ready:
            return False
        batch = self._read(min(ready.values()))
        if not batch.records:
            return False
        facts = batch.facts(self._wanted)
        passed = [move for name, at in ready.items() if (move := self._handle_all(name, at, batch, facts))]
        if passed:
            self._pass_over(passed)
        return len(passed) < len(ready) or len(batch.records) >= self._batch_size

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _handle_all(self, name: str, cursor: int, batch: Batch, facts: Sequence[Fact]) -> CursorMove | None:
        """Handle this saga type's facts; where there is none in the batch, answers the move over it."""
        saga = self._sagas[name]
        try:
            own = [f for f in facts if f.position > cursor and f.topic in self._topics[name] and saga.concerns(f)]
            for start in range(0, len(own), MAX_FACTS):
                some = own[start : start + MAX_FACTS]
                end = some[-1].position if some[-1] is not own[-1] else batch.end
                self._handle_some(saga, some, CursorMove(name, 0, cursor, end))
                cursor = end
            self._failures.succeeded(name)
        except CursorMoved:
            _log.info("another saga runner was first", saga=name, position=cursor)
            return None
        except Exception as error:
            self._failures.failed(name, error)
            return None
        return CursorMove(name, 0, cursor, batch.end) if cursor < batch.end else None

    def _handle_some(self, saga: Handler, facts: Sequence[Fact], move: CursorMove) -> None:
        """Handle facts in one transaction; where that cannot be, each half of them in one of its own."""
        first, rest = facts[: len(facts) // 2], facts[len(facts) // 2 :]
        try:
            with tracked("sagas", name_of(saga)), within(_scope(saga, facts[0])):
                self._log.transact(
                    lambda: self._decide(saga, facts),
                    cursors=(move,),
                    method=name_of(saga),
                    tries=1 if first else None,
                )
        except (CursorMoved, LogUnavailable, LogOverloaded, LogClosed):
            raise
        except Exception:
            if not first:
                raise
            self._handle_some(saga, first, CursorMove(move.name, 0, move.old, first[-1].position))
            self._handle_some(saga, rest, CursorMove(move.name, 0, first[-1].position, move.new))

    def _decide(self, saga: Handler, facts: Sequence[Fact]) -> None:
        for fact in facts:
            # Another process recorded the fact: a saga that only reads its stream would never notice an older copy.
            self._log.cache.drop_older(fact.stream, fact.version)
        for fact in facts:
            scope = _scope(saga, fact)
            with (
                within(scope),
                traces.span(name_of(saga), scope.correlation_id, scope.command_id, fact.command_id),
            ):
                saga.handle(fact, self._log, self._village)

    def _pass_over(self, moves: Sequence[CursorMove]) -> None:
        """Move these cursors together; where another runner has moved one, each by itself."""
        try:
            with within(new_scope("saga:runner")):
                self._log.transact(lambda: None, cursors=tuple(moves), method="pass over")
        except CursorMoved:
            if len(moves) == 1:
                _log.info("another saga runner was first", saga=moves[0].name, position=moves[0].new)
                return
            for move in moves:
                self._pass_over([move])

    def _read(self, after: int) -> Batch:
        return LogReader(self._open()).after(after, self._batch_size)

    def _positions(self) -> dict[str, int]:
        found = dict(
            self._open()
            .execute("SELECT name, position FROM engine.cursors WHERE name = ANY(%s)", (list(self._sagas),))
            .fetchall()
        )
        return {name: found.get(name, 0) for name in self._sagas}

    def _open(self) -> psycopg.Connection[Any]:
        if self._connection is None or self._connection.closed:
            self._connection = self._database.connect(Role.READER)
        return self._connection
