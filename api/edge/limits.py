"""Limits of the edge: how large a body may be and how often a principal may ask."""

import threading
import time
from dataclasses import dataclass, field

from limits import RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.types import Message, Receive

from .problems import BodyTooLarge, RateLimited

_MAX_KEYS = 20_000


@dataclass(frozen=True, slots=True)
class RateLimits:
    """Requests per window of `window_s` seconds, per principal; `anonymous` counts per client address."""

    window_s: int = 10
    operator: int = 10_000
    member: int = 1_000
    device: int = 1_000
    anonymous: int = 600


@dataclass(slots=True)
class RateLimiter:
    """Moving windows in this process's memory. Safe to call from any thread."""

    limits: RateLimits = field(default_factory=RateLimits)
    _storage: MemoryStorage = field(default_factory=MemoryStorage)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def hit(self, kind: str, key: str) -> None:
        """Count one request of `key`; `kind` is a role or "anonymous".

        Raises:
            RateLimited: the window is full; `retry_after_s` says how long to wait.
        """
        item = RateLimitItemPerSecond(getattr(self.limits, kind), self.limits.window_s)
        strategy = MovingWindowRateLimiter(self._storage)
        with self._lock:
            if len(self._storage.events) > _MAX_KEYS:
                self._storage.reset()  # forgetting all counts is the bound on memory when addresses are many
        if strategy.hit(item, kind, key):
            return
        refusal = RateLimited(f"at most {item.amount} requests in {self.limits.window_s} s")
        refusal.retry_after_s = max(1, round(strategy.get_window_stats(item, kind, key).reset_time - time.time()))
        raise refusal

    def close(self) -> None:
        """Stop the storage's timer."""
        self._storage.timer.cancel()


def bounded(receive: Receive, most: int, declared: str | None) -> Receive:
    """A receive that refuses more than `most` bytes of body: at once by Content-Length, else as they arrive."""
    if declared is not None and declared.isdigit() and int(declared) > most:
        raise BodyTooLarge(f"at most {most} bytes, {declared} announced")
    seen = 0

    async def receive_bounded() -> Message:
        nonlocal seen
        message = await receive()
        if message["type"] == "http.request":
            seen += len(message.get("body", b""))
            if seen > most:
                raise BodyTooLarge(f"at most {most} bytes")
        return message

    return receive_bounded
