"""Deciding a command: on what the cache holds first, again on fresh state when that was no longer true."""

import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TypeVar
from uuid import UUID

from .errors import AlreadyExists, Conflict, CursorMoved
from .turns import Turns

T = TypeVar("T")

MAX_CONFLICTS = 50
"""How often one command is decided before its caller is told of the conflict."""

MAX_PAUSE_S = 0.02
"""The longest pause before a command is decided again."""


@dataclass(slots=True)
class Attempt:
    """One try at deciding a command: whether it may look into the cache, and what it did."""

    fresh: bool
    used_cache: bool = False
    refused_on_cache: bool = False
    recorded: bool = False
    reads: dict[int, int] = field(default_factory=dict)
    """Versions of the streams it has read, by their numbers."""


attempt: ContextVar[Attempt | None] = ContextVar("attempt", default=None)
"""The try that is running in this thread."""


def running_attempt() -> Attempt:
    """The try that is running; there must be one."""
    running = attempt.get()
    assert running is not None
    return running


def decide_again(
    decide: Callable[[], T], stands: Callable[[Attempt], bool], turns: Turns, tries: int | None = None
) -> T:
    """Decide until it stands: recorded, or refused on what is true.

    Commands of this process that lost a stream take turns at it from then on, so that all are decided soon.

    Args:
        stands: whether what a try has read is still so.
        tries: how often at most, by default `MAX_CONFLICTS`.

    Raises:
        Conflict: it lost every time. CursorMoved. Whatever else `decide` raises on what is true.
    """
    tries = tries or MAX_CONFLICTS
    with ExitStack() as turn:
        for tried in range(tries):
            lost: UUID | None = None
            last = tried == tries - 1
            running = Attempt(fresh=tried > 0)
            token = attempt.set(running)
            try:
                return decide()
            except CursorMoved:
                raise
            except AlreadyExists:
                if tried or last:
                    raise
            except Conflict as conflict:
                if last:
                    raise
                lost = conflict.stream
            except Exception:
                # A refusal, or a fault of ours that what is no longer true has led to.
                if running.recorded or last or stands(running):
                    raise
            finally:
                attempt.reset(token)
            turn.close()
            if lost is not None:
                turn.enter_context(turns.of(lost))
            time.sleep(random.uniform(0, min(0.002 * tried, MAX_PAUSE_S)))
    raise AssertionError("every pass returns or raises by the last one")
