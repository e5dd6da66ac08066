"""The event log: the one place where commands load aggregates and record facts."""

import functools
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, cast
from uuid import UUID, uuid5

from eventsourcing.application import Application
from eventsourcing.domain import Snapshot
from eventsourcing.persistence import StoredEvent

from .aggregate import Aggregate, Event
from .cache import AggregateCache
from .errors import AggregateNotFound, AlreadyExists, CommandTooLarge, Conflict, CursorMoved, Refusal
from .evolve import rehydrate
from .scope import scope
from .write import MAX_EVENTS_PER_COMMAND, Append, CursorMove, Receipt, Recorder, Write, Written

A = TypeVar("A", bound=Aggregate)
P = ParamSpec("P")
T = TypeVar("T")

MAX_CONFLICTS = 12
"""How often one command is decided again before its caller is told of the conflict."""


@dataclass(frozen=True, slots=True)
class Opener:
    """The fact that opens a stream, written only if the stream does not exist yet."""

    event: Event


Recordable = Aggregate | Event | Opener


@dataclass(slots=True)
class _Attempt:
    """One try at deciding a command: whether it may look into the cache, whether it did, whether it recorded."""

    fresh: bool
    used_cache: bool = False
    recorded: bool = False


@dataclass(slots=True)
class Unit:
    """A unit of work: commands called inside it are recorded together, in one transaction."""

    aggregates: dict[UUID, Aggregate] = field(default_factory=dict)
    facts: list[Any] = field(default_factory=list)
    receipt: Receipt | None = None


_attempt: ContextVar[_Attempt | None] = ContextVar("attempt", default=None)
_unit: ContextVar[Unit | None] = ContextVar("unit", default=None)


