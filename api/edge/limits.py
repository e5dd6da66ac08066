"""Limits of the edge: how large a body may be and how often a principal may ask."""

import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Self

from starlette.types import Message, Receive

from infrastructure.settings import Settings

from .problems import BodyTooLarge, RateLimited

MAX_KEYS = 20_000
"""Principals and addresses counted at once; of more, those that asked longest ago are forgotten."""


@dataclass(slots=True)
class RateLimiter:
    """Moving windows of `window_s` seconds in this process's memory. Safe to call from any thread.

    `most` is how many requests fit in a window, by the role of a principal or "anonymous" of a client address.
    """

    window_s: int
    most: Mapping[str, int]
    now: Callable[[], float] = time.monotonic
    _windows: OrderedDict[tuple[str, str], deque[float]] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """As the settings say."""
        most = {
            "operator": settings.rate_operator,
            "member": settings.rate_member,
            "device": settings.rate_device,
            "anonymous": settings.rate_anonymous,
        }
        return cls(settings.rate_window_seconds, most)

    def hit(self, kind: str, key: str) -> None:
        """Count one request of `key`; `kind` is a role or "anonymous".

        Raises:
            RateLimited: the window is full; `retry_after_s` says how long to wait.
        """
        most, window_s, now = self.most[kind], self.window_s, self.now()
        with self._lock:
            counted = self._windows.setdefault((kind, key), deque())
            self._windows.move_to_end((kind, key))
            if len(self._windows) > MAX_KEYS:
                self._windows.popitem(last=False)
            while counted and counted[0] <= now - window_s:
                counted.popleft()
            if len(counted) < most:
                counted.append(now)
                return
            refusal = RateLimited(f"at most {most} requests in {window_s} s")
            refusal.retry_after_s = max(1, math.ceil(counted[0] + window_s - now))
        raise refusal


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
