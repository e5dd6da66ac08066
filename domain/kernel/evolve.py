"""Rehydration: stored rows folded into an aggregate, without the library's per-event checks."""

from collections.abc import Callable, Sequence
from typing import Any, cast
from uuid import UUID

from eventsourcing.domain import decorated_funcs
from eventsourcing.persistence import StoredEvent

from .aggregate import Aggregate, copied
from .errors import UnreadableEvent
from .mapper import Codec, codec_of, decode_event

_plans: dict[str, tuple[Codec, Callable[..., None], tuple[str, ...]]] = {}


def rehydrate(stream: UUID, rows: Sequence[StoredEvent], since: Aggregate | None = None) -> Aggregate | None:
    """The aggregate whose whole stream these rows are, or None for no rows.

    Args:
        since: the aggregate at the version before the rows, from a snapshot; it is moved on.

    Raises:
        UnreadableEvent: a version is missing, or a row does not fit its class.
    """
    if not rows:
        return since
    if since is not None:
        return _moved_on(since, rows)
    first = decode_event(rows[0].topic, stream, rows[0].originator_version, rows[0].state)
    if not codec_of(rows[0].topic).opens:
        raise UnreadableEvent(f"stream {stream} does not begin with the fact that opens it")
    return _moved_on(cast(Aggregate, first.mutate(None)), rows[1:])


def _moved_on(aggregate: Aggregate, rows: Sequence[StoredEvent]) -> Aggregate:
    for version, row in enumerate(rows, start=aggregate.version + 1):
        if row.originator_version != version:
            raise UnreadableEvent(f"stream {aggregate.id} lacks version {version}")
        codec, evolve, names = _plans.get(row.topic) or _plan(row.topic)
        fields = codec.decode(row.state)
        evolve(aggregate, **{name: getattr(fields, name) for name in names})
    aggregate.version += len(rows)
    return aggregate


def evolve_by(aggregate: Any, event: Any) -> None:
    """Evolve an aggregate by an event in place; its version stays as it is."""
    _, evolve, names = _plans.get(type(event).TOPIC) or _plan(type(event).TOPIC)
    evolve(aggregate, **{name: copied(getattr(event, name)) for name in names})


def _plan(topic: str) -> tuple[Codec, Callable[..., None], tuple[str, ...]]:
    codec = codec_of(topic)
    function = decorated_funcs.get(codec.kind)
    if function is None:
        return _plans.setdefault(topic, (codec, _unchanged, ()))
    wanted = function.__code__.co_varnames[1 : function.__code__.co_argcount + function.__code__.co_kwonlyargcount]
    return _plans.setdefault(topic, (codec, function, tuple(name for name in codec.names if name in wanted)))


def _unchanged(_: Any) -> None:
    """An event without an evolve method leaves the state as it is."""
