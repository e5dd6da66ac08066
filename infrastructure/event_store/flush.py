"""One flush: the transaction that gives versions and positions to a group of commands."""

import time
from collections.abc import Iterable
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

import msgspec
import psycopg

from domain.kernel.ports import Clock
from domain.kernel.scope import CommandScope
from domain.kernel.write import Append, Write, Written

from .arrays import bigint, bigints, byteas, instant, texts, uuids, uuids_of_bytes
from .decide import Accepted, LogState, Stream, decide, key_of
from .exchange import Answer, Exchange

T = TypeVar("T")
CHANNEL = "village_log"
LOG_LOCK = 4_151_948_265
"""Key of the advisory lock that orders all writers of one log (advisory locks are per database)."""

INSERTED_AT_ONCE = 256

_NIL = UUID(int=0)

# Whatever the database's default is: a snapshot taken before the lock would not show what was written meanwhile.
_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
_LOCK = "SELECT pg_advisory_xact_lock($1)"
_HEAD = "SELECT position, recorded_at FROM log.events ORDER BY position DESC LIMIT 1"
VERSIONS = (
    "SELECT s, coalesce((SELECT version FROM log.events WHERE stream = s ORDER BY version DESC LIMIT 1), 0) "
    "FROM unnest({}::uuid[]) AS s"
)
_VERSIONS = VERSIONS.format("$1")
_TOPICS_SINCE = "SELECT topic FROM log.events WHERE stream = ANY($1::uuid[]) AND version > $2::bigint"
_CURSORS = "SELECT name, partition, position FROM engine.cursors WHERE name = ANY($1::text[]) FOR UPDATE"
_GIVEN = (
    "SELECT actor, method, key, body_hash, answer FROM log.commands "
    "WHERE (actor, method, key) IN (SELECT * FROM unnest($1::text[], $2::text[], $3::text[]))"
)
_STANDING = "SELECT event_id, position, version FROM log.events WHERE position > $1::bigint ORDER BY position"
_INSERT = (
    "INSERT INTO log.events (position, stream, version, topic, state, event_id, command_id, correlation_id,"
    " causation_id, actor, recorded_at) SELECT $1::bigint + ordinality, stream, version, topic, state, event_id,"
    f" command_id, correlation_id, nullif(causation_id, '{_NIL}'), actor, $2::timestamptz FROM unnest($3::uuid[],"
    " $4::bigint[], $5::text[], $6::bytea[], $7::uuid[], $8::uuid[], $9::uuid[], $10::uuid[], $11::text[])"
    " WITH ORDINALITY AS given (stream, version, topic, state, event_id, command_id, correlation_id, causation_id,"
    " actor, ordinality)"
)
_REMEMBER = (
    "INSERT INTO log.commands (actor, method, key, body_hash, answer, position, recorded_at)"
    " SELECT actor, method, key, body_hash, answer, position, $1::timestamptz FROM unnest($2::text[], $3::text[],"
    " $4::text[], $5::bytea[], $6::bytea[], $7::bigint[]) AS given (actor, method, key, body_hash, answer, position)"
)
_MOVE = (
    "INSERT INTO engine.cursors AS c (name, partition, position, updated_at)"
    " SELECT name, partition, position, $1::timestamptz FROM unnest($2::text[], $3::bigint[], $4::bigint[])"
    " AS given (name, partition, position)"
    " ON CONFLICT (name, partition) DO UPDATE SET position = excluded.position, updated_at = excluded.updated_at"
)
_NOTIFY = "SELECT pg_notify($1, $2)"


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
        state = self._read(connection)
        self.lock_wait_s = state.locked_at - started
        now = max(self.clock(), state.recorded_at)
        outcomes = [decide(write, state) for write in self.writes]
        self.began_at = state.began_at if self.began_at is None else self.began_at
        accepted = [outcome for outcome in outcomes if isinstance(outcome, Accepted)]
        writing = Exchange(connection)
        _append(writing, accepted, state.began_at, instant(now))
        _remember(writing, accepted, instant(now))
        _move(writing, accepted, instant(now))
        writing.ask("COMMIT")
        writing.end()
        return [outcome.written if isinstance(outcome, Accepted) else outcome for outcome in outcomes]

    def _read(self, connection: psycopg.Connection[Any]) -> LogState:
        streams = {append.stream for write in self.writes for append in write.appends}.union(
            *(write.reads for write in self.writes)
        )
        names = {move.name for write in self.writes for move in write.cursors}
        keys = [key_of(write) for write in self.writes if write.scope.idempotency_key is not None]
        reading = Exchange(connection)
        reading.ask(_BEGIN)
        reading.ask(_LOCK, bigint(LOG_LOCK))
        head = reading.ask(_HEAD)
        versions = reading.ask(_VERSIONS, uuids(streams)) if streams else Answer()
        cursors = reading.ask(_CURSORS, texts(names)) if names else Answer()
        given = reading.ask(_GIVEN, *map(texts, zip(*keys, strict=True))) if keys else Answer()
        standing = Answer() if self.began_at is None else reading.ask(_STANDING, bigint(self.began_at))
        reading.end()
        locked_at = time.perf_counter()
        position, recorded_at = next(iter(head.rows()), (0, datetime.fromisoformat("1970-01-01T00:00:00+00:00")))

        def topics_since(stream: UUID, version: int) -> list[str]:
            asking = Exchange(connection)
            topics = asking.ask(_TOPICS_SINCE, uuids([stream]), bigint(version))
            asking.end()
            return [topic for (topic,) in topics.rows()]

        return LogState(
            began_at=position,
            position=position,
            recorded_at=recorded_at,
            locked_at=locked_at,
            streams={stream: Stream(version) for stream, version in versions.rows()},
            cursors={(name, partition): at for name, partition, at in cursors.rows()},
            given={(a, m, k): (h, answer) for a, m, k, h, answer in given.rows()},
            standing={event_id.bytes: (at, version) for event_id, at, version in standing.rows()},
            retried=self.began_at is not None,
            topics_since=topics_since,
        )


