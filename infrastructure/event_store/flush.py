"""One flush: the transaction that gives versions and positions to a group of commands."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

import msgspec
import psycopg

from domain.kernel.ports import Clock
from domain.kernel.scope import CommandScope
from domain.kernel.write import Append, Write, Written

from .arrays import bigint, bigints, byteas, instant, texts, uuids, uuids_of_bytes
from .decide import Accepted, Key, LogState, decide, key_of
from .exchange import Answer, Exchange
from .known import NOTHING_YET, Known

T = TypeVar("T")
CHANNEL = "village_log"
LOG_LOCK = 4_151_948_265
"""Key of the advisory lock that orders all writers of one log (advisory locks are per database)."""

INSERTED_AT_ONCE = 256
"""Facts of one INSERT."""

_NIL = UUID(int=0)

_BEGIN = "BEGIN"
_LOCK = "SELECT pg_advisory_xact_lock($1), extract(epoch FROM clock_timestamp() - statement_timestamp())::float8"
_LOCK_AND_NOTIFY = f"{_LOCK}, pg_notify($2, $3)"
_HEAD = "SELECT position, recorded_at, event_id FROM log.events ORDER BY position DESC LIMIT 1"
VERSIONS = (
    "SELECT s, coalesce((SELECT version FROM log.events WHERE stream = s ORDER BY version DESC LIMIT 1), 0) "
    "FROM unnest({}::uuid[]) AS s"
)
_VERSIONS_IN_ORDER = (
    "SELECT coalesce((SELECT version FROM log.events WHERE stream = s ORDER BY version DESC LIMIT 1), 0) "
    "FROM unnest($1::uuid[]) WITH ORDINALITY AS given (s, n) ORDER BY n"
)
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
    f" command_id, correlation_id, nullif(causation_id, '{_NIL}'), actor, $2::timestamptz FROM "
)
_FACTS = (
    "unnest($3::uuid[], $4::bigint[], $5::text[], $6::bytea[], $7::uuid[]{}) WITH ORDINALITY"
    " AS given (stream, version, topic, state, event_id{}, ordinality)"
)
_SCOPE = "command_id, correlation_id, causation_id, actor"
_OF_SEVERAL = _INSERT + _FACTS.format(", $8::uuid[], $9::uuid[], $10::uuid[], $11::text[]", f", {_SCOPE}")
_OF_ONE = f"{_INSERT}(VALUES ($8::uuid, $9::uuid, $10::uuid, $11::text)) AS asked ({_SCOPE}), {_FACTS.format('', '')}"
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

# The same, of a flush that was decided on a guess: where the log is not as guessed, nothing is written.
_NEWEST_IS = " WHERE $%d::uuid = (SELECT event_id FROM log.events ORDER BY position DESC LIMIT 1)"
_AS_GUESSED = (
    f"{_NEWEST_IS % 12} AND NOT EXISTS (SELECT FROM unnest($13::uuid[], $14::bigint[]) AS guessed (s, v)"
    " WHERE v <> coalesce((SELECT version FROM log.events WHERE stream = s ORDER BY version DESC LIMIT 1), 0))"
    " AND NOT EXISTS (SELECT FROM unnest($15::text[], $16::text[], $17::text[]) AS asked (a, m, k)"
    " WHERE (SELECT true FROM log.commands WHERE actor = a AND method = m AND key = k LIMIT 1))"
)
_INSERTS = {
    (True, False): _OF_ONE,
    (True, True): _OF_ONE + _AS_GUESSED,
    (False, False): _OF_SEVERAL,
    (False, True): _OF_SEVERAL + _AS_GUESSED,
}
"""By whether the facts are all of one command, and whether the flush was decided on a guess."""
_REMEMBER_GUESSED = _REMEMBER + _NEWEST_IS % 8


class Flush:
    """Decides a group of writes in order of arrival under the log's lock.

    Mostly in one round trip: what the decisions need is known since the last flush of this process, and the INSERT
    checks that it is still so. Else it is read in one round trip, decided in Python, and written in another. Either
    way the INSERT cannot conflict, so a conflict fails only its own command. `run` may be called again after a lost
    connection.
    """

    def __init__(
        self, writes: list[Write], clock: Clock, began_at: int | None = None, known: Known | None = None
    ) -> None:
        self.writes = writes
        self.clock = clock
        self.lock_wait_s = 0.0
        self.began_at = began_at  # the head that a commit of unknown fate would stand above
        self.known = Known() if known is None else known

    def run(self, connection: psycopg.Connection[Any]) -> list[Written | Exception]:
        """The outcome of each write, in order. Nothing stands unless this returns.

        Raises:
            psycopg.Error: the transaction failed as a whole; after a lost connection its commit may stand.
        """
        if self.began_at is None and (written := self._on_a_guess(connection)) is not None:
            return written
        state, newest = self._read(connection)
        outcomes = [decide(write, state) for write in self.writes]
        self.began_at = state.began_at if self.began_at is None else self.began_at
        self._write(Exchange(connection), state, [found for found in outcomes if isinstance(found, Accepted)], newest)
        return [outcome.written if isinstance(outcome, Accepted) else outcome for outcome in outcomes]

    def _on_a_guess(self, connection: psycopg.Connection[Any]) -> list[Written | Exception] | None:
        """Decide before the lock is taken. None when that was in vain: nothing is written, and all is to be read."""
        guessed = self.known.guess(self.writes, partial(_topics_since, connection))
        if guessed is None:
            return None
        state, unsure = guessed
        guess = _guess_of(self.known.newest, unsure, self._keys)
        outcomes = [decide(write, state) for write in self.writes]
        accepted = [outcome for outcome in outcomes if isinstance(outcome, Accepted)]
        if len(accepted) < len(outcomes) or state.position == state.began_at:
            return None  # a refusal is decided on what is read
        self.began_at = state.began_at
        writing = Exchange(connection)
        lock = writing.ask(_LOCK_AND_NOTIFY, bigint(LOG_LOCK), CHANNEL.encode(), b"%d" % state.position)
        if not self._write(writing, state, accepted, self.known.newest, guess):
            self.began_at = None
            self.known.doubt()
            return None
        self.lock_wait_s = lock.number(1)
        return [outcome.written for outcome in accepted]

    def _write(
        self,
        writing: Exchange,
        state: LogState,
        accepted: list[Accepted],
        newest: bytes | None,
        guess: tuple[bytes, ...] = (),
    ) -> bool:
        """Whether it was written: what is guessed may be wrong."""
        now = max(self.clock(), state.recorded_at)
        inserted = _append(writing, accepted, state.began_at, instant(now), guess)
        found = newest
        newest = next((append.event_id for outcome in reversed(accepted) for append in outcome.appends[-1:]), newest)
        _remember(writing, accepted, instant(now), newest if guess else None)
        _move(writing, accepted, instant(now))
        if not guess:
            writing.ask("COMMIT")
        writing.end()
        if guess and not inserted.count:
            return False
        self.known.learn(state, found, newest, now)
        return True

    @property
    def _keys(self) -> list[Key]:
        return [key_of(write) for write in self.writes if write.scope.idempotency_key is not None]

    def _read(self, connection: psycopg.Connection[Any]) -> tuple[LogState, bytes | None]:
        """The log under its lock, and the id of its newest fact."""
        streams = {append.stream.int for write in self.writes for append in write.appends}
        streams.update(*(write.reads for write in self.writes))
        names = {move.name for write in self.writes for move in write.cursors}
        keys = self._keys
        reading = Exchange(connection)
        reading.ask(_BEGIN)
        lock = reading.ask(_LOCK, bigint(LOG_LOCK))
        head = reading.ask(_HEAD)
        versions = reading.ask(_VERSIONS_IN_ORDER, _numbered(streams)) if streams else Answer()
        cursors = reading.ask(_CURSORS, texts(names)) if names else Answer()
        given = reading.ask(_GIVEN, *_columns(keys)) if keys else Answer()
        standing = Answer() if self.began_at is None else reading.ask(_STANDING, bigint(self.began_at))
        reading.end()
        self.lock_wait_s = lock.number(1)
        position, recorded_at, newest = next(iter(head.rows()), (0, NOTHING_YET, None))
        state = LogState(
            began_at=position,
            position=position,
            recorded_at=recorded_at,
            streams={stream: version for stream, (version,) in zip(streams, versions.rows(), strict=True)},
            cursors={(name, partition): at for name, partition, at in cursors.rows()},
            given={(a, m, k): (h, answer) for a, m, k, h, answer in given.rows()},
            standing={event_id.bytes: (at, version) for event_id, at, version in standing.rows()},
            retried=self.began_at is not None,
            stored_topics_since=partial(_topics_since, connection),
        )
        return state, newest and newest.bytes


def _topics_since(connection: psycopg.Connection[Any], stream: UUID, version: int) -> list[str]:
    asking = Exchange(connection)
    topics = asking.ask(_TOPICS_SINCE, uuids([stream]), bigint(version))
    asking.end()
    return [topic for (topic,) in topics.rows()]


def _guess_of(newest: bytes | None, unsure: Mapping[int, int], keys: Sequence[Key]) -> tuple[bytes, ...]:
    """What an INSERT checks: the newest fact, the versions that do not follow from it, and that no key was answered."""
    assert newest is not None
    return (newest, _numbered(unsure), bigints(unsure.values()), *_columns(keys))


def _numbered(streams: Iterable[int]) -> bytes:
    """uuid[], of the numbers of streams"""
    return uuids_of_bytes([number.to_bytes(16, "big") for number in streams])


def _columns(keys: Sequence[Key]) -> tuple[bytes, ...]:
    return tuple(texts(key[part] for key in keys) for part in range(3))


def _append(writing: Exchange, accepted: list[Accepted], base: int, now: bytes, guess: tuple[bytes, ...]) -> Answer:
    """Insert in parts: while the server inserts one, the next is packed. Answers what became of the first.

    Of a guess, a part is written only behind the one before it.
    """
    appends = [append for outcome in accepted for append in outcome.appends]
    versions = [version for outcome in accepted for version in outcome.versions]
    scopes = [append.scope or outcome.write.scope for outcome in accepted for append in outcome.appends]
    inserted = Answer()
    for first in range(0, len(appends), INSERTED_AT_ONCE):
        part = slice(first, first + INSERTED_AT_ONCE)
        if first:
            writing.send()
            guess = guess and _guess_of(appends[first - 1].event_id, {}, ())
        answer = _insert(writing, appends[part], versions[part], scopes[part], base + first, now, guess)
        if not first:
            inserted = answer
    if appends and not guess:
        writing.ask(_NOTIFY, CHANNEL.encode(), b"%d" % (base + len(appends)))
    return inserted


def _insert(
    writing: Exchange,
    appends: list[Append],
    versions: list[int],
    scopes: list[CommandScope],
    base: int,
    now: bytes,
    guess: tuple[bytes, ...],
) -> Answer:
    given, times = _runs(scopes)
    is_one = len(given) == 1
    return writing.ask(
        _INSERTS[is_one, bool(guess)],
        bigint(base),
        now,
        _numbered([append.stream.int for append in appends]),
        bigints(versions),
        texts([append.topic for append in appends]),
        byteas([append.state for append in appends]),
        uuids_of_bytes([append.event_id for append in appends]),
        *(_envelope(given[0]) if is_one else _envelopes(given, times)),
        *guess,
    )


def _envelope(scope: CommandScope) -> tuple[bytes, ...]:
    ids = (scope.command_id, scope.correlation_id, scope.causation_id or _NIL)
    return (*(named.bytes for named in ids), scope.actor.encode())


def _envelopes(scopes: Sequence[CommandScope], times: Sequence[int]) -> tuple[bytes, ...]:
    return (
        uuids([scope.command_id for scope in scopes], times),
        uuids([scope.correlation_id for scope in scopes], times),
        uuids([scope.causation_id or _NIL for scope in scopes], times),
        texts([scope.actor for scope in scopes], times),
    )


def _remember(writing: Exchange, accepted: list[Accepted], now: bytes, guessed: bytes | None) -> None:
    """Keep the answers to idempotency keys; what was guessed, only behind its own newest fact."""
    keyed = [outcome for outcome in accepted if outcome.write.scope.idempotency_key is not None]
    if keyed:
        receipts = [outcome.written.receipt for outcome in keyed]
        writing.ask(
            _REMEMBER if guessed is None else _REMEMBER_GUESSED,
            now,
            *_columns([key_of(outcome.write) for outcome in keyed]),
            byteas(outcome.write.scope.body_hash for outcome in keyed),
            byteas(map(msgspec.json.encode, receipts)),
            bigints(receipt.position for receipt in receipts),
            *(() if guessed is None else (guessed,)),
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
