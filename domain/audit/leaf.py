"""Leaf data: the bytes of one fact that the Merkle tree covers, every field length-prefixed."""

from datetime import datetime, timedelta
from uuid import UUID

LEAF_VERSION = 1
_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
_MICROSECOND = timedelta(microseconds=1)


def leaf_data(
    position: int,
    stream: UUID,
    version: int,
    topic: str,
    event_id: UUID,
    command_id: UUID,
    correlation_id: UUID,
    causation_id: UUID | None,
    actor: str,
    recorded_at: datetime,
    state: bytes,
) -> bytes:
    """The leaf of one stored row: a version byte, then each field as u32 length (big-endian) and bytes.

    Integers are 8 bytes big-endian, instants microseconds since 1970 (UTC), no causation is no bytes. The state is
    taken as stored (sealed fields stay sealed), so erasing a subject's key does not break the tree.
    """
    micros = (recorded_at - _EPOCH) // _MICROSECOND
    fields = (
        position.to_bytes(8, "big"),
        stream.bytes,
        version.to_bytes(8, "big"),
        topic.encode(),
        event_id.bytes,
        command_id.bytes,
        correlation_id.bytes,
        b"" if causation_id is None else causation_id.bytes,
        actor.encode(),
        micros.to_bytes(8, "big", signed=True),
        state,
    )
    return bytes([LEAF_VERSION]) + b"".join(len(field).to_bytes(4, "big") + field for field in fields)
