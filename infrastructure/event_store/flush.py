"""One flush: the transaction that gives versions and positions to a group of commands."""

import time
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import psycopg

from domain.kernel.ports import Clock
from domain.kernel.scope import CommandScope
from domain.kernel.write import Write, Written

from .arrays import Bigints, Byteas, Texts, Uuids
from .decide import Accepted, LogState, decide, key_of

CHANNEL = "village_log"
LOG_LOCK = 4_151_948_265
"""Key of the advisory lock that orders all writers of one log (advisory locks are per database)."""

_NIL = UUID(int=0)

# Whatever the database's default is: a snapshot taken before the lock would not show what was written meanwhile.
_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
_LOCK = "SELECT pg_advisory_xact_lock(%s)"
_HEAD = "SELECT position, recorded_at FROM log.events ORDER BY position DESC LIMIT 1"
VERSIONS = (
    "SELECT s, coalesce((SELECT version FROM log.events WHERE stream = s ORDER BY version DESC LIMIT 1), 0) "
    "FROM unnest(%b::uuid[]) AS s"
)
_TOPICS_SINCE = "SELECT topic FROM log.events WHERE stream = %b AND version > %b"
_CURSORS = "SELECT name, partition, position FROM engine.cursors WHERE name = ANY(%b::text[]) FOR UPDATE"
_GIVEN = (
    "SELECT actor, method, key, body_hash, answer FROM log.commands "
    "WHERE (actor, method, key) IN (SELECT * FROM unnest(%b::text[], %b::text[], %b::text[]))"
)
_STANDING = "SELECT command_id, event_id, position, version FROM log.events WHERE position > %b ORDER BY position"
_INSERT = (
    "INSERT INTO log.events (position, stream, version, topic, state, event_id, command_id, correlation_id,"
    " causation_id, actor, recorded_at) SELECT %b::bigint + ordinality, stream, version, topic, state, event_id,"
    f" command_id, correlation_id, nullif(causation_id, '{_NIL}'), actor, %b::timestamptz FROM unnest(%b::uuid[],"
    " %b::bigint[], %b::text[], %b::bytea[], %b::uuid[], %b::uuid[], %b::uuid[], %b::uuid[], %b::text[])"
    " WITH ORDINALITY AS given (stream, version, topic, state, event_id, command_id, correlation_id, causation_id,"
    " actor, ordinality)"
)
_COLUMNS = (Uuids, Bigints, Texts, Byteas, Uuids, Uuids, Uuids, Uuids, Texts)
_REMEMBER = (
    "INSERT INTO log.commands (actor, method, key, body_hash, answer, position, recorded_at)"
    " SELECT actor, method, key, body_hash, answer, position, %b::timestamptz FROM unnest(%b::text[], %b::text[],"
    " %b::text[], %b::bytea[], %b::bytea[], %b::bigint[]) AS given (actor, method, key, body_hash, answer, position)"
)
_MOVE = (
    "INSERT INTO engine.cursors AS c (name, partition, position, updated_at)"
    " SELECT name, partition, position, %b::timestamptz FROM unnest(%b::text[], %b::int[], %b::bigint[])"
    " AS given (name, partition, position)"
    " ON CONFLICT (name, partition) DO UPDATE SET position = excluded.position, updated_at = excluded.updated_at"
)
_NOTIFY = "SELECT pg_notify(%s, %s)"


