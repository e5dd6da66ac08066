"""Rehydration: stored rows folded into an aggregate, without the library's per-event checks."""

from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

from eventsourcing.persistence import StoredEvent

from .aggregate import Aggregate
from .errors import UnreadableEvent
from .events import begun, evolution_of
from .mapper import Codec, codec_of, decode_event

_plans: dict[str, tuple[Codec, Callable[..., Any], tuple[str, ...]]] = {}


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
    return _moved_on(begun(first), rows[1:])


def _moved_on(aggregate: Aggregate, rows: Sequence[StoredEvent]) -> Aggregate:
    for version, row in enumerate(rows, start=aggregate.version + 1):
        if row.originator_version != version:
            raise UnreadableEvent(f"stream {aggregate.id} lacks version {version}")
        codec, evolve, names = _plans.get(row.topic) or _plan(row.topic)
        fields = codec.decode(row.state)
        evolve(aggregate, **{name: getattr(fields, name) for name in names})
    aggregate.version += len(rows)
    return aggregate


def _plan(topic: str) -> tuple[Codec, Callable[..., Any], tuple[str, ...]]:
    codec = codec_of(topic)
    kind: Any = codec.kind
    return _plans.setdefault(topic, (codec, *evolution_of(kind)))
