"""An event log in memory, for tests of decisions: what may be appended is decided as ever, without a server."""

import threading
from collections.abc import Sequence
from datetime import datetime
from typing import Any, ClassVar, NoReturn
from uuid import UUID

import msgspec
from eventsourcing.persistence import (
    AggregateRecorder,
    ApplicationRecorder,
    InfrastructureFactory,
    ProcessRecorder,
    StoredEvent,
    TrackingRecorder,
)

from domain.kernel import EventLog, Fact
from domain.kernel.mapper import decode_event
from domain.kernel.personal import SubjectKeys
from domain.kernel.ports import Clock
from domain.kernel.scope import CommandScope
from domain.kernel.snapshot import StoredSnapshot
from domain.kernel.write import Append, Receipt, Write, Written
from infrastructure.event_store.decide import Accepted, LogState, decide, given_answer, key_of


class MemoryRecorder(ProcessRecorder):
    """Facts in a list: a fact's place in it, and one, is its position."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._facts: list[tuple[UUID, int, Append, CommandScope, datetime]] = []
        self._streams: dict[UUID, list[tuple[int, Append]]] = {}
        self._answers: dict[tuple[str, str, str], tuple[bytes, bytes]] = {}
        self._snapshots: dict[UUID, StoredSnapshot] = {}
        self._decoded: list[Fact] = []
        self.cursors: dict[tuple[str, int], int] = {}
        """Where the consumers of the log stand, by name and partition."""
        self._lock = threading.Lock()

    def write(self, write: Write) -> Written:
        with self._lock:
            outcome = decide(write, self._state(write))
            if isinstance(outcome, Exception):
                raise outcome
            if isinstance(outcome, Accepted):
                now = max([self.clock(), *(at for *_, at in self._facts[-1:])])
                for append, version in zip(outcome.appends, outcome.versions, strict=True):
                    self._facts.append((append.stream, version, append, append.scope or write.scope, now))
                    self._streams.setdefault(append.stream, []).append((len(self._facts), append))
                if write.scope.idempotency_key is not None:
                    answer = msgspec.json.encode(outcome.written.receipt)
                    self._answers[key_of(write)] = (write.scope.body_hash, answer)
                return outcome.written
            return outcome

    def answer_of(self, scope: CommandScope, method: str) -> Receipt | None:
        held = self._answers.get((scope.actor, method, scope.idempotency_key or ""))
        return None if held is None else given_answer(scope, *held)

    def versions_of(self, streams: Sequence[UUID]) -> dict[UUID, int]:
        return {stream: len(self._streams.get(stream, ())) for stream in streams}

    def version_at(self, stream: UUID, position: int) -> int:
        return sum(1 for at, _ in self._streams.get(stream, ()) if at <= position)

    def snapshot_of(self, stream: UUID) -> StoredSnapshot | None:
        return self._snapshots.get(stream)

    def keep_snapshot(self, snapshot: StoredSnapshot) -> None:
        self._snapshots[snapshot.stream] = snapshot

    def select_events(self, originator_id: UUID | str, **chosen: Any) -> Sequence[StoredEvent]:
        first, last = chosen.get("gt") or 0, chosen.get("lte")
        stream = UUID(str(originator_id))
        return [
            StoredEvent(stream, version, append.topic, append.state)
            for version, (_, append) in enumerate(self._streams.get(stream, ()), start=1)
            if first < version and (last is None or version <= last)
        ]

    def select_streams(self, streams: Sequence[UUID]) -> dict[int, list[StoredEvent]]:
        return {stream.int: list(self.select_events(stream)) for stream in streams}

    def max_notification_id(self) -> int | None:
        return len(self._facts) or None

    def facts(self, after: int) -> list[Fact]:
        """What is recorded after a position."""
        known = len(self._decoded)
        self._decoded += [
            Fact(
                position, stream, version, append.topic,
                decode_event(append.topic, stream, version, append.state, at),
                append.event_id + scope.command_id.bytes + scope.correlation_id.bytes
                + (scope.causation_id.bytes if scope.causation_id else b""),
                scope.actor, at,
            )
            for position, (stream, version, append, scope, at) in enumerate(self._facts[known:], start=known + 1)
        ]  # fmt: skip
        return self._decoded[after:]

    def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> NoReturn:
        raise NotImplementedError

    def select_notifications(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError

    def subscribe(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError

    def insert_tracking(self, tracking: Any) -> NoReturn:
        raise NotImplementedError

    def max_tracking_id(self, application_name: str) -> NoReturn:
        raise NotImplementedError

    def has_tracking_id(self, application_name: str, notification_id: int | None) -> NoReturn:
        raise NotImplementedError

    def _state(self, write: Write) -> LogState:
        streams = {append.stream for append in write.appends}.union(UUID(int=number) for number in write.reads)
        now = self.clock()
        return LogState(
            began_at=len(self._facts), position=len(self._facts), recorded_at=now,
            streams={stream.int: version for stream, version in self.versions_of(list(streams)).items()},
            cursors=self.cursors, given=dict(self._answers), standing={}, retried=False,
            stored_topics_since=lambda stream, after: [made.topic for _, made in self._streams.get(stream, ())[after:]],
        )  # fmt: skip


class MemoryFactory(InfrastructureFactory[TrackingRecorder]):
    """Named by `PERSISTENCE_MODULE`; `memory_log` says which recorder it answers."""

    recorder: ClassVar[MemoryRecorder]

    def application_recorder(self) -> ApplicationRecorder:
        return self.recorder

    def process_recorder(self) -> ProcessRecorder:
        return self.recorder

    def aggregate_recorder(self, purpose: str = "events") -> AggregateRecorder:
        return self.recorder

    def tracking_recorder(self, tracking_recorder_class: Any = None) -> NoReturn:
        raise NotImplementedError


def memory_log(recorder: MemoryRecorder, subject_keys: SubjectKeys | None = None) -> EventLog:
    """The event log of one process on a recorder, which several may share."""
    MemoryFactory.recorder = recorder
    log = EventLog(
        {"PERSISTENCE_MODULE": "tests.memory:MemoryFactory", "MAPPER_TOPIC": "domain.kernel.mapper:StrictMapper"}
    )
    log.subject_keys = subject_keys
    return log
