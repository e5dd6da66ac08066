"""Snapshots: the state of an aggregate at a version, as a strict typed struct, so that a long stream loads fast.

They are taken when a long stream was loaded, off the way of any write, and can be thrown away at any time: the log is
the truth, and a snapshot that does not fit is left aside.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from .errors import UnreadableEvent

if TYPE_CHECKING:
    from .aggregate import Aggregate

_NOT_STATE = frozenset({"_id", "_version"})
_NEVER = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


class Snapshot(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of an aggregate's snapshot: its fields are exactly the aggregate's attributes, with their types."""


@dataclass(frozen=True, slots=True)
class SnapshotPolicy:
    """When an aggregate type is snapshotted, and as what.

    Args:
        shape: the struct of its attributes.
        every: a snapshot is taken when loading has folded this many events since the last one.
        version: raised when the attributes, or what an event does to them, change: older snapshots are left aside.
    """

    shape: type[Snapshot]
    every: int
    version: int = 1


class StoredSnapshot(msgspec.Struct, frozen=True):
    """A snapshot as it is kept: of a stream, at a version, in one version of its policy."""

    stream: UUID
    version: int
    topic: str
    policy_version: int
    state: bytes


def take(aggregate: "Aggregate") -> StoredSnapshot:
    """The snapshot of an aggregate, proved to be read back as it is.

    Raises:
        UnreadableEvent: the struct does not fit the attributes, which is our mistake.
    """
    policy = aggregate.snapshots
    assert policy is not None
    attributes = {name: value for name, value in aggregate.state().items() if name not in _NOT_STATE}
    if attributes.keys() != set(policy.shape.__struct_fields__):
        raise UnreadableEvent(f"{aggregate.topic}: its snapshot is not made of its attributes")
    state = msgspec.json.encode(policy.shape(**attributes))
    if _decoded(policy, state) != attributes:
        raise UnreadableEvent(f"{aggregate.topic}: its snapshot is not read back as written")
    return StoredSnapshot(aggregate.id, aggregate.version, aggregate.topic, policy.version, state)


def restored(kind: type["Aggregate"], stored: StoredSnapshot) -> "Aggregate | None":
    """The aggregate a snapshot holds; None when it is of another type, another policy, or does not fit."""
    policy = kind.snapshots
    if policy is None or (stored.topic, stored.policy_version) != (kind.topic, policy.version):
        return None
    try:
        attributes = _decoded(policy, stored.state)
    except msgspec.MsgspecError:
        return None
    aggregate: Aggregate = object.__new__(kind)
    aggregate.__base_init__(stored.stream, stored.version, _NEVER)
    aggregate.__dict__.update(attributes)
    return aggregate


def _decoded(policy: SnapshotPolicy, state: bytes) -> dict[str, Any]:
    fields = msgspec.json.decode(state, type=policy.shape)
    return {name: getattr(fields, name) for name in policy.shape.__struct_fields__}
