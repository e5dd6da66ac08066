"""The reward formula and the fee, to the grain."""

from dataclasses import replace
from datetime import timedelta
from fractions import Fraction
from itertools import pairwise
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.kernel import Refusal
from domain.kernel.tokens import MAX_GRAINS, AmountTooLarge, tokens
from domain.tokenomics.pricing import (
    ACTIVITY_TYPES,
    MAX_VERIFIED_MS,
    MS_PER_HOUR,
    REWARD_DIVISOR,
    Activity,
    InvalidActivity,
    Policy,
    UnknownActivity,
    fee,
    reward,
)
from infrastructure.settings import Settings

NOBODY = UUID(int=0)
POLICY = Policy()


def work(verified_ms: int, quality_bp: int = 10_000, activity_type: str = "fl_participation") -> Activity:
    """An activity of nobody in particular."""
    return Activity(activity_type, NOBODY, NOBODY, NOBODY, verified_ms, quality_bp)


@pytest.mark.parametrize(
    ("activity_type", "earned"),
    [("harvest_contribution", tokens(10)), ("fl_participation", tokens(15)), ("service_hosting", tokens(10))],
)
def test_an_hour_at_full_quality_earns_ten_tokens_and_training_half_as_much_again(
    activity_type: str, earned: int
) -> None:
    assert reward(POLICY, work(MS_PER_HOUR, activity_type=activity_type)).grains == earned
    assert activity_type in ACTIVITY_TYPES


def test_a_reward_is_rounded_down_and_the_rest_is_carried() -> None:
    # 1 ms x 10^9 grains/h x 10^4 bp x 1.5 x 10^4 bp = 416 2/3 grains
    first = reward(POLICY, work(1))
    assert (first.grains, first.remainder) == (416, REWARD_DIVISOR * 2 // 3)
    assert first.multiplier_bp == 15_000
    assert reward(POLICY, work(1), first.remainder).grains == 417


def test_no_time_or_no_quality_earns_nothing_and_keeps_the_carry() -> None:
    assert reward(POLICY, work(0), 5).remainder == 5
    assert reward(POLICY, work(MS_PER_HOUR, 0), 5).grains == 0


@pytest.mark.parametrize(
    ("activity", "rule"),
    [
        (work(1, activity_type="mining"), UnknownActivity),
        (work(-1), InvalidActivity),
        (work(MAX_VERIFIED_MS + 1), InvalidActivity),
        (work(1, -1), InvalidActivity),
        (work(1, 10_001), InvalidActivity),
    ],
)
def test_an_activity_out_of_bounds_is_refused_by_name(activity: Activity, rule: type[Refusal]) -> None:
    with pytest.raises(rule):
        reward(POLICY, activity)


def test_the_bounds_themselves_are_allowed_and_an_absurd_rate_is_not() -> None:
    assert reward(POLICY, work(MAX_VERIFIED_MS, 10_000)).grains == 366 * 24 * tokens(15)
    hour = work(MS_PER_HOUR, activity_type="harvest_contribution")
    assert reward(replace(POLICY, rate_grains_per_hour=MAX_GRAINS), hour).grains == MAX_GRAINS
    with pytest.raises(AmountTooLarge):
        reward(replace(POLICY, rate_grains_per_hour=MAX_GRAINS + 1), hour)


@given(
    parts=st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10_000)), min_size=1, max_size=8),
    carry=st.integers(0, REWARD_DIVISOR - 1),
)
def test_carrying_pays_exactly_what_the_sum_is_worth(parts: list[tuple[int, int]], carry: int) -> None:
    worth = sum(Fraction(ms * quality * 10**9 * 15_000, REWARD_DIVISOR) for ms, quality in parts)
    paid, left = 0, carry
    for ms, quality in parts:
        earned = reward(POLICY, work(ms, quality), left)
        paid, left = paid + earned.grains, earned.remainder
        assert 0 <= left < REWARD_DIVISOR
    assert paid + Fraction(left, REWARD_DIVISOR) == worth + Fraction(carry, REWARD_DIVISOR)


@given(
    total_ms=st.integers(1, 10**10),
    cuts=st.lists(st.floats(0, 1), max_size=6),
    quality_bp=st.integers(1, 10_000),
)
def test_splitting_a_session_changes_no_payout(total_ms: int, cuts: list[float], quality_bp: int) -> None:
    whole = reward(POLICY, work(total_ms, quality_bp))
    marks = sorted({0, total_ms, *(int(cut * total_ms) for cut in cuts)})
    paid, carry = 0, 0
    for start, end in pairwise(marks):
        earned = reward(POLICY, work(end - start, quality_bp), carry)
        paid, carry = paid + earned.grains, earned.remainder
    assert (paid, carry) == (whole.grains, whole.remainder)


@pytest.mark.parametrize(("gross", "kept"), [(0, 0), (49, 0), (50, 1), (99, 1), (100, 2), (10_000, 200)])
def test_the_fee_is_two_percent_rounded_down(gross: int, kept: int) -> None:
    assert fee(POLICY, gross) == kept


def test_the_settings_of_the_village_are_its_policy() -> None:
    settings = Settings()
    assert (
        Policy.of(
            initial_token_supply=settings.initial_token_supply,
            harvest_reward_rate=settings.harvest_reward_rate,
            fl_participation_bonus=settings.fl_participation_bonus,
            marketplace_fee_percent=settings.marketplace_fee_percent,
            epoch_hours=settings.reward_epoch_hours,
            epoch_budget_tokens=settings.reward_epoch_budget_tokens,
        )
        == POLICY
    )
    assert POLICY.supply_grains == 10**17
    assert POLICY.epoch_ms == timedelta(days=1) // timedelta(milliseconds=1)


def test_fractions_in_settings_become_exact_integers() -> None:
    policy = Policy.of(
        initial_token_supply=1,
        harvest_reward_rate=0.1,
        fl_participation_bonus=1.15,
        marketplace_fee_percent=0.07,
        epoch_hours=1,
        epoch_budget_tokens=1,
    )
    assert policy.rate_grains_per_hour == 10_000_000
    assert policy.multipliers_bp["fl_participation"] == 11_500
    assert policy.fee_bp == 7
