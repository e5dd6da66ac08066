"""What is known of a device in a window, and how the window's time is spent by it: pure, so anybody can judge again."""

import hashlib
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import NamedTuple, Protocol
from uuid import UUID

import msgspec

from domain.kernel.time import milliseconds

from .sla import Measured, SlaTerms

ONLINE, DEGRADED, OFFLINE = "online", "degraded", "offline"
MS_PER_HOUR = 3_600_000


class Change(NamedTuple):
    """From `at` on a device is online, degraded or offline."""

    at: datetime
    state: str


class Latency(NamedTuple):
    """From `at` on a device answers within so many ms."""

    at: datetime
    ms: int


class Interval(NamedTuple):
    """From an instant until before another."""

    begins: datetime
    ends: datetime

    def holds(self, at: datetime) -> bool:
        return self.begins <= at < self.ends


class Evidence(NamedTuple):
    """All in order of time. `outages` are the village's own, `excluded` what the customer accepted beforehand."""

    presence: Sequence[Change]
    latencies: Sequence[Latency] = ()
    outages: Sequence[Interval] = ()
    excluded: Sequence[Interval] = ()


class ExcludedTime(Protocol):
    """Query port: when a device rested by a policy that the customer of a contract has accepted."""

    def __call__(self, contract_id: UUID, device_id: UUID, window: Interval) -> Sequence[Interval]: ...


def judge(window: Interval, terms: SlaTerms, evidence: Evidence) -> tuple[Measured, str]:
    """How the time of a window was spent, and the SHA-256 of what shows it.

    Excluded goes before unknown, and that before failed: the village's own outage is nobody's failure, and a device
    that was never heard of is unknown. Time slower than promised, or after more interruptions than promised for the
    hours of the window, is degraded.
    """
    cuts = sorted({window.begins, window.ends, *(at for at in _instants(evidence) if window.holds(at))})
    times = dict.fromkeys(("ok_ms", "degraded_ms", "unknown_ms", "excluded_ms"), 0)
    spent = 0
    interrupts, most = 0, -(-terms.max_interrupts_per_h * milliseconds(*window) // MS_PER_HOUR)
    before = _state(evidence, window.begins)
    for begins, ends in pairwise(cuts):
        state = _state(evidence, begins)
        interrupts += before == ONLINE and state in (DEGRADED, OFFLINE)
        before = state
        kind = _kind(evidence, begins, state, slow=_latency(evidence, begins) > terms.p95_ms, often=interrupts > most)
        until = milliseconds(window.begins, ends)  # cumulative, so that no fraction of a ms is lost
        times[kind] += until - spent
        spent = until
    return Measured(**times), hashlib.sha256(msgspec.json.encode((window, evidence))).hexdigest()


def _kind(evidence: Evidence, at: datetime, state: str | None, *, slow: bool, often: bool) -> str:
    if any(interval.holds(at) for interval in evidence.excluded):
        return "excluded_ms"
    if state is None or any(interval.holds(at) for interval in evidence.outages):
        return "unknown_ms"
    return "ok_ms" if state == ONLINE and not slow and not often else "degraded_ms"


def _instants(evidence: Evidence) -> list[datetime]:
    of_intervals = [at for interval in (*evidence.outages, *evidence.excluded) for at in interval]
    return [change.at for change in evidence.presence] + [one.at for one in evidence.latencies] + of_intervals


def _state(evidence: Evidence, at: datetime) -> str | None:
    return next((change.state for change in reversed(evidence.presence) if change.at <= at), None)


def _latency(evidence: Evidence, at: datetime) -> int:
    return next((latency.ms for latency in reversed(evidence.latencies) if latency.at <= at), 0)
