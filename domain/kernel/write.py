"""What a command hands to the recorder: events, expectations, cursor moves and the answer, all or nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID

import msgspec
from eventsourcing.persistence import StoredEvent

from .scope import CommandScope
from .snapshot import StoredSnapshot

MAX_EVENTS_PER_COMMAND = 4_096


class Append(msgspec.Struct, frozen=True, gc=False):
    """One event to append.

    `version` is the exact version it was decided at, or None for ANY (facts that commute). `event_id` are the 16
    bytes of its UUID. An `opener` is written only when its stream does not exist yet. `scope` is that of its command,
    where a write holds several.
    """

    stream: UUID
    version: int | None
    topic: str
    state: bytes
    event_id: bytes
    opener: bool = False
    scope: CommandScope | None = None


@dataclass(frozen=True, slots=True)
class CursorMove:
    """Compare-and-set of a consumer's cursor: it moves only if it still stands at `old`."""

    name: str
    partition: int
    old: int
    new: int


class Receipt(msgspec.Struct, frozen=True):
    """A command's answer: the position a reader can wait for, the id of what was made, and what else it tells."""

    position: int
    id: UUID | None = None
    extra: dict[str, Any] = {}

    def answer(self) -> dict[str, Any]:
        """The answer as a flat JSON object."""
        return {"position": self.position, "id": None if self.id is None else str(self.id), **self.extra}


@dataclass(slots=True)
class Write:
    """The transaction of a command, or of a unit of several.

    `reads` are the versions of the streams it was decided on, by their numbers (0 for one that did not exist): it
    stands only if nothing but commuting facts has come to them since, and when it was `cached` (a copy of any age),
    nothing at all.
    """

    scope: CommandScope
    method: str
    appends: list[Append]
    id: UUID | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    cursors: tuple[CursorMove, ...] = ()
    reads: dict[int, int] = field(default_factory=dict)
    cached: bool = False


class Written(msgspec.Struct, frozen=True):
    """What became of a write. `versions` are the ones assigned (0 for an opener that was not needed);
    `replayed` says that an earlier command with the same idempotency key had given this answer.
    """

    receipt: Receipt
    versions: tuple[int, ...] = ()
    replayed: bool = False


class Recorder(Protocol):
    """The port the event log writes and reads through; infrastructure/event_store answers it."""

    def select_events(self, originator_id: UUID, *, gt: int | None = None) -> Sequence[StoredEvent]: ...

    def select_streams(self, streams: Sequence[UUID]) -> dict[int, list[StoredEvent]]: ...

    def write(self, write: Write) -> Written: ...

    def answer_of(self, scope: CommandScope, method: str) -> Receipt | None: ...

    def versions_of(self, streams: Sequence[UUID]) -> dict[UUID, int]: ...

    def version_at(self, stream: UUID, position: int) -> int: ...

    def snapshot_of(self, stream: UUID) -> StoredSnapshot | None: ...

    def keep_snapshot(self, snapshot: StoredSnapshot) -> None: ...