class Flush:
    """Decides a group of writes in order of arrival under the log's lock.

    What the decisions need is read in one round trip, decided in Python, and written in another: the INSERT cannot
    conflict, so a conflict fails only its own command. `run` may be called again after a lost connection.
    """

    def __init__(self, writes: list[Write], clock: Clock, began_at: int | None = None) -> None:
        self.writes = writes
        self.clock = clock
        self.lock_wait_s = 0.0
        self.began_at = began_at  # the head that a commit of unknown fate would stand above

    def run(self, connection: psycopg.Connection[Any]) -> list[Written | Exception]:
        """The outcome of each write, in order. Nothing stands unless this returns.

        Raises:
            psycopg.Error: the transaction failed as a whole; after a lost connection its commit may stand.
        """
        started = time.perf_counter()
        with connection.pipeline() as pipeline:
            connection.execute(_BEGIN)
            connection.execute(_LOCK, (LOG_LOCK,))
            state = self._read(connection, pipeline)
            self.lock_wait_s = state.locked_at - started
            now = max(self.clock(), state.recorded_at)
            outcomes = [decide(write, state) for write in self.writes]
            self.began_at = state.began_at if self.began_at is None else self.began_at
            accepted = [outcome for outcome in outcomes if isinstance(outcome, Accepted)]
            self._append(connection, accepted, state.began_at, now)
            self._remember(connection, accepted, now)
            self._move(connection, accepted, now)
            connection.execute("COMMIT")
        return [outcome.written if isinstance(outcome, Accepted) else outcome for outcome in outcomes]

    def _read(self, connection: psycopg.Connection[Any], pipeline: psycopg.Pipeline) -> LogState:
        streams = list(
            {append.stream for write in self.writes for append in write.appends}.union(
                *(write.reads for write in self.writes)
            )
        )
        names = list({move.name for write in self.writes for move in write.cursors})
        keys = [key_of(write) for write in self.writes if write.scope.idempotency_key is not None]
        ask = _Asker(connection)
        head = ask(_HEAD)
        versions = ask(VERSIONS, Uuids(streams)) if streams else None
        cursors = ask(_CURSORS, names) if names else None
        given = ask(_GIVEN, *(list(column) for column in zip(*keys, strict=True))) if keys else None
        standing = None if self.began_at is None else ask(_STANDING, self.began_at)
        # After a Sync the server counts our silence as idle in transaction, and ends it when we are stopped here.
        pipeline.sync()
        locked_at = time.perf_counter()
        position, recorded_at = head.fetchone() or (0, datetime.fromisoformat("1970-01-01T00:00:00+00:00"))
        return LogState(
            began_at=position,
            position=position,
            recorded_at=recorded_at,
            locked_at=locked_at,
            heads=dict(versions.fetchall()) if versions else {},
            cursors={(name, partition): at for name, partition, at in cursors.fetchall()} if cursors else {},
            given={(a, m, k): (h, answer) for a, m, k, h, answer in given.fetchall()} if given else {},
            standing=_by_command(standing.fetchall()) if standing else {},
            retried=self.began_at is not None,
            topics_since=lambda stream, version: [topic for (topic,) in ask(_TOPICS_SINCE, stream, version).fetchall()],
        )

    def _append(self, connection: psycopg.Connection[Any], accepted: list[Accepted], base: int, now: datetime) -> None:
        rows = [
            (append.stream, version, append.topic, append.state, append.event_id, *_envelope(outcome.write.scope))
            for outcome in accepted
            for append, version in outcome.kept
        ]
        if not rows:
            return
        columns = zip(_COLUMNS, zip(*rows, strict=True), strict=True)
        connection.execute(_INSERT, (base, now, *(packed(column) for packed, column in columns)), prepare=True)
        connection.execute(_NOTIFY, (CHANNEL, str(base + len(rows))), prepare=True)

    def _remember(self, connection: psycopg.Connection[Any], accepted: list[Accepted], now: datetime) -> None:
        rows = [
            (
                *key_of(outcome.write), outcome.write.scope.body_hash,
                msgspec.json.encode(outcome.written.receipt), outcome.written.receipt.position,
            )
            for outcome in accepted
            if outcome.write.scope.idempotency_key is not None
        ]  # fmt: skip
        if rows:
            connection.execute(_REMEMBER, (now, *map(list, zip(*rows, strict=True))), prepare=True)

    def _move(self, connection: psycopg.Connection[Any], accepted: list[Accepted], now: datetime) -> None:
        moves = {(move.name, move.partition): move.new for outcome in accepted for move in outcome.write.cursors}
        if moves:
            names, partitions = zip(*moves, strict=True)
            connection.execute(_MOVE, (now, list(names), list(partitions), list(moves.values())), prepare=True)


class _Asker:
    """Sends binary reads down a pipeline."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def __call__(self, statement: str, *parameters: Any) -> psycopg.Cursor[Any]:
        return self._connection.cursor(binary=True).execute(statement, parameters, prepare=True)


def _envelope(scope: CommandScope) -> tuple[UUID, UUID, UUID, str]:
    return scope.command_id, scope.correlation_id, scope.causation_id or _NIL, scope.actor


def _by_command(rows: list[tuple[UUID, UUID, int, int]]) -> dict[UUID, dict[UUID, tuple[int, int]]]:
    standing: dict[UUID, dict[UUID, tuple[int, int]]] = {}
    for command_id, event_id, position, version in rows:
        standing.setdefault(command_id, {})[event_id] = (position, version)
    return standing
