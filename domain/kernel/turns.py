"""Turns: commands on one stream wait for each other in a process instead of conflicting in the log."""

import threading
from typing import Any
from uuid import UUID

_LOCKS = 256
MAX_WAIT_S = 5.0


class Turns:
    """Keeps order, not correctness: two processes, or one that has waited too long, are told apart by the log."""

    def __init__(self) -> None:
        self._locks = [threading.Lock() for _ in range(_LOCKS)]

    def of(self, stream: UUID) -> "Turn":
        """Runs its block when it is this stream's turn, or after 5 seconds anyhow."""
        return Turn(self._locks[stream.int % _LOCKS])


class Turn:
    """A context manager for one use."""

    __slots__ = ("_lock", "_ours")

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        self._ours = self._lock.acquire(timeout=MAX_WAIT_S)

    def __exit__(self, *why: Any) -> None:
        if self._ours:
            self._lock.release()
