"""The aggregate base: the library's mutable aggregate with the Decider's discipline and stored names as an API."""

import inspect
from collections.abc import Callable, Sequence
from functools import cache, wraps
from itertools import repeat
from typing import Any, ClassVar, Self, cast
from uuid import UUID

from eventsourcing.domain import Aggregate as LibraryAggregate
from eventsourcing.domain import (
    CanInitAggregate,
    CanMutateAggregate,
    CommandMethodDecorator,
    decorated_func_callers,
    event,
)
from eventsourcing.utils import register_topic

from .events import ATOMS, begun, copied, evolution_of, evolving, made
from .events import Event as AnyEvent
from .snapshot import SnapshotPolicy

__all__ = ["Aggregate", "event"]

_MARKS = frozenset({"_created_on", "_modified_on", "_pending_events", "_shared"})


class Aggregate(LibraryAggregate):
    """A consistency boundary: public methods decide and may refuse, private `@event` methods evolve and never refuse.

    Stored topics are `<context>.<Aggregate>.<Event>` whatever the module is called, so moving a file changes no
    history. The stream id always comes from the arguments (`create_id`), never from randomness.
    """

    context: ClassVar[str] = ""
    topic: ClassVar[str] = ""
    snapshots: ClassVar[SnapshotPolicy | None] = None
    _shared = False

    class Event(AnyEvent):
        pass

    def __init_subclass__(cls, *, context: str = "", **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.context = context or cls.context or _context_of(cls.__module__)
        cls.topic = f"{cls.context}.{cls.__name__}"
        register_topic(cls.topic, cls)
        for event_class in event_classes(cls):
            event_class.TOPIC = f"{cls.topic}.{event_class.__name__}"  # type: ignore[attr-defined]
            register_topic(event_class.TOPIC, event_class)  # type: ignore[attr-defined]
        for name, method in list(vars(cls).items()):
            if isinstance(method, CommandMethodDecorator) and name != "__init__":
                setattr(cls, name, _triggering(decorated_func_callers[method]))

    @classmethod
    def _create(cls, event_class: type[Any], *, id: UUID | None = None, **fields: Any) -> Self:
        stream = id or cls.create_id(**{name: fields[name] for name in _parameters(cls.create_id)})
        opened = cls.fact(event_class, stream, **fields)
        aggregate = cast(Self, begun(opened))
        aggregate._pending_events.append(opened)
        return aggregate

    def trigger_event(self, event_class: type[Any], **fields: Any) -> None:
        """Append a fact and evolve by it.

        The fact keeps copies of its containers: neither the aggregate nor its caller can rewrite it afterwards.
        """
        self._trigger(event_class, fields)

    def _trigger(self, event_class: type[Any], fields: dict[str, Any]) -> None:
        fact = made(event_class, self._id, self._version + 1, fields)
        self.evolve_by(fact)
        self._version += 1
        self._modified_on = fact.timestamp
        self._pending_events.append(fact)

    def evolve_by(self, fact: Any) -> None:
        """Evolve by an event, in containers that no copy shares; the version stays as it is."""
        evolve, values_of, is_flat, reached = evolving(fact.__class__)
        if self._shared and not self._spares_containers(reached):
            held = self.__dict__
            for name in [name for name, value in held.items() if type(value) not in ATOMS]:
                if name != "_pending_events":
                    held[name] = copied(held[name])
            self._shared = False
        values = values_of(fact.__dict__)
        evolve(self, *(values if is_flat else map(copied, values)))

    def _spares_containers(self, reached: frozenset[str] | None) -> bool:
        """Whether these names reach plain values of this aggregate only, as those of a credit do of a wallet."""
        held = self.__dict__
        return reached is not None and ATOMS.issuperset(map(type, map(held.get, reached, repeat(held))))

    def collect_events(self) -> Sequence[CanMutateAggregate[UUID]]:
        """The pending events, which are pending no longer."""
        collected, self._pending_events = self._pending_events, []
        return collected

    @classmethod
    def fact(cls, event_class: type[Any], stream: UUID, **fields: Any) -> Any:
        """An event built without loading its aggregate: for facts that commute, and for openers."""
        fact = made(event_class, stream, 1, fields)
        if _opens(fact.__class__):
            fact.__dict__["originator_topic"] = cls.topic
        return fact

    def clone(self) -> Self:
        """An independent copy. The two share their containers until one of them evolves, which copies them first."""
        self._shared = True
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin._pending_events = self._pending_events.copy()
        return twin

    def state(self) -> dict[str, Any]:
        """What replaying the stream must give: everything but wall-clock marks and events not yet recorded."""
        return {name: value for name, value in self.__dict__.items() if name not in _MARKS}

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


def _triggering(event_class: Any) -> Callable[..., None]:
    """What an `@event` method does when it is called: the library's own binds its arguments anew each time."""
    evolve, names = evolution_of(event_class)

    @wraps(evolve)
    def trigger(self: Aggregate, *args: Any, **fields: Any) -> None:
        if args:
            fields.update(zip(names, args, strict=False))
        self._trigger(event_class, fields)

    return trigger


@cache
def _opens(event_class: Any) -> bool:
    return issubclass(event_class, CanInitAggregate)


@cache
def _parameters(create_id: Any) -> tuple[str, ...]:
    return tuple(inspect.signature(create_id).parameters)


@cache
def _context_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if parts[0] == "domain" and len(parts) > 2 else parts[-1]
