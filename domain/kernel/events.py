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
from typing import Any, ClassVar
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

    Raises:
        TypeError: these are not the fields of the class.
    """
    if fields.keys() != _own_fields(kind):
        raise TypeError(f"{kind.__qualname__} has the fields {sorted(_own_fields(kind))}, not {sorted(fields)}")
    fact = object.__new__(kind)
    values = fact.__dict__
    values.update(fields if _is_flat(kind) else _own(fields))
    values["originator_id"] = stream
    values["originator_version"] = version
    values["timestamp"] = present()
    return fact


def begun(fact: Any) -> Any:
    """The aggregate that an opening fact begins, as the library's `mutate(None)` makes it."""
    kind: Any = resolve_topic(fact.originator_topic)
    aggregate = object.__new__(kind)
    aggregate.__base_init__(fact.originator_id, fact.originator_version, fact.timestamp)
    values, names = fact.__dict__, _shared_names(kind.__init__, fact.__class__)
    kind.__init__(aggregate, **_own({name: values[name] for name in names}))
    return aggregate


def evolve_by(aggregate: Any, fact: Any) -> None:
    """Evolve an aggregate by an event in place; its version stays as it is."""
    evolve, values_of, is_flat = _evolving(fact.__class__)
    values = values_of(fact.__dict__)
    evolve(aggregate, *(values if is_flat else map(copied, values)))


@cache
def evolution_of(kind: Any) -> tuple[Callable[..., Any], tuple[str, ...]]:
    """The body of the `@event` method of an event class, and the fields it takes, in its order.

    An event without one leaves the state as it is.
    """
    evolve: Any = decorated_funcs.get(kind, _unchanged)
    return evolve, _shared_names(evolve, kind)


@cache
def _evolving(kind: Any) -> tuple[Callable[..., Any], Callable[[dict[str, Any]], tuple[Any, ...]], bool]:
    evolve, names = evolution_of(kind)
    assert names == tuple(inspect.signature(evolve).parameters)[1:], f"{evolve.__qualname__} takes fields of its event"
    return evolve, values_of(names), _is_flat(kind)


def values_of(names: tuple[str, ...]) -> Callable[[dict[str, Any]], tuple[Any, ...]]:
    """What takes the values of these names out of a dict, as a tuple."""
    if len(names) > 1:
        return itemgetter(*names)
    return lambda values: tuple([values[name] for name in names])


@cache
def reached_by(kind: Any) -> frozenset[str] | None:
    """Every name that the evolve method of an event class uses; None when its code holds other code.

    Whatever it reaches of its aggregate it reaches by one of these.
    """
    code: CodeType = evolution_of(kind)[0].__code__
    if code.co_freevars or any(type(constant) is CodeType for constant in code.co_consts):
        return None
    return frozenset(code.co_names)


@cache
def _shared_names(evolve: Any, kind: Any) -> tuple[str, ...]:
    return tuple(name for name in inspect.signature(evolve).parameters if name in _own_fields(kind))


def _own(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields whose containers nobody else has."""
    if ATOMS.issuperset(map(type, fields.values())):
        return fields
    return {name: copied(value) for name, value in fields.items()}


def _unchanged(_: Any) -> None: ...


@cache
def _own_fields(kind: Any) -> frozenset[str]:
    return frozenset(field.name for field in dataclasses.fields(kind)) - _ENVELOPE


@cache
def _is_flat(kind: Any) -> bool:
    """Whether the fields of an event class hold no containers, by their types."""
    hints = typing.get_type_hints(kind)
    return all(_kinds(hints[name]) <= ATOMS for name in _own_fields(kind))


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
