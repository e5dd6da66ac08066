"""The stream of the bus: made once, kept within bounds, and asked how far it has come."""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig, StreamInfo
from nats.js.errors import BadRequestError, NotFoundError

from .message import EVENT_ID, POSITION

SUBJECTS: Final = ("events.>", "log.>")
ADVISORIES: Final = "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES"
NAME_IN_USE: Final = 10_058


class StreamUnfit(Exception):
    """The stream that is there cannot carry the bus: it is not on disk, or not bounded by limits alone."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a new stream may keep: the oldest messages leave first. An operator's later changes stay."""

    max_bytes: int = 4 << 30
    max_age_s: float = 14 * 86_400.0
    max_msgs: int = 20_000_000
    duplicate_window_s: float = 120.0


@dataclass(frozen=True, slots=True)
class Tail:
    """The end of the stream: its last sequence (0 = nothing was ever in it) and the fact stored there, if known."""

    sequence: int
    position: int | None = None
    event_id: UUID | None = None


async def ensure_streams(context: JetStreamContext, name: str, limits: Limits, *, atomic: bool) -> bool:
    """Make the stream of facts, and the one that keeps the broker's notes of exhausted deliveries, unless there.

    Args:
        atomic: the broker knows atomic batches. Answers whether the stream takes them.

    Raises:
        StreamUnfit: a stream of this name is of another kind.
    """
    facts = StreamConfig(
        name=name,
        description="Every fact of the village, in the order of its log",
        subjects=list(SUBJECTS),
        max_bytes=limits.max_bytes,
        max_age=limits.max_age_s,
        max_msgs=limits.max_msgs,
        duplicate_window=limits.duplicate_window_s,
        allow_direct=True,
        allow_atomic=atomic or None,
    )
    found = await _ensure(context, facts)
    taken = found.config.subjects or []
    missing = [subject for subject in SUBJECTS if subject not in taken]
    if missing or (atomic and not found.config.allow_atomic):
        await context.update_stream(found.config.evolve(subjects=[*taken, *missing], allow_atomic=atomic or None))
    await _ensure(
        context,
        StreamConfig(
            name=letters_stream(name),
            description="Deliveries that the broker has given up, until they are dead letters in the database",
            subjects=[f"{ADVISORIES}.{name}.>"],
            max_bytes=64 << 20,
            max_age=limits.max_age_s,
        ),
    )
    return atomic


def letters_stream(name: str) -> str:
    """The stream that keeps the advisories of a stream."""
    return f"{name}_exhausted"


async def tail_of(context: JetStreamContext, name: str) -> Tail:
    """Where the stream ends."""
    state = (await context.stream_info(name)).state
    if state.messages == 0:
        return Tail(state.last_seq)
    try:
        last = await context.get_msg(name, state.last_seq)
    except NotFoundError:  # deleted, or too old since we asked
        return Tail(state.last_seq)
    headers = last.headers or {}
    try:
        return Tail(state.last_seq, int(headers[POSITION]), UUID(headers[EVENT_ID]))
    except (KeyError, ValueError):  # somebody else's message
        return Tail(state.last_seq)


async def _ensure(context: JetStreamContext, wanted: StreamConfig) -> StreamInfo:
    assert wanted.name is not None
    try:
        found = await context.stream_info(wanted.name)
    except NotFoundError:
        fresh = wanted.evolve(
            storage=StorageType.FILE, retention=RetentionPolicy.LIMITS, discard=DiscardPolicy.OLD, num_replicas=1
        )
        try:
            return await context.add_stream(fresh)
        except BadRequestError as error:
            if error.err_code != NAME_IN_USE:
                raise
            found = await context.stream_info(wanted.name)  # another process was faster
    if found.config.storage != StorageType.FILE or found.config.retention != RetentionPolicy.LIMITS:
        raise StreamUnfit(f"stream {wanted.name} must be stored in files and kept by limits: see docs/guides/bus.md")
    return found
