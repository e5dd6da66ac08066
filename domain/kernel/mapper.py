"""The mapper: domain events to JSON bytes and back, by one strict, cached msgspec codec per topic."""

import dataclasses
import inspect
import typing
from collections.abc import Callable, Iterable
from datetime import datetime
from itertools import product
from types import NoneType, UnionType
from typing import Any
from uuid import UUID

import msgspec
from eventsourcing.domain import CanInitAggregate, decorated_funcs
from eventsourcing.persistence import Mapper, StoredEvent
from eventsourcing.utils import TopicError, resolve_topic

from .errors import UnreadableEvent, UnrecordableEvent
from .events import values_of
from .personal import Personal, Sealed
from .time import Instant

_ENVELOPE = frozenset({"originator_id", "originator_version", "originator_topic", "timestamp"})
_PLAIN = frozenset({str, int, bool, UUID, NoneType})
_encode = msgspec.json.Encoder().encode
_SCALARS = (str, int, bool, float, UUID, type(None))


class _Version(msgspec.Struct):
    class_version: int = 1


class Codec:
    """How one event class is written and read. Fields are in the order of the class."""

    def __init__(self, kind: type[Any]) -> None:
        hints = typing.get_type_hints(kind, include_extras=True)
        self.kind = kind
        self.topic: str = kind.TOPIC
        self.names = tuple(field.name for field in dataclasses.fields(kind) if field.name not in _ENVELOPE)
        self.personal = tuple(name for name in self.names if _is_personal(hints[name]))
        self.fields = {
            name: _sealed(hints[name]) if name in self.personal else _recordable(hints[name], f"{self.topic}.{name}")
            for name in self.names
        }
        self.version: int = kind.class_version
        self.upcasters = [_upcaster(kind, version) for version in range(1, self.version)]
        versioned = [("class_version", int, self.version)] if self.version > 1 else []
        self.shape = msgspec.defstruct(
            "State", [*self.fields.items(), *versioned], frozen=True, forbid_unknown_fields=True
        )
        self.decoder = msgspec.json.Decoder(self.shape)
        self.ending = f'"class_version":{self.version}}}'.encode()
        """What a state of this version ends with: its version is written last."""
        self.values_of = values_of(self.names)
        self.plain = _plain(self.fields.values())
        self.textless = frozenset(kinds for kinds in self.plain if str not in kinds)
        self.opens = issubclass(kind, CanInitAggregate)
        self.originator_topic = self.topic.rpartition(".")[0]
        if kept := set(self.personal) & _evolves_by(kind, self.originator_topic if self.opens else None):
            raise TypeError(f"{self.topic}: an aggregate does not keep personal text ({', '.join(kept)})")

    def encode(self, values: dict[str, Any]) -> bytes:
        """JSON bytes of an event's fields, proved to be read back as they are.

        Raises:
            UnrecordableEvent: a value would not come back equal (wrong type, NaN, infinity, naive datetime), or holds
                the character U+0000, which no text column or jsonb of a read model can hold.
        """
        state = self.values_of(values)
        original = self.shape(*state)
        kinds = tuple(map(type, state))
        try:
            encoded = _encode(original)
            if kinds in self.textless:
                return encoded
            proved = kinds in self.plain or self.decoder.decode(encoded) == original
            if proved and (b"\\u0000" not in encoded or _is_escaped(encoded)):
                return encoded
        except (msgspec.MsgspecError, TypeError, ValueError) as error:
            raise UnrecordableEvent(f"{self.topic}: {error}") from error
        raise UnrecordableEvent(f"{self.topic}: not read back as written: {encoded.decode()}")

    def decode(self, state: bytes) -> Any:
        """The fields of a stored event, upcast to the present version of its class.

        Raises:
            UnreadableEvent: the bytes do not fit the class.
        """
        try:
            if self.version == 1 or state.endswith(self.ending):
                return self.decoder.decode(state)
            found = msgspec.json.decode(state, type=_Version).class_version
            if found == self.version:
                return self.decoder.decode(state)
            return self._upcast(msgspec.json.decode(state), found)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise UnreadableEvent(f"{self.topic}: {self._newer(state) or error}") from error

    def event(self, stream: UUID, version: int, state: bytes, recorded_at: datetime) -> Any:
        """The domain event a row of the log holds; its `timestamp` is the envelope's `recorded_at`."""
        values = msgspec.structs.asdict(self.decode(state))
        if self.version > 1:
            del values["class_version"]
        values["originator_id"] = stream
        values["originator_version"] = version
        values["timestamp"] = recorded_at
        if self.opens:
            values["originator_topic"] = self.originator_topic
        event = object.__new__(self.kind)
        object.__setattr__(event, "__dict__", values)
        return event

    def _upcast(self, values: dict[str, Any], found: int) -> Any:
        if not 1 <= found < self.version:
            raise UnreadableEvent(f"{self.topic}: {_not_known(found, self.version)}")
        try:
            for upcast in self.upcasters[found - 1 :]:
                upcast(values)
        except Exception as error:
            raise UnreadableEvent(f"{self.topic}: version {found} cannot be upcast: {error!r}") from error
        return msgspec.convert(values | {"class_version": self.version}, self.shape)

    def _newer(self, state: bytes) -> str | None:
        """Why a state that does not fit is no wonder; asked only once it has failed."""
        try:
            found = msgspec.json.decode(state, type=_Version).class_version
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None
        return _not_known(found, self.version) if found > self.version else None


