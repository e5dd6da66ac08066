"""Blocking work off the event loop: so much at once, so much that waits, and no more."""

from collections.abc import Callable
from typing import TypeVar

import anyio.to_thread
from anyio import CapacityLimiter

from domain.kernel import Refusal

T = TypeVar("T")

MAX_WAITING = 512
"""Callers that wait for a thread of one kind: more would be answered after their clients have given up."""


class Overloaded(Refusal):
    """This process has more to do than it can answer in time; nothing was begun, come again after Retry-After."""

    status = 503


class Threads:
    """At most `most` threads; callers beyond them wait in order."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._limiter: CapacityLimiter | None = None

    async def run(self, work: Callable[[], T], *, abandon: bool = False) -> T:
        """What the work answers. With `abandon` a caller that stops waiting leaves the thread to end by itself.

        Raises:
            Overloaded: 512 callers wait already.
        """
        if self._limiter is None:  # it is of the event loop that first asks
            self._limiter = CapacityLimiter(self._most)
        if self._limiter.statistics().tasks_waiting >= MAX_WAITING:
            raise Overloaded(f"{MAX_WAITING} wait already")
        return await anyio.to_thread.run_sync(work, limiter=self._limiter, abandon_on_cancel=abandon)
