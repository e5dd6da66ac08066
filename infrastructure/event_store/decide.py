"""What becomes of a write, given what is read under the log's lock. No I/O but one rare question."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

import msgspec
from eventsourcing.utils import TopicError, resolve_topic

from domain.kernel.errors import (
    AggregateNotFound,
    AlreadyExists,
    Conflict,
    CursorMoved,
    IdempotencyKeyReused,
    Refusal,
)
from domain.kernel.mapper import codec_of
from domain.kernel.scope import CommandScope
from domain.kernel.write import Append, CursorMove, Receipt, Write, Written

Key = tuple[str, str, str]


@dataclass(slots=True)
class Stream:
    """A stream under the lock: the version it is stored at, and the topics that accepted writes append to it."""

    stored: int = 0
    topics: list[str] = field(default_factory=list)

    @property
    def version(self) -> int:
        return self.stored + len(self.topics)


@dataclass(slots=True)
class LogState:
    """The log as it stands under the lock, moved on by every write that is accepted."""

    began_at: int
    position: int
    recorded_at: datetime
    streams: dict[int, Stream]
    """Every stream that the writes append to or have read, by its number: a UUID hashes slowly."""
    cursors: dict[tuple[str, int], int]
    given: dict[Key, tuple[bytes, bytes]]
    standing: dict[bytes, tuple[int, int]]
    """Position and version by event id, of a flush whose commit had lost its answer."""
    retried: bool
    topics_since: Callable[[UUID, int], list[str]]
    """Stored topics of a stream after a version; asked only when an exact append finds the stream ahead."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A write that stands: what to insert, at which versions, and what to answer."""

    write: Write
    appends: list[Append]
    versions: list[int]
    written: Written


def decide(write: Write, state: LogState) -> Accepted | Written | Refusal:
    """Accept a write and move the state on, or answer why not (or what was answered before)."""
    try:
        if (before := _answered_before(write, state)) is not None:
            return before
        _check_cursors(write, state)
        _check_reads(write, state)
        versions, added = _versions(write, state)
    except Refusal as refusal:
        return refusal
    for stream, topics in added:
        stream.topics += topics
    kept = [version for version in versions if version]
    state.position += len(kept)
    state.cursors.update({(move.name, move.partition): move.new for move in write.cursors})
    receipt = Receipt(state.position, write.id, write.extra)
    if write.scope.idempotency_key is not None:
        state.given[key_of(write)] = (write.scope.body_hash, msgspec.json.encode(receipt))
    appends = [append for append, version in zip(write.appends, versions, strict=True) if version]
    return Accepted(write, appends, kept, Written(receipt, tuple(versions)))


def key_of(write: Write) -> Key:
    """The idempotency key, scoped by principal and method."""
    return (write.scope.actor, write.method, write.scope.idempotency_key or "")


def given_answer(scope: CommandScope, body_hash: bytes, answer: bytes) -> Receipt:
    """A recorded answer, if the request is the one it was given to.

    Raises:
        IdempotencyKeyReused: it is another request.
    """
    if bytes(body_hash) != scope.body_hash:
        raise IdempotencyKeyReused(f"idempotency key {scope.idempotency_key!r} came with another body before")
    return msgspec.json.decode(bytes(answer), type=Receipt)


def _answered_before(write: Write, state: LogState) -> Written | None:
    found = [state.standing.get(append.event_id, (0, 0)) for append in write.appends] if state.standing else []
    if any(position for position, _ in found):
        versions = tuple(version for _, version in found)
        position = max(position for position, _ in found)
        return Written(Receipt(position, write.id, write.extra), versions)
    if write.scope.idempotency_key is not None and (held := state.given.get(key_of(write))) is not None:
        return Written(given_answer(write.scope, *held), replayed=True)
    if state.retried and write.cursors and not write.appends and all(_stands(move, state) for move in write.cursors):
        return Written(Receipt(state.position, write.id, write.extra))
    return None


def _stands(move: CursorMove, state: LogState) -> bool:
    return state.cursors.get((move.name, move.partition), 0) == move.new


def _check_cursors(write: Write, state: LogState) -> None:
    for move in write.cursors:
        found = state.cursors.get((move.name, move.partition), 0)
        if found != move.old:
            raise CursorMoved(f"cursor {move.name}/{move.partition} stands at {found}, not at {move.old}")


def _check_reads(write: Write, state: LogState) -> None:
    for stream, version in write.reads.items():
        head = state.streams[stream.int].version
        if version != head and (write.cached or not _holds(stream, version, head, state)):
            raise Conflict(f"stream {stream} was read at version {version}, and is at {head}", stream)


def _versions(write: Write, state: LogState) -> tuple[list[int], Collection[tuple[Stream, list[str]]]]:
    """The version each append gets, 0 for an opener whose stream exists; and the topics that come to each stream."""
    added: dict[int, tuple[Stream, list[str]]] = {}
    expected: set[int] = set()
    versions = []
    stream: UUID | None = None
    for append in write.appends:
        if append.stream is not stream:
            stream = append.stream
            found = state.streams[stream.int]
            before, (_, topics) = found.version, added.setdefault(id(found), (found, []))
            told = id(found) in expected
        head = before + len(topics)
        if append.opener and head:
            versions.append(0)
            continue
        if append.version is not None and not told:
            # The first exact append tells at which version its aggregate stood; an opener of this command is in it,
            # commuting facts of this command are not.
            told = True
            expected.add(id(found))
            _check_version(stream, append.version - 1, before or min(head, 1), state)
        if not head and not codec_of(append.topic).opens:
            raise AggregateNotFound(f"{append.topic}: stream {stream} does not exist")
        topics.append(append.topic)
        versions.append(head + 1)
    return versions, added.values()


def _check_version(stream: UUID, expected: int, head: int, state: LogState) -> None:
    if expected == 0 and head:
        raise AlreadyExists(f"stream {stream} exists")
    if not _holds(stream, expected, head, state):
        raise Conflict(f"stream {stream} is at version {head}, not at {expected}", stream)


def _holds(stream: UUID, version: int, head: int, state: LogState) -> bool:
    """Whether what was decided at a version still holds: nothing, or only facts that commute, came after it."""
    return version == head or (version < head and all(map(commutes, _topics_since(stream, version, state))))


def _topics_since(stream: UUID, version: int, state: LogState) -> list[str]:
    found = state.streams[stream.int]
    own = found.topics[max(0, version - found.stored) :]
    return own + state.topics_since(stream, version) if version < found.stored else own


def commutes(topic: str) -> bool:
    """Whether events of this topic may be passed by an exact append; unknown ones may not."""
    try:
        return bool(resolve_topic(topic).commutes)
    except (TopicError, AttributeError):
        return False