_codecs: dict[str, Codec] = {}


def codec_of(topic: str) -> Codec:
    """The codec of a topic, made once.

    Raises:
        UnreadableEvent: no imported class has this topic.
    """
    if (known := _codecs.get(topic)) is not None:
        return known
    try:
        kind = resolve_topic(topic)
    except (TopicError, ValueError) as error:
        raise UnreadableEvent(f"unknown topic {topic!r}") from error
    if getattr(kind, "TOPIC", None) != topic:
        raise UnreadableEvent(f"{topic!r} is not an event of this village")
    return _codecs.setdefault(topic, Codec(kind))


class StrictMapper(Mapper[UUID]):
    """Plugged into the library by `MAPPER_TOPIC`. The envelope is not part of the state."""

    def to_stored_event(self, domain_event: Any) -> StoredEvent:
        codec = codec_of(type(domain_event).TOPIC)
        values = vars(domain_event)
        return StoredEvent(
            originator_id=values["originator_id"],
            originator_version=values["originator_version"],
            topic=codec.topic,
            state=codec.encode(values),
        )

    def to_domain_event(self, stored_event: StoredEvent) -> Any:
        return decode_event(
            stored_event.topic, typing.cast(UUID, stored_event.originator_id), stored_event.originator_version,
            stored_event.state,
        )  # fmt: skip


_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


def decode_event(topic: str, stream: UUID, version: int, state: bytes, recorded_at: datetime = _EPOCH) -> Any:
    """The domain event a row of the log holds; its `timestamp` is the envelope's `recorded_at`."""
    return codec_of(topic).event(stream, version, state, recorded_at)


def _recordable(hint: Any, where: str) -> Any:
    """The type itself, checked once per class: only what JSON gives back exactly may be recorded."""
    if hint is Instant or hint in _SCALARS:
        return hint
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is list:
        return list[_recordable(arguments[0], where)]  # type: ignore[misc]
    if origin is dict and arguments[0] is str:
        return dict[str, _recordable(arguments[1], where)]  # type: ignore[misc]
    if origin in (typing.Union, UnionType):
        for argument in arguments:
            _recordable(argument, where)
        return hint
    if origin is typing.Literal and all(type(item) is str for item in arguments):
        return hint
    if isinstance(hint, type) and hint is not Sealed and _is_value(hint):
        for name, inner in typing.get_type_hints(hint, include_extras=True).items():
            _recordable(inner, f"{where}.{name}")
        return hint
    raise TypeError(f"{where}: an event cannot carry {hint!r} (a datetime is an Instant, PersonalText a field's own)")


def _plain(hints: Iterable[Any]) -> frozenset[tuple[type, ...]]:
    """The types of values that JSON gives back as they are, whatever they are; none for other fields than these."""
    kinds = [set(typing.get_args(hint)) if isinstance(hint, UnionType) else {hint} for hint in hints]
    return frozenset(product(*kinds) if all(kind <= _PLAIN for kind in kinds) else ())


def _is_personal(hint: Any) -> bool:
    return {Personal, Sealed} <= set(typing.get_args(hint))


def _sealed(hint: Any) -> Any:
    """What is stored of a `PersonalText`, or of one that may be absent."""
    return Sealed | None if NoneType in typing.get_args(hint) else Sealed


def _evolves_by(kind: type[Any], opens: str | None) -> set[str]:
    """The fields of an event that its aggregate's evolve method takes."""
    evolve = decorated_funcs.get(kind) or (resolve_topic(opens).__init__ if opens else None)
    return set() if evolve is None else set(inspect.signature(evolve).parameters)


def _is_value(hint: type) -> bool:
    if issubclass(hint, msgspec.Struct):
        return bool(hint.__struct_config__.frozen and hint.__struct_config__.forbid_unknown_fields)
    return dataclasses.is_dataclass(hint) and hint.__dataclass_params__.frozen  # type: ignore[attr-defined]


def _upcaster(kind: type[Any], version: int) -> Callable[[dict[str, Any]], None]:
    name = f"upcast_v{version}_v{version + 1}"
    upcast = getattr(kind, name, None)
    if upcast is None:
        raise TypeError(f"{kind.TOPIC} is at version {kind.class_version} and has no {name}")
    return typing.cast(Callable[[dict[str, Any]], None], upcast)


def _not_known(found: int, version: int) -> str:
    if found > version:
        return f"stored at version {found}, newer than version {version} of this code: deploy the newer code"
    return f"stored at version {found}, which never was"


def _is_escaped(encoded: bytes) -> bool:
    return b"\\u0000" not in encoded.replace(b"\\\\", b"")  # an escaped backslash before `u0000` is plain text
