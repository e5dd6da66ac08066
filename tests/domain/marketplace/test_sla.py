"""The service level agreement: tiers, unknown and excluded time, and what a credit never exceeds."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from domain.kernel.tokens import MAX_GRAINS
from domain.marketplace.sla import (
    EvidenceInvalid,
    Measured,
    SlaInvalid,
    WindowIncomplete,
    checked_evidence,
    checked_measures,
    checked_terms,
    credit,
)
from tests.trading import SLA, measured

FEE = 1_000_001
TIERS = [
    (10_000, 0, 0),
    (9_990, 10, 0),
    (9_989, 11, FEE // 10),
    (9_900, 100, FEE // 10),
    (9_899, 101, FEE // 4),
    (9_500, 500, FEE // 4),
    (9_499, 501, FEE),
    (0, 10_000, FEE),
]


@pytest.mark.parametrize(("ok_ms", "degraded_ms", "grains"), TIERS)
def test_a_window_is_credited_by_its_tier_to_the_ms(ok_ms: int, degraded_ms: int, grains: int) -> None:
    assert credit(SLA, measured(ok_ms, degraded_ms), FEE) == grains


def test_unknown_and_excluded_time_is_not_failed_time() -> None:
    assert credit(SLA, measured(0, 0, unknown_ms=900, excluded_ms=100), FEE) == 0
    assert credit(SLA, measured(1, 0, unknown_ms=999), FEE) == 0
    assert credit(SLA, measured(0, 1, unknown_ms=999), FEE) == FEE


def test_a_promise_that_is_kept_is_credited_nothing_whatever_the_tier() -> None:
    modest = replace(SLA, uptime_bp=9_000)
    assert credit(modest, measured(9_000, 1_000), FEE) == 0
    assert credit(modest, measured(8_999, 1_001), FEE) == FEE
    assert credit(replace(SLA, uptime_bp=0), measured(0, 1_000), FEE) == 0


times = st.integers(0, 10**9)


@given(st.integers(0, 10_000), times, times, times, times, st.integers(0, MAX_GRAINS))
def test_a_credit_is_at_most_the_fee_and_grows_with_degraded_time(
    uptime_bp: int, ok: int, degraded: int, unknown: int, excluded: int, fee: int
) -> None:
    terms = replace(SLA, uptime_bp=uptime_bp)
    given_back = credit(terms, Measured(ok, degraded, unknown, excluded), fee)
    assert 0 <= given_back <= fee
    assert given_back == credit(terms, Measured(ok, degraded, 0, 0), fee)
    if ok:
        assert given_back <= credit(terms, Measured(ok - 1, degraded + 1, 0, 0), fee)


@pytest.mark.parametrize(
    "change",
    [
        {"uptime_bp": -1}, {"uptime_bp": 10_001}, {"uptime_bp": True}, {"p95_ms": 0}, {"max_interrupts_per_h": -1},
        {"window_ms": 59_999}, {"window_ms": 10**12}, {"penalty_bp": 10_001},
    ],
)  # fmt: skip
def test_terms_out_of_bounds_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(SlaInvalid):
        checked_terms(replace(SLA, **change))


def test_the_times_of_a_window_are_the_window() -> None:
    assert checked_measures(measured(4, 3, 2, 1), 10).ok_ms == 4
    for times in ((4, 3, 2, 2), (12, -2, 0, 0), (0, 0, 0, 0)):
        with pytest.raises(WindowIncomplete):
            checked_measures(Measured(*times), 10)


def test_evidence_is_a_digest() -> None:
    for text in ("", "e" * 63, "E" * 64, "e" * 64 + "\n"):
        with pytest.raises(EvidenceInvalid):
            checked_evidence(text)