def _append(writing: Exchange, accepted: list[Accepted], base: int, now: bytes) -> None:
    """Insert in parts: while the server inserts one, the next is packed."""
    appends = [append for outcome in accepted for append in outcome.appends]
    versions = [version for outcome in accepted for version in outcome.versions]
    scopes = [append.scope or outcome.write.scope for outcome in accepted for append in outcome.appends]
    for first in range(0, len(appends), INSERTED_AT_ONCE):
        part = slice(first, first + INSERTED_AT_ONCE)
        _insert(writing, appends[part], versions[part], scopes[part], base + first, now)
        writing.send()
    if appends:
        writing.ask(_NOTIFY, CHANNEL.encode(), b"%d" % (base + len(appends)))


def _insert(
    writing: Exchange, appends: list[Append], versions: list[int], scopes: list[CommandScope], base: int, now: bytes
) -> None:
    streams, lengths = _runs(append.stream for append in appends)
    given, times = _runs(scopes)
    writing.ask(
        _INSERT,
        bigint(base),
        now,
        uuids(streams, lengths),
        bigints(versions),
        texts([append.topic for append in appends]),
        byteas([append.state for append in appends]),
        uuids_of_bytes([append.event_id for append in appends]),
        uuids([scope.command_id for scope in given], times),
        uuids([scope.correlation_id for scope in given], times),
        uuids([scope.causation_id or _NIL for scope in given], times),
        texts([scope.actor for scope in given], times),
    )


def _remember(writing: Exchange, accepted: list[Accepted], now: bytes) -> None:
    keyed = [outcome for outcome in accepted if outcome.write.scope.idempotency_key is not None]
    if keyed:
        receipts = [outcome.written.receipt for outcome in keyed]
        writing.ask(
            _REMEMBER,
            now,
            *map(texts, zip(*(key_of(outcome.write) for outcome in keyed), strict=True)),
            byteas(outcome.write.scope.body_hash for outcome in keyed),
            byteas(map(msgspec.json.encode, receipts)),
            bigints(receipt.position for receipt in receipts),
        )


def _move(writing: Exchange, accepted: list[Accepted], now: bytes) -> None:
    moves = {(move.name, move.partition): move.new for outcome in accepted for move in outcome.write.cursors}
    if moves:
        names, partitions = zip(*moves, strict=True)
        writing.ask(_MOVE, now, texts(names), bigints(partitions), bigints(moves.values()))


def _runs(items: Iterable[T]) -> tuple[list[T], list[int]]:
    """The items in order without those that repeat the one before, and how often each is there in a row."""
    heads: list[T] = []
    times: list[int] = []
    for item in items:
        if heads and item is heads[-1]:
            times[-1] += 1
        else:
            heads.append(item)
            times.append(1)
    return heads, times
