"""The aggregate base: the library's mutable aggregate with the Decider's discipline and stored names as an API."""

import copy
import dataclasses
import inspect
from datetime import datetime, timedelta
from enum import Enum
from functools import cache
from typing import Any, ClassVar, Self, cast
from uuid import UUID

import msgspec
from eventsourcing.domain import (
    Aggregate as LibraryAggregate,
)
from eventsourcing.domain import (
    AggregateCreated,
    AggregateEvent,
    CanInitAggregate,
    CanMutateAggregate,
    event,
)
from eventsourcing.utils import register_topic

from .ports import system_clock
from .scope import current_scope
from .snapshot import SnapshotPolicy

__all__ = ["Aggregate", "Created", "Event", "Value", "event"]

_ATOMS = frozenset({str, int, bool, float, bytes, UUID, datetime, type(None)})
_IMMUTABLE = (str, int, bool, float, bytes, UUID, datetime, timedelta, Enum, type(None), tuple, frozenset)


class Value(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A value inside an event or an aggregate: immutable, compared by content, decoded strictly."""


class Event(AggregateEvent):
    """A fact about one aggregate. Past tense, nested in its aggregate, frozen.

    `commutes` marks facts that never refuse and whose order does not matter (credits, evidence): they are
    appended at ANY version, and an exact append does not conflict with them. `closes` marks facts after which
    their stream is over: it may be archived.
    """

    commutes: ClassVar[bool] = False
    closes: ClassVar[bool] = False
    class_version: ClassVar[int] = 1

    @staticmethod
    def create_timestamp() -> datetime:
        """The time of the running command; the envelope's `recorded_at` is what is stored."""
        running = current_scope()
        return running.now if running else system_clock()


class Created(Event, AggregateCreated):
    """The fact that opens a stream."""


class Aggregate(LibraryAggregate):
    """A consistency boundary: public methods decide and may refuse, private `@event` methods evolve and never refuse.

    Stored topics are `<context>.<Aggregate>.<Event>` whatever the module is called, so moving a file changes no
    history. The stream id always comes from the arguments (`create_id`), never from randomness.
    """

    context: ClassVar[str] = ""
    topic: ClassVar[str] = ""
    snapshots: ClassVar[SnapshotPolicy | None] = None

    class Event(Event):
        pass

    def __init_subclass__(cls, *, context: str = "", **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.context = context or cls.context or _context_of(cls.__module__)
        cls.topic = f"{cls.context}.{cls.__name__}"
        register_topic(cls.topic, cls)
        for event_class in event_classes(cls):
            event_class.TOPIC = f"{cls.topic}.{event_class.__name__}"  # type: ignore[attr-defined]
            register_topic(event_class.TOPIC, event_class)  # type: ignore[attr-defined]

    @classmethod
    def _create(cls, event_class: type[Any], *, id: UUID | None = None, **fields: Any) -> Self:
        stream = id or cls.create_id(**{name: fields[name] for name in _parameters(cls.create_id)})
        opened = cls.fact(event_class, stream, **fields)
        aggregate = cast(Self, opened.mutate(None))
        aggregate.pending_events.append(detached(opened))
        return aggregate

    def trigger_event(self, event_class: type[Any], **fields: Any) -> None:
        """Append a fact and evolve by it.

        The fact keeps copies of its containers: neither the aggregate nor its caller can rewrite it afterwards.
        """
        super().trigger_event(event_class, **{name: copied(value) for name, value in fields.items()})
        self._pending_events[-1] = detached(self._pending_events[-1])

    @classmethod
    def fact(cls, event_class: type[Any], stream: UUID, **fields: Any) -> Any:
        """An event built without loading its aggregate: for facts that commute, and for openers."""
        if issubclass(event_class, CanInitAggregate):
            fields["originator_topic"] = cls.topic
        return event_class(
            originator_id=stream,
            originator_version=1,
            timestamp=event_class.create_timestamp(),
            **{name: copied(value) for name, value in fields.items()},
        )

    def clone(self) -> Self:
        """An independent copy: containers are copied, the immutable values inside them are shared."""
        twin = object.__new__(type(self))
        state = twin.__dict__
        state.update(self.__dict__)
        for name, value in self.__dict__.items():
            if type(value) not in _ATOMS:
                state[name] = copied(value)
        return twin

    def state(self) -> dict[str, Any]:
        """What replaying the stream must give: everything but wall-clock marks and events not yet recorded."""
        left_out = ("_created_on", "_modified_on", "_pending_events")
        return {name: value for name, value in self.__dict__.items() if name not in left_out}

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.state() == other.state()

    __hash__ = None  # type: ignore[assignment]


# The library would give every aggregate a `Created` event of its own that nobody triggers.
del Aggregate.Created


def event_classes(aggregate: type[LibraryAggregate]) -> list[type[CanMutateAggregate[UUID]]]:
    """The recordable event classes of an aggregate, without the base class `Event`."""
    return [
        value
        for name, value in vars(aggregate).items()
        if isinstance(value, type) and issubclass(value, CanMutateAggregate) and name not in ("Event",)
    ]


@cache
def _parameters(create_id: Any) -> tuple[str, ...]:
    return tuple(inspect.signature(create_id).parameters)


@cache
def _context_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if parts[0] == "domain" and len(parts) > 2 else parts[-1]


def copied(value: Any) -> Any:
    """A value that shares no container with the given one."""
    kind: Any = type(value)
    if _is_shared(kind):
        return value
    if kind is dict:
        return {key: copied(item) for key, item in value.items()}
    if kind is list:
        return [copied(item) for item in value]
    if kind is set:
        return set(value)
    return copy.deepcopy(value)


def detached(fact: Any) -> Any:
    """The fact, with containers of its own."""
    if all(map(_is_shared, map(type, vars(fact).values()))):
        return fact
    twin = object.__new__(type(fact))
    twin.__dict__.update({name: copied(value) for name, value in vars(fact).items()})
    return twin


@cache
def _is_shared(kind: type) -> bool:
    """Whether copies may share a value of this type, for nobody changes it."""
    if issubclass(kind, _IMMUTABLE):
        return True
    if issubclass(kind, msgspec.Struct):
        return bool(kind.__struct_config__.frozen)
    return dataclasses.is_dataclass(kind) and bool(kind.__dataclass_params__.frozen)  # type: ignore[attr-defined]
