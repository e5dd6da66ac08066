"""Latency classes: a device's latency is told by steps, so that it is a fact worth recording when it changes."""

from datetime import datetime, timedelta
from typing import NamedTuple

from domain.kernel import Refusal

LATENCY_CLASSES_MS = (5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 60_000)
"""A device's latency is recorded as the smallest of these that is not less."""


LATENCY_HOLD = timedelta(seconds=60)
"""How long a device has to be in another class before that is recorded."""


class LatencyInvalid(Refusal):
    """A latency is recorded as one of the latency classes."""


def latency_class(latency_ms: int, present: int | None) -> int:
    """The class of a latency, given the present class: a device leaves it upwards at once, and downwards only when
    the latency is a fifth below the boundary, so that it does not waver between two.
    """
    up = _class_of(latency_ms)
    if present is None or up >= present:
        return up
    return min(present, _class_of(latency_ms * 5 // 4))


class LatencyWatch(NamedTuple):
    """The recorded class of a device, and another one that it has been in since an instant and that may become it."""

    known: int | None
    candidate: int | None = None
    since: datetime | None = None

    def after(self, latency_ms: int, now: datetime) -> "LatencyWatch":
        """The watch after one more measurement: the first class is known at once, another one after LATENCY_HOLD of
        measurements that were all in it.
        """
        reached = latency_class(latency_ms, self.known)
        if self.known is None or reached == self.known:
            return LatencyWatch(reached)
        if self.candidate is None or self.since is None:
            return LatencyWatch(self.known, reached, now)
        held = latency_class(latency_ms, self.candidate)
        if held != self.candidate:
            return LatencyWatch(self.known, reached, now)
        return LatencyWatch(held) if now - self.since >= LATENCY_HOLD else self


def _class_of(latency_ms: int) -> int:
    return next((bound for bound in LATENCY_CLASSES_MS if latency_ms <= bound), LATENCY_CLASSES_MS[-1])
