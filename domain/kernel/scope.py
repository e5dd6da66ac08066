"""The command scope: who asks for what, why and when. Set at the edge, read in the caller's thread."""

from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import count
from typing import Any
from uuid import UUID, uuid5

from .ids import random_id
from .ports import system_clock


@dataclass(frozen=True, slots=True)
class CommandScope:
    """The envelope every event of one command shares.

    `idempotency_key` is scoped by actor and method; `body_hash` (a digest of the request) tells whether a
    repeated key carries the same request.
    """

    actor: str
    now: datetime
    command_id: UUID
    correlation_id: UUID
    causation_id: UUID | None = None
    idempotency_key: str | None = None
    body_hash: bytes = b""
    commands: Iterator[int] = field(default_factory=count, repr=False, compare=False)
    """Numbers the commands that run under this scope."""


_current: ContextVar[CommandScope | None] = ContextVar("command_scope", default=None)


def new_scope(
    actor: str,
    *,
    now: datetime | None = None,
    command_id: UUID | None = None,
    correlation_id: UUID | None = None,
    causation_id: UUID | None = None,
    idempotency_key: str | None = None,
    body_hash: bytes = b"",
) -> CommandScope:
    """A scope for one command; ids that are not given are new, and a command correlates with itself."""
    command_id = command_id or random_id()
    return CommandScope(
        actor=actor,
        now=now or system_clock(),
        command_id=command_id,
        correlation_id=correlation_id or command_id,
        causation_id=causation_id,
        idempotency_key=idempotency_key,
        body_hash=body_hash,
    )


class within:
    """Run the commands inside the block under this scope."""

    __slots__ = ("_scope", "_token")

    def __init__(self, scope: CommandScope) -> None:
        self._scope = scope

    def __enter__(self) -> CommandScope:
        self._token = _current.set(self._scope)
        return self._scope

    def __exit__(self, *why: Any) -> None:
        _current.reset(self._token)


def present() -> datetime:
    """The instant of the running command; outside of one, that of the clock."""
    current = _current.get()
    return system_clock() if current is None else current.now


def scope() -> CommandScope:
    """The scope of the running command. Calling a command outside of one is our mistake."""
    current = _current.get()
    assert current is not None, "a command runs inside `with within(new_scope(...))`"
    return current


def next_command() -> CommandScope:
    """The scope of the next command under the current one: the scope itself for the first, then one with an id
    of its own (derived, so that doing all of them again gives the same ids).
    """
    current = scope()
    number = next(current.commands)
    return replace(current, command_id=uuid5(current.command_id, f"command {number}")) if number else current
