"""Latency classes: a device's latency is told by steps, so that it is a fact worth recording when it changes."""

from domain.kernel import Refusal

LATENCY_CLASSES_MS = (5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 60_000)
"""A device's latency is recorded as the smallest of these that is not less."""


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


def _class_of(latency_ms: int) -> int:
    return next((bound for bound in LATENCY_CLASSES_MS if latency_ms <= bound), LATENCY_CLASSES_MS[-1])
