"""Events: facts of one aggregate, how they are made, and how an aggregate begins with and evolves by them."""

import copy
import dataclasses
import inspect
import typing
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from enum import Enum
from functools import cache
from operator import itemgetter
from types import CodeType, UnionType
from typing import Any, ClassVar, NamedTuple
from uuid import UUID

import msgspec
from eventsourcing.domain import AggregateCreated, AggregateEvent, decorated_funcs
from eventsourcing.utils import resolve_topic

from .scope import present

ATOMS: frozenset[type] = frozenset({str, int, bool, float, bytes, UUID, datetime, type(None)})
_IMMUTABLE = (str, int, bool, float, bytes, UUID, datetime, timedelta, Enum, type(None), tuple, frozenset)
_ENVELOPE = frozenset({"originator_id", "originator_version", "originator_topic", "timestamp"})


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

    create_timestamp = staticmethod(present)
    """The time of the running command; the envelope's `recorded_at` is what is stored."""


class Created(Event, AggregateCreated):
    """The fact that opens a stream."""


def made(kind: Any, stream: UUID, version: int, fields: dict[str, Any]) -> Any:
    """A new event, with containers of its own: what its class's `__init__` makes, at a fifth of its cost.

    Args:
        fields: the event may keep this dict as its own.

    Raises:
        TypeError: these are not the fields of the class.
    """
    names, is_flat = _fields_of(kind)
    if fields.keys() != names:
        raise TypeError(f"{kind.__qualname__} has the fields {sorted(names)}, not {sorted(fields)}")
    values = fields if is_flat else {name: copied(value) for name, value in fields.items()}
    values["originator_id"] = stream
    values["originator_version"] = version
    values["timestamp"] = present()
    fact = object.__new__(kind)
    object.__setattr__(fact, "__dict__", values)
    return fact


def begun(fact: Any) -> Any:
    """The aggregate that an opening fact begins, as the library's `mutate(None)` makes it."""
    kind: Any = resolve_topic(fact.originator_topic)
    aggregate = object.__new__(kind)
    aggregate.__base_init__(fact.originator_id, fact.originator_version, fact.timestamp)
    values, names = fact.__dict__, _shared_names(kind.__init__, fact.__class__)
    kind.__init__(aggregate, **{name: copied(values[name]) for name in names})
    return aggregate


@cache
def evolution_of(kind: Any) -> tuple[Callable[..., Any], tuple[str, ...]]:
    """The body of the `@event` method of an event class, and the fields it takes, in its order.

    An event without one leaves the state as it is.
    """
    evolve: Any = decorated_funcs.get(kind, _unchanged)
    return evolve, _shared_names(evolve, kind)


class Evolution(NamedTuple):
    """How aggregates evolve by the events of a class."""

    evolve: Callable[..., None]
    values_of: Callable[[dict[str, Any]], tuple[Any, ...]]
    """Takes what `evolve` wants out of an event's fields."""
    is_flat: bool
    """Whether there are no containers in the event."""
    reached: frozenset[str] | None
    """Every name that `evolve` uses, by which it reaches what it reaches; None when its code holds other code."""


@cache
def evolving(kind: Any) -> Evolution:
    """How aggregates evolve by the events of a class, found once."""
    evolve, names = evolution_of(kind)
    assert names == tuple(inspect.signature(evolve).parameters)[1:], f"{evolve.__qualname__} takes fields of its event"
    code: CodeType = evolve.__code__
    is_open = code.co_freevars or any(type(constant) is CodeType for constant in code.co_consts)
    return Evolution(evolve, values_of(names), _fields_of(kind)[1], None if is_open else frozenset(code.co_names))


def values_of(names: tuple[str, ...]) -> Callable[[dict[str, Any]], tuple[Any, ...]]:
    """What takes the values of these names out of a dict, as a tuple."""
    if len(names) > 1:
        return itemgetter(*names)
    return lambda values: tuple([values[name] for name in names])


@cache
def _shared_names(evolve: Any, kind: Any) -> tuple[str, ...]:
    return tuple(name for name in inspect.signature(evolve).parameters if name in _fields_of(kind)[0])


def _unchanged(_: Any) -> None: ...


@cache
def _fields_of(kind: Any) -> tuple[frozenset[str], bool]:
    """The fields of an event class, and whether they hold no containers, by their types."""
    names = frozenset(field.name for field in dataclasses.fields(kind)) - _ENVELOPE
    hints = typing.get_type_hints(kind)
    return names, all(_kinds(hints[name]) <= ATOMS for name in names)


def _kinds(hint: Any) -> set[Any]:
    return set(typing.get_args(hint)) if isinstance(hint, UnionType) else {hint}


def copied(value: Any) -> Any:
    """A value that shares no container with the given one."""
    kind: Any = type(value)
    if _is_shared(kind):
        return value
    if kind is dict:
        return value.copy() if _all_shared(value.values()) else {key: copied(item) for key, item in value.items()}
    if kind is list:
        return value.copy() if _all_shared(value) else [copied(item) for item in value]
    if kind is set:
        return set(value)
    return copy.deepcopy(value)


def _all_shared(items: Iterable[Any]) -> bool:
    return all(map(_is_shared, set(map(type, items))))


@cache
def _is_shared(kind: type) -> bool:
    """Whether copies may share a value of this type, for nobody changes it."""
    if issubclass(kind, _IMMUTABLE):
        return True
    if issubclass(kind, msgspec.Struct):
        return bool(kind.__struct_config__.frozen)
    return dataclasses.is_dataclass(kind) and bool(kind.__dataclass_params__.frozen)  # type: ignore[attr-defined]
