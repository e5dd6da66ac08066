"""The error tree: every refusal is a class of its own with one stable code."""

import re
from typing import ClassVar
from uuid import UUID


class Refusal(Exception):
    """A command was refused; nothing was recorded.

    The class name is the rule's name. `code` is its stable wire form (snake case) and `status` the
    HTTP status the edge answers with (RFC 9110).
    """

    code: ClassVar[str] = "refusal"
    status: ClassVar[int] = 422

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "code" not in cls.__dict__:
            cls.code = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", cls.__name__).lower()


class NotFound(Refusal):
    """What the command names does not exist."""

    status = 404


class Forbidden(Refusal):
    """The principal may not do this."""

    status = 403


class Conflict(Refusal):
    """The stream has moved on since it was read."""

    status = 409

    def __init__(self, message: str = "", stream: UUID | None = None) -> None:
        super().__init__(message)
        self.stream = stream


class AlreadyExists(Conflict):
    """A stream with this id has been opened before."""


class AggregateNotFound(NotFound):
    """No stream of this type has this id."""


class PositionAhead(Refusal):
    """The past ends at the newest fact."""


class CursorMoved(Conflict):
    """Another process has advanced this cursor; its work stands and ours is dropped."""


class IdempotencyKeyReused(Refusal):
    """An idempotency key names one command for ever: the same key came with another body."""


class CommandTooLarge(Refusal):
    """One command records at most `MAX_EVENTS_PER_COMMAND` events."""

    status = 413


class LogOverloaded(Refusal):
    """Too many commands wait for the event log; nothing was recorded, try again later."""

    status = 503


class LogClosed(Refusal):
    """This process is stopping; nothing was recorded, send it again."""

    status = 503


class LogUnavailable(Refusal):
    """The event log did not answer in time. Whether the command was recorded is not known:
    send it again with the same idempotency key.
    """

    status = 503


class SubjectErased(Refusal):
    """A person who was erased gets no key again: nothing personal of theirs is recorded any more."""

    status = 410


class SealingUnavailable(Refusal):
    """Personal text is recorded sealed or not at all, and this process cannot reach the key: try again later."""

    status = 503


class UnrecordableEvent(TypeError):
    """An event carries a value that would not be read back as it was written: our mistake, not the world's."""


class UnreadableEvent(ValueError):
    """A stored event does not fit its class: unknown topic, unknown field, newer version or wrong type."""
