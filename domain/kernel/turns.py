"""Turns: commands on one stream wait for each other in a process instead of conflicting in the log."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

_LOCKS = 256
MAX_WAIT_S = 5.0


class Turns:
    """Keeps order, not correctness: two processes, or one that has waited too long, are told apart by the log."""

    def __init__(self) -> None:
        self._locks = [threading.Lock() for _ in range(_LOCKS)]

    @contextmanager
    def of(self, stream: UUID) -> Iterator[None]:
        """Run the block when it is this stream's turn, or after 5 seconds anyhow."""
        lock = self._locks[stream.int % _LOCKS]
        ours = lock.acquire(timeout=MAX_WAIT_S)
        try:
            yield
        finally:
            if ours:
                lock.release()
