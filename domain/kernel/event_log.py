"""The event log: the one place where commands load aggregates and record facts."""

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, TypeVar, cast
from uuid import UUID

import msgspec
from eventsourcing.application import Application
from eventsourcing.domain import Snapshot

from .aggregate import Aggregate
from .cache import AggregateCache
from .deciding import Attempt, attempt, decide_again, running_attempt
from .errors import (
    AggregateNotFound,
    CommandTooLarge,
    Conflict,
    LogClosed,
    LogOverloaded,
    LogUnavailable,
    PositionAhead,
    Refusal,
)
from .evolve import rehydrate
from .loading import loaded, loaded_all
from .personal import SubjectKeys
from .recording import appends_of, remember
from .scope import next_command, scope, within
from .turns import Turns
from .unit import Decided, Held, Recordable, Unit, collected
from .write import MAX_EVENTS_PER_COMMAND, CursorMove, Receipt, Recorder, Write

A = TypeVar("A", bound=Aggregate)
T = TypeVar("T")

_unit: ContextVar[Unit | None] = ContextVar("unit", default=None)
_method: ContextVar[str] = ContextVar("method", default="record")


class EventLog(Application[UUID]):
    """One append-only log for all contexts, on the library's Application.

    A command loads copies of aggregates, lets them decide and records them once. Loading answers from a cache of
    this process; a conflict, or a refusal that was decided on what is no longer true, is decided again on fresh state.
    """

    name = "village"
    snapshot_class = Snapshot

    def __init__(self, env: Mapping[str, str], *, cache_capacity: int = 4_096) -> None:
        super().__init__(dict(env))
        self.cache = AggregateCache(cache_capacity)
        self.subject_keys: SubjectKeys | None = None
        self._turns = Turns()

    @property
    def _recorder(self) -> Recorder:
        return cast(Recorder, self.recorder)

    def head(self) -> int:
        """The position of the newest fact, 0 when there is none."""
        return self.recorder.max_notification_id() or 0

    def find(self, kind: type[A], stream: UUID, *, new: bool = False) -> A | None:
        """A copy of an aggregate, or None when its stream does not exist.

        Args:
            new: most likely it does not. A command then takes an aggregate that its process does not know for absent,
                unread; where that proves wrong as it records or refuses, it is decided again on what is read.

        Raises:
            AggregateNotFound: the stream exists and is of another type.
        """
        unit = _unit.get()
        if unit is None:
            found = self._found(kind, stream, new)
        elif (held := unit.held(stream.int)) is not None:
            found = held.clone()
        else:
            found = unit.moved_on(stream.int, self._found(kind, stream, new))
        return None if found is None else _of(kind, found)

    def _found(self, kind: type[Aggregate], stream: UUID, new: bool) -> Aggregate | None:
        running = attempt.get()
        if running is None:
            return loaded(self._recorder, kind, stream)
        found = None if running.fresh else self.cache.get(stream)
        if found is not None or (new and not running.fresh):
            running.used_cache = True
        elif (found := loaded(self._recorder, kind, stream)) is not None:
            self.cache.put(found)
        running.reads.setdefault(stream.int, 0 if found is None else found.version)
        return found

    def find_all(self, kind: type[A], streams: Sequence[UUID]) -> list[A | None]:
        """What `find` answers of each of these streams, which differ; what has to be read is read together."""
        unit = _unit.get()
        if unit is None:
            found = self._found_all(kind, streams)
        else:
            held = [unit.held(stream.int) for stream in streams]
            read = iter(
                self._found_all(kind, [stream for stream, one in zip(streams, held, strict=True) if one is None])
            )
            found = [
                unit.moved_on(stream.int, next(read)) if one is None else one.clone()
                for stream, one in zip(streams, held, strict=True)
            ]
        return [None if one is None else _of(kind, one) for one in found]

    def _found_all(self, kind: type[Aggregate], streams: Sequence[UUID]) -> list[Aggregate | None]:
        running = attempt.get()
        if running is None:
            return loaded_all(self._recorder, kind, streams)
        found: list[Aggregate | None] = [None] * len(streams) if running.fresh else self.cache.get_all(streams)
        missing = [at for at, one in enumerate(found) if one is None]
        running.used_cache |= len(missing) < len(found)
        for at, one in zip(missing, loaded_all(self._recorder, kind, [streams[at] for at in missing]), strict=True):
            if one is not None:
                self.cache.put(one)
            found[at] = one
        reads = running.reads
        for stream, one in zip(streams, found, strict=True):
            reads.setdefault(stream.int, 0 if one is None else one._version)
        return found

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
        loaded = rehydrate(stream, self.recorder.select_events(stream, lte=version))
        if loaded is None:
            raise AggregateNotFound(f"no {kind.__name__} {stream} at version {version}")
        return _of(kind, loaded)

    def at_position(self, kind: type[A], stream: UUID, position: int) -> A:
        """An aggregate as it was after the fact at a position.

        Raises:
            AggregateNotFound: it did not exist then. PositionAhead: the log has not come so far.
        """
        if position > (head := self.head()):
            raise PositionAhead(f"position {position}; the newest fact is at {head}")
        return self.at_version(kind, stream, self._recorder.version_at(stream, position))

    def record(self, *things: Recordable, id: UUID | None = None, **extra: Any) -> Receipt:
        """Record what the aggregates decided, and facts that commute, as one command.

        Args:
            things: aggregates with pending events, facts made by `Aggregate.fact`, and openers.
            id: what the receipt names; by default the first aggregate.
            extra: what else the answer tells (JSON values); it is recorded with the idempotency key.

        Raises:
            Conflict: a stream moved on. AlreadyExists: a stream to be opened is open. LogUnavailable, LogOverloaded.
        """
        facts, held = collected(things)
        # As an idempotency key would give it back, so that the first answer and the repeated one are equal.
        receipt = Receipt(0, id or next((first.id for first in held.values()), None), _as_read_back(extra))
        if (unit := _unit.get()) is not None:
            unit.add(facts, held, receipt)
            return receipt
        if attempt.get() is None:
            with within(next_command()):
                return self._write(_method.get(), facts, held, receipt, ())
        return self._write(_method.get(), facts, held, receipt, ())

    def execute(self, method: str, decide: Callable[[], T]) -> T | Receipt:
        """Run a command: first answer of its idempotency key, else decide, else decide once more on fresh state."""
        if _unit.get() is not None:
            return self._within_unit(decide)
        assert attempt.get() is None, "commands run inside another one as `log.transact(...)`"
        with within(next_command()) as asked:
            if asked.idempotency_key is not None and (given := self._recorder.answer_of(asked, method)) is not None:
                return given
            token = _method.set(method)
            try:
                return decide_again(decide, self._stands, self._turns)
            except Refusal as refusal:
                if asked.idempotency_key is None or isinstance(refusal, LogUnavailable | LogOverloaded | LogClosed):
                    raise
                # The same command may have been recorded meanwhile, and be the reason why this one was refused.
                given = self._recorder.answer_of(asked, method)
                if given is None:
                    raise
                return given
            finally:
                _method.reset(token)

    def transact(
        self,
        decide: Callable[[], object],
        *,
        cursors: Sequence[CursorMove] = (),
        method: str = "transact",
        tries: int | None = None,
    ) -> Receipt:
        """Run several commands as one transaction, with the cursors that must move with it (a saga's step).

        Each may run under a scope of its own. Inside a command it is the command's one record.

        Args:
            tries: how often it is decided before a conflict is raised; by default 50 times.

        Raises:
            CursorMoved: another process did this work. Conflict: a stream kept moving; nothing was recorded.
        """
        assert _unit.get() is None, "a unit of work holds no other"
        if attempt.get() is not None:
            return self._in_unit(decide, tuple(cursors), _method.get())
        with within(next_command()):
            return decide_again(lambda: self._in_unit(decide, tuple(cursors), method), self._stands, self._turns, tries)

    def tentatively(self, decide: Callable[[], object]) -> None:
        """Run commands of a unit of work that may be refused: what they had decided before is dropped then.

        Raises:
            Refusal: as raised; the unit is as it was before.
        """
        below = _unit.get()
        assert below is not None, "only a unit of work goes on after a refusal"
        over = Unit(below)
        token = _unit.set(over)
        try:
            decide()
        finally:
            _unit.reset(token)
        over.merge()

    def _in_unit(self, decide: Callable[[], object], cursors: tuple[CursorMove, ...], method: str) -> Receipt:
        unit = Unit()
        token = _unit.set(unit)
        try:
            decide()
        finally:
            _unit.reset(token)
        running = running_attempt()
        if running.refused_on_cache and not self._stands(running):
            raise Conflict("a refusal was decided on a cached copy")
        return self._write(method, unit.facts, unit.aggregates, unit.receipt or Receipt(0), cursors)

    def _within_unit(self, decide: Callable[[], T]) -> T:
        """A command of a unit. A caller that swallows its refusal must not have been told of it by a stale copy."""
        try:
            return decide()
        except Refusal:
            running = running_attempt()
            running.refused_on_cache |= running.used_cache
            raise

    def _stands(self, running: Attempt) -> bool:
        """Whether a refusal was decided on what is true: all it read was so at one moment, and still is."""
        if not running.used_cache and len(running.reads) < 2:
            return True
        found = self._recorder.versions_of([UUID(int=number) for number in running.reads])
        return all(running.reads[stream.int] == version for stream, version in found.items())

    def _write(
        self,
        method: str,
        facts: Sequence[Decided],
        held: Held,
        receipt: Receipt,
        cursors: tuple[CursorMove, ...],
    ) -> Receipt:
        running = attempt.get() or Attempt(fresh=True)
        assert not running.recorded, "a command records once: give everything to one record()"
        running.recorded = True
        if len(facts) > MAX_EVENTS_PER_COMMAND:
            raise CommandTooLarge(f"{len(facts)} events, at most {MAX_EVENTS_PER_COMMAND}")
        asked = scope()
        appends = appends_of(facts, asked, self.subject_keys)
        write = Write(asked, method, appends, receipt.id, receipt.extra, cursors, running.reads, running.used_cache)
        try:
            written = self._recorder.write(write)
        except Conflict as conflict:
            lost = {append.stream.int for append in appends}.union(running.reads)
            for number in lost if conflict.stream is None else {conflict.stream.int}:
                self.cache.drop(UUID(int=number))
            raise
        remember(self.cache, held, facts, appends, written)
        return written.receipt


def _of(kind: type[A], aggregate: Aggregate) -> A:
    if type(aggregate) is not kind and not isinstance(aggregate, kind):
        raise AggregateNotFound(f"no {kind.__name__} {aggregate.id}")
    return aggregate


def _as_read_back(extra: dict[str, Any]) -> dict[str, Any]:
    return cast(dict[str, Any], msgspec.json.decode(msgspec.json.encode(extra))) if extra else extra