class EventLog(Application[UUID]):
    """One append-only log for all contexts, on the library's Application.

    A command loads copies of aggregates, lets them decide and records them once. Loading answers from a cache of
    this process; a conflict, or a refusal that was decided on a cached copy, is decided once more on fresh state.
    """

    name = "village"
    snapshot_class = Snapshot

    def __init__(self, env: Mapping[str, str], *, cache_capacity: int = 4_096) -> None:
        super().__init__(dict(env))
        self.cache = AggregateCache(cache_capacity)

    @property
    def _recorder(self) -> Recorder:
        return cast(Recorder, self.recorder)

    def head(self) -> int:
        """The position of the newest fact, 0 when there is none."""
        return self.recorder.max_notification_id() or 0

    def find(self, kind: type[A], stream: UUID) -> A | None:
        """A copy of an aggregate, or None when its stream does not exist.

        Raises:
            AggregateNotFound: the stream exists and is of another type.
        """
        unit = _unit.get()
        if unit is not None and stream in unit.aggregates:
            return _of(kind, unit.aggregates[stream].clone())
        attempt = _attempt.get()
        if attempt is not None and not attempt.fresh and (cached := self.cache.get(stream)) is not None:
            attempt.used_cache = True
            return _of(kind, cached)
        loaded = self._rehydrated(stream, None)
        if loaded is None:
            return None
        if attempt is not None:
            self.cache.put(loaded)
        return _of(kind, loaded)

    def load(self, kind: type[A], stream: UUID) -> A:
        """A copy of an aggregate.

        Raises:
            AggregateNotFound: no stream of this type has this id.
        """
        found = self.find(kind, stream)
        if found is None:
            raise AggregateNotFound(f"no {kind.__name__} {stream}")
        return found

    def at_version(self, kind: type[A], stream: UUID, version: int) -> A:
        """An aggregate as it was at a past version (from the log, never the cache)."""
        loaded = self._rehydrated(stream, version)
        if loaded is None:
            raise AggregateNotFound(f"no {kind.__name__} {stream} at version {version}")
        return _of(kind, loaded)

    def record(self, *things: Recordable, id: UUID | None = None, **extra: Any) -> Receipt:
        """Record what the aggregates decided, and facts that commute, as one command.

        Args:
            things: aggregates with pending events, facts made by `Aggregate.fact`, and openers.
            id: what the receipt names; by default the first aggregate.
            extra: what else the answer tells (JSON values); it is recorded with the idempotency key.

        Raises:
            Conflict: a stream moved on. AlreadyExists: a stream to be opened is open. LogUnavailable, LogOverloaded.
        """
        id = id or next((thing.id for thing in things if isinstance(thing, Aggregate)), None)
        held = {thing.id: thing for thing in things if isinstance(thing, Aggregate)}
        unit = _unit.get()
        if unit is not None:
            unit.facts.extend(_collected(things))
            unit.aggregates.update(held)
            unit.receipt = Receipt(0, id, extra)
            return unit.receipt
        attempt = _attempt.get()
        if attempt is not None:
            assert not attempt.recorded, "a command records once: give everything to one record()"
            attempt.recorded = True
        return self._write(_method.get(), _collected(things), held, Receipt(0, id, extra), ())

    def execute(self, method: str, decide: Callable[[], T]) -> T | Receipt:
        """Run a command: first answer of its idempotency key, else decide, else decide once more on fresh state."""
        if _unit.get() is not None:
            return decide()
        asked = scope()
        if asked.idempotency_key is not None and (given := self._recorder.answer_of(asked, method)) is not None:
            return given
        token = _method.set(method)
        try:
            return self._decide(decide)
        finally:
            _method.reset(token)

    def transact(
        self, decide: Callable[[], object], *, cursors: Sequence[CursorMove] = (), method: str = "transact"
    ) -> Receipt:
        """Run several commands as one transaction, with the cursors that must move with it (a saga's step).

        Raises:
            CursorMoved: another process did this work. Conflict: a stream kept moving; nothing was recorded.
        """
        return self._decide(lambda: self._in_unit(decide, tuple(cursors), method))

    def _in_unit(self, decide: Callable[[], object], cursors: tuple[CursorMove, ...], method: str) -> Receipt:
        unit = Unit()
        token = _unit.set(unit)
        try:
            decide()
        finally:
            _unit.reset(token)
        return self._write(method, unit.facts, unit.aggregates, unit.receipt or Receipt(0), cursors)

    def _decide(self, decide: Callable[[], T]) -> T:
        fresh = False
        for tried in range(MAX_CONFLICTS):
            attempt = _Attempt(fresh)
            token = _attempt.set(attempt)
            try:
                return decide()
            except CursorMoved:
                raise
            except AlreadyExists:
                if tried:
                    raise
            except Conflict:
                if tried == MAX_CONFLICTS - 1:
                    raise
                time.sleep(random.uniform(0, 0.002 * (tried + 1)))
            except Refusal:
                if not attempt.used_cache:
                    raise
            finally:
                _attempt.reset(token)
            fresh = True
        raise AssertionError("every pass returns or raises by the last one")

    def _write(
        self,
        method: str,
        facts: Sequence[Any],
        held: Mapping[UUID, Aggregate],
        receipt: Receipt,
        cursors: tuple[CursorMove, ...],
    ) -> Receipt:
        if len(facts) > MAX_EVENTS_PER_COMMAND:
            raise CommandTooLarge(f"{len(facts)} events, at most {MAX_EVENTS_PER_COMMAND}")
        exact = _exact_streams(facts)
        appends = [self._append(fact, index, exact) for index, fact in enumerate(facts)]
        try:
            written = self._recorder.write(Write(scope(), method, appends, receipt.id, receipt.extra, cursors))
        except Conflict:
            for append in appends:
                self.cache.drop(append.stream)
            raise
        self._remember(held, appends, written)
        return written.receipt

    def _append(self, fact: Event | Opener, index: int, exact: set[UUID]) -> Append:
        opener = isinstance(fact, Opener)
        event = fact.event if isinstance(fact, Opener) else fact
        stored = self.mapper.to_stored_event(event)
        stream = event.originator_id
        return Append(
            stream=stream,
            version=event.originator_version if stream in exact and not opener else None,
            topic=stored.topic,
            state=stored.state,
            event_id=uuid5(scope().command_id, str(index)),
            opener=opener,
        )

    def _remember(self, held: Mapping[UUID, Aggregate], appends: Sequence[Append], written: Written) -> None:
        """Keep what was recorded as decided; forget streams others have appended to in between."""
        newest = {append.stream: version for append, version in zip(appends, written.versions, strict=False)}
        for stream in {append.stream for append in appends}:
            aggregate = held.get(stream)
            if aggregate is not None and newest.get(stream) == aggregate.version:
                self.cache.put(aggregate)
            else:
                self.cache.drop(stream)

    def _rehydrated(self, stream: UUID, version: int | None) -> Aggregate | None:
        rows: Sequence[StoredEvent] = self.recorder.select_events(stream, lte=version)
        return rehydrate(stream, rows)


_method: ContextVar[str] = ContextVar("method", default="record")


class _HasLog(Protocol):
    @property
    def log(self) -> EventLog: ...


S = TypeVar("S", bound=_HasLog)


def command(method: Callable[Concatenate[S, P], Receipt]) -> Callable[Concatenate[S, P], Receipt]:
    """Marks a service method as a command: keyword-only, idempotent by key, decided again on a conflict."""

    @functools.wraps(method)
    def run(self: S, /, *args: P.args, **kwargs: P.kwargs) -> Receipt:
        return self.log.execute(method.__qualname__, lambda: method(self, *args, **kwargs))

    return run


def _of(kind: type[A], aggregate: Aggregate) -> A:
    if not isinstance(aggregate, kind):
        raise AggregateNotFound(f"no {kind.__name__} {aggregate.id}")
    return aggregate


def _collected(things: Sequence[Recordable]) -> list[Any]:
    """Aggregates replaced by their pending events, in the order given."""
    collected: list[Any] = []
    for thing in things:
        collected.extend(thing.collect_events() if isinstance(thing, Aggregate) else [thing])
    return collected


def _exact_streams(things: Sequence[Any]) -> set[UUID]:
    """Streams with at least one fact that does not commute: those are appended at the exact version."""
    return {thing.originator_id for thing in things if not isinstance(thing, Opener) and not type(thing).commutes}
