"""The service level agreement: what is promised, how a window of it is judged, and what the customer gets back."""

import re

from domain.kernel import Refusal, Value

BASIS = 10_000
"""Basis points in one."""
RULE = "sla-1"
TIERS = ((9_500, 10_000), (9_900, 2_500), (9_990, 1_000))
"""Rule sla-1: below this availability (bp) this share (bp) of the window's fee is credited; the first that fits."""
MIN_WINDOW_MS, MAX_WINDOW_MS = 60_000, 31 * 86_400_000
_EVIDENCE = re.compile(r"[0-9a-f]{64}")


class SlaInvalid(Refusal):
    """An SLA promises 0 to 10,000 bp in windows of a minute to 31 days, and costs at most the whole price."""


class WindowIncomplete(Refusal):
    """The times of a window are zero or more ms each, and together they are the window."""


class EvidenceInvalid(Refusal):
    """Evidence is named by the 64 lower-case hexadecimal digits of its SHA-256."""


class SlaTerms(Value, frozen=True):
    """What a provider promises.

    `uptime_bp` of the time that was measured the service is as it should be: up, its 95th percentile of latency at
    most `p95_ms`, with at most `max_interrupts_per_h`. It is judged in windows of `window_ms`. A provider that breaches
    the contract pays `penalty_bp` of the agreed price to the insurance, as far as what it earned goes.
    """

    uptime_bp: int
    p95_ms: int
    max_interrupts_per_h: int
    window_ms: int
    penalty_bp: int


class Measured(Value, frozen=True):
    """How the time of a window was spent, in ms. Unknown is not failed, and excluded is what the customer accepted."""

    ok_ms: int
    degraded_ms: int
    unknown_ms: int
    excluded_ms: int


def checked_terms(terms: SlaTerms) -> SlaTerms:
    """The terms, once they are known to be within their bounds.

    Raises:
        SlaInvalid.
    """
    bounds = {
        "uptime_bp": (0, BASIS),
        "p95_ms": (1, 3_600_000),
        "max_interrupts_per_h": (0, 3_600),
        "window_ms": (MIN_WINDOW_MS, MAX_WINDOW_MS),
        "penalty_bp": (0, BASIS),
    }
    for name, (least, most) in bounds.items():
        value = getattr(terms, name)
        if type(value) is not int or not least <= value <= most:
            raise SlaInvalid(f"{name} is a whole number from {least} to {most}")
    return terms


def checked_measures(measured: Measured, length_ms: int) -> Measured:
    """The measures of a window of this length.

    Raises:
        WindowIncomplete.
    """
    times = (measured.ok_ms, measured.degraded_ms, measured.unknown_ms, measured.excluded_ms)
    if any(type(time) is not int or time < 0 for time in times) or sum(times) != length_ms:
        raise WindowIncomplete(f"{times} of {length_ms} ms")
    return measured


def checked_evidence(digest: str) -> str:
    """The digest, once it is known to be one. Raises EvidenceInvalid."""
    if not _EVIDENCE.fullmatch(digest):
        raise EvidenceInvalid(f"{len(digest)} characters")
    return digest


def credit(terms: SlaTerms, measured: Measured, fee: int) -> int:
    """What of a window's fee the customer gets back, in grains, rounded down; nothing while the promise is kept.

    Availability is ok / (ok + degraded), compared exactly. A window of which nothing is known is not judged.
    """
    judged = measured.ok_ms + measured.degraded_ms
    if measured.ok_ms * BASIS >= terms.uptime_bp * judged:
        return 0
    for below_bp, share_bp in TIERS:
        if measured.ok_ms * BASIS < below_bp * judged:
            return fee * share_bp // BASIS
    return 0
