"""What becomes of a write, given what is read under the log's lock. No I/O but one rare question."""

from collections.abc import Callable, Sequence
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


class Accepted(msgspec.Struct, frozen=True):
    """A write that stands: what to insert, at which versions, and what to answer."""

    write: Write
    appends: Sequence[Append]
    versions: Sequence[int]
    written: Written


@dataclass(slots=True)
class LogState:
    """The log as it stands under the lock, moved on by every write that is accepted."""

    began_at: int
    position: int
    recorded_at: datetime
    streams: dict[int, int]
    """Versions of all streams that the writes append to or have read, by their numbers: a UUID hashes slowly."""
    cursors: dict[tuple[str, int], int]
    given: dict[Key, tuple[bytes, bytes]]
    standing: dict[bytes, tuple[int, int]]
    """Position and version by event id, of a flush whose commit had lost its answer."""
    retried: bool
    stored_topics_since: Callable[[UUID, int], list[str]]
    """Stored topics of a stream after a version; asked only when an exact append finds the stream ahead."""
    _accepted: list[Accepted] = field(default_factory=list)
    _topics: dict[int, list[tuple[int, str]]] = field(default_factory=dict)

    def move_on(self, accepted: Accepted, heads: dict[int, int]) -> None:
        """Take a write for written, which moves its streams to these versions."""
        self._accepted.append(accepted)
        self.streams.update(heads)
        self.position += len(accepted.appends)
        self.cursors.update({(move.name, move.partition): move.new for move in accepted.write.cursors})

    def topics_since(self, stream: UUID, version: int) -> list[str]:
        """Topics of a stream after a version, of what is stored and of what is accepted, in no order."""
        for accepted in self._accepted:  # seldom asked, so it is indexed only now
            for append, at in zip(accepted.appends, accepted.versions, strict=True):
                self._topics.setdefault(append.stream.int, []).append((at, append.topic))
        self._accepted.clear()
        own = self._topics.get(stream.int, [])
        stored = own[0][0] - 1 if own else self.streams[stream.int]
        topics = [topic for at, topic in own if at > version]
        return topics + self.stored_topics_since(stream, version) if version < stored else topics


def decide(write: Write, state: LogState) -> Accepted | Written | Refusal:
    """Accept a write and move the state on, or answer why not (or what was answered before)."""
    try:
        if (before := _answered_before(write, state)) is not None:
            return before
        _check_cursors(write, state)
        _check_reads(write, state)
        versions, heads = _versions(write, state)
    except Refusal as refusal:
        return refusal
    kept = [version for version in versions if version]
    receipt = Receipt(state.position + len(kept), write.id, write.extra)
    if write.scope.idempotency_key is not None:
        state.given[key_of(write)] = (write.scope.body_hash, msgspec.json.encode(receipt))
    appends = write.appends
    if len(kept) < len(versions):
        appends = [append for append, version in zip(appends, versions, strict=True) if version]
    accepted = Accepted(write, appends, kept, Written(receipt, tuple(versions)))
    state.move_on(accepted, heads)
    return accepted


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
    for number, version in write.reads.items():
        head = state.streams[number]
        if version != head and (write.cached or not _holds(UUID(int=number), version, head, state)):
            raise Conflict(
                f"stream {UUID(int=number)} was read at version {version}, and is at {head}", UUID(int=number)
            )


def _versions(write: Write, state: LogState) -> tuple[list[int], dict[int, int]]:
    """The version each append gets, 0 for an opener whose stream exists; and the versions its streams come to."""
    heads: dict[int, int] = {}
    told: set[int] = set()
    versions = []
    for append in write.appends:
        number = append.stream.int
        before = state.streams[number]
        head = heads.get(number, before)
        if append.opener and head:
            versions.append(0)
            continue
        if append.version is not None and number not in told:
            # The first exact append tells at which version its aggregate stood; an opener of this command is in it,
            # commuting facts of this command are not.
            told.add(number)
            _check_version(append.stream, append.version - 1, before or min(head, 1), state)
        if not head and not codec_of(append.topic).opens:
            raise AggregateNotFound(f"{append.topic}: stream {append.stream} does not exist")
        heads[number] = head + 1
        versions.append(head + 1)
    return versions, heads


def _check_version(stream: UUID, expected: int, head: int, state: LogState) -> None:
    if expected == head:
        return
    if expected == 0:
        raise AlreadyExists(f"stream {stream} exists")
    if not _holds(stream, expected, head, state):
        raise Conflict(f"stream {stream} is at version {head}, not at {expected}", stream)


def _holds(stream: UUID, version: int, head: int, state: LogState) -> bool:
    """Whether what was decided at a version still holds: nothing, or only facts that commute, came after it."""
    return version == head or (version < head and all(map(commutes, state.topics_since(stream, version))))


def commutes(topic: str) -> bool:
    """Whether events of this topic may be passed by an exact append; unknown ones may not."""
    try:
        return bool(resolve_topic(topic).commutes)
    except (TopicError, AttributeError):
        return False
