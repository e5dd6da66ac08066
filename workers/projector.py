"""The projector: one scan of the log feeds every read model, each exactly once and each on its own."""

import threading
from collections.abc import Sequence
from typing import Any

import psycopg
import structlog

from domain.kernel.fact import Fact
from infrastructure.database import Database, Role
from infrastructure.event_store.listener import Listener, Pacer
from infrastructure.event_store.reader import Batch, LogReader
from projections.fold import CursorTaken, apply
from projections.rows import ReadModel

from .pump import Failures, run_forever

POLL_S = 0.25
READ_CHANNEL = "village_read"
"""Notified whenever read models have moved on, so that a reader waiting for a position wakes."""

_BEGIN_CURSORS = (
    "INSERT INTO engine.cursors (name, version) SELECT * FROM unnest(%s::text[], %s::int[]) ON CONFLICT DO NOTHING"
)
_CURSORS = "SELECT name, position, version FROM engine.cursors WHERE name = ANY(%s)"
_PASS_OVER = (
    "UPDATE engine.cursors AS c SET position = %s, updated_at = now() FROM unnest(%s::text[], %s::bigint[])"
    " AS given (name, position) WHERE c.name = given.name AND c.position = given.position"
)
_log = structlog.get_logger()


class Projector:
    """Folds batches of facts into read models.

    A model that fails is held back with a growing pause while the others go on. A cursor moves by
    compare-and-set in the transaction of its rows, so a second projector, or a zombie, does no harm.
    """

    def __init__(self, database: Database, models: Sequence[ReadModel[Any]], *, batch_size: int = 1_000) -> None:
        self._database = database
        self._models = {model.name: model for model in models}
        self._wanted = frozenset[str]().union(*(model.topics for model in models))
        self._batch_size = batch_size
        self._failures = Failures()
        self._connection: psycopg.Connection[Any] | None = None

    def run(self, stopping: threading.Event) -> None:
        """Project until told to stop; LISTENs before the first pull, polls as the floor."""
        listener = Listener(lambda: self._database.connect(Role.PROJECTOR)).start()
        pacer = Pacer(listener, POLL_S)
        try:
            listener.wait_until_listening()
            run_forever("projector", self.step, pacer, stopping)
        finally:
            pacer.close()
            listener.stop()
            self.close()

    def run_once(self) -> int:
        """Project everything that stands now; answers the position every healthy model has reached."""
        while self.step():
            pass
        return min(self._positions().values(), default=0)

    def step(self) -> bool:
        """Project one batch; whether anything was there."""
        positions = self._positions()
        ready = {name: at for name, at in positions.items() if not self._failures.is_held(name)}
        if not ready:
            return False
        batch = LogReader(self._open()).after(min(ready.values()), self._batch_size)
        if not batch.records:
            return False
        facts = batch.facts(self._wanted)
        idle = {name: at for name, at in ready.items() if not self._project(name, at, batch, facts)}
        self._pass_over(idle, batch)
        return True

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _project(self, name: str, cursor: int, batch: Batch, facts: Sequence[Fact]) -> bool:
        """Fold what concerns this model; False when nothing did and its cursor is only to be moved."""
        model = self._models[name]
        own = [fact for fact in facts if fact.position > cursor and fact.topic in model.topics]
        if not own:
            return cursor >= batch.end
        try:
            apply(self._open(), model, own, cursor, batch.end)
            self._failures.succeeded(name)
        except CursorTaken:
            _log.info("another projector was first", model=name)
        except psycopg.OperationalError:
            raise
        except Exception as error:
            self._failures.failed(name, error)
        return True

    def _pass_over(self, idle: dict[str, int], batch: Batch) -> None:
        connection = self._open()
        with connection.transaction():
            if idle:
                connection.execute(_PASS_OVER, (batch.end, list(idle), list(idle.values())), prepare=True)
            connection.execute("SELECT pg_notify(%s, %s)", (READ_CHANNEL, str(batch.end)))

    def _positions(self) -> dict[str, int]:
        """Where each model stands; a model whose version has changed begins anew."""
        connection = self._open()
        names = list(self._models)
        found = connection.execute(_CURSORS, (names,), prepare=True).fetchall()
        if len(found) < len(names):
            versions = [self._models[name].version for name in names]
            connection.execute(_BEGIN_CURSORS, (names, versions))
            found = connection.execute(_CURSORS, (names,)).fetchall()
        for name, _, version in found:
            if version != self._models[name].version:
                self._begin_anew(connection, self._models[name])
                return self._positions()
        return {name: position for name, position, _ in found}

    def _begin_anew(self, connection: psycopg.Connection[Any], model: ReadModel[Any]) -> None:
        with connection.transaction():
            connection.execute(
                "UPDATE engine.cursors SET position = 0, version = %s WHERE name = %s", (model.version, model.name)
            )
            connection.execute(f"DELETE FROM {model.table}".encode())

    def _open(self) -> psycopg.Connection[Any]:
        if self._connection is None or self._connection.closed:
            self._connection = self._database.connect(Role.PROJECTOR)
            # Rows and cursor stand or fall together: after a crash the projection goes on from where both are.
            self._connection.execute("SET synchronous_commit = off")
        return self._connection
