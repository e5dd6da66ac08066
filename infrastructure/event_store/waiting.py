"""A caller's wait for the writer: cheaper than a Future, of which a busy log makes thousands a second."""

import threading

from domain.kernel.errors import LogOverloaded, LogUnavailable
from domain.kernel.write import Write, Written


class Waiting:
    """A write that a caller waits for."""

    __slots__ = ("_claim", "_told", "outcome", "write")

    def __init__(self, write: Write) -> None:
        self.write = write
        self.outcome: Written | Exception | None = None
        self._claim = threading.Lock()
        self._told = threading.Lock()
        self._told.acquire()

    def claim(self) -> bool:
        """Whether its fate is the asker's from now on: the writer's who begins it, or the caller's who gives it up."""
        return self._claim.acquire(blocking=False)

    def tell(self, outcome: Written | Exception) -> None:
        self.outcome = outcome
        self._told.release()

    def wait(self, timeout_s: float) -> Written:
        """What became of it.

        Raises:
            LogOverloaded: it was not begun in time, and never will be. LogUnavailable: it has begun.
        """
        if self._told.acquire(timeout=timeout_s):
            if isinstance(self.outcome, Written):
                return self.outcome
            assert self.outcome is not None
            raise self.outcome
        if self.claim():
            raise LogOverloaded(f"not begun within {timeout_s:.0f} s")
        raise LogUnavailable(f"no answer within {timeout_s:.0f} s")
