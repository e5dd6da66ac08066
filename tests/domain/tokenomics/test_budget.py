"""Epochs and issuance: what rewards may cost, in each epoch and for ever."""

from collections.abc import Iterator
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.kernel import new_scope, within
from domain.kernel.time import utc
from domain.kernel.tokens import AmountNotPositive
from domain.tokenomics.budget import affordable
from domain.tokenomics.issuance import EpochOver, Issuance, SupplyExhausted
from domain.tokenomics.legs import batch_legs
from domain.tokenomics.pricing import BASIS, MAX_VERIFIED_MS, REWARD_DIVISOR, Activity, Policy, Reward, reward
from domain.tokenomics.reward_claim import ClaimAlreadyPosted, RewardClaim, claim_id_of
from domain.tokenomics.reward_epoch import (
    EpochBudgetExhausted,
    EpochClosed,
    ReservationIdReused,
    RewardEpoch,
    epoch_id_of,
    epoch_number,
    epoch_span,
)
from tests.facts import assert_replays, facts_of, names_of, refuses

DAY_MS = 86_400_000


@pytest.fixture(autouse=True)
def in_a_command() -> Iterator[None]:
    with within(new_scope("test")):
        yield


def some_epoch(budget: int = 100) -> RewardEpoch:
    starts_at, ends_at = epoch_span(7, DAY_MS)
    return RewardEpoch(epoch_id=epoch_id_of(7), number=7, budget=budget, starts_at=starts_at, ends_at=ends_at)


def some_claim(grains: int, wallet: int = 1) -> RewardClaim:
    activity = Activity("fl_participation", uuid4(), uuid4(), uuid4(), 1, 1)
    earned = Reward(grains, 0, 15_000)
    return RewardClaim.accrue(
        activity, earned, wallet_id=UUID(int=wallet), carry=3, policy=Policy(), cause_event_id=None
    )


def test_an_epoch_reserves_up_to_its_budget() -> None:
    epoch = some_epoch(100)
    epoch.reserve(UUID(int=1), 60)
    with refuses(EpochBudgetExhausted, epoch):
        epoch.reserve(UUID(int=2), 41)
    epoch.reserve(UUID(int=2), 40)
    assert (epoch.reserved, epoch.unreserved) == (100, 0)
    assert facts_of(epoch)[-1] == (RewardEpoch.BudgetReserved, {"reservation_id": UUID(int=2), "grains": 40})
    assert_replays(epoch)


def test_a_reservation_is_made_once_and_of_something() -> None:
    epoch = some_epoch()
    epoch.reserve(UUID(int=1), 1)
    with refuses(ReservationIdReused, epoch):
        epoch.reserve(UUID(int=1), 1)
    with refuses(AmountNotPositive, epoch):
        epoch.reserve(UUID(int=2), 0)


def test_an_epoch_knows_its_newest_thousand_reservations() -> None:
    epoch = some_epoch(2_000)
    for number in range(1_002):
        epoch.reserve(UUID(int=number), 1)
    assert epoch.reservations == [UUID(int=number) for number in range(2, 1_002)]
    with refuses(ReservationIdReused, epoch):
        epoch.reserve(UUID(int=2), 1)
    assert_replays(epoch)


def test_a_closed_epoch_reserves_nothing_and_tells_what_it_did_not_spend() -> None:
    epoch = some_epoch(100)
    epoch.reserve(UUID(int=1), 30)
    epoch.close()
    assert facts_of(epoch)[-1] == (RewardEpoch.Closed, {"unspent": 70})
    assert (epoch.closed, epoch.unreserved) == (True, 0)
    with refuses(EpochClosed, epoch):
        epoch.reserve(UUID(int=2), 1)
    epoch.close()
    assert names_of(epoch) == ["Opened", "BudgetReserved", "Closed"]
    assert_replays(epoch)


@given(budget=st.integers(0, 1_000), asked=st.lists(st.integers(1, 400), max_size=20))
def test_reservations_never_cost_more_than_the_budget(budget: int, asked: list[int]) -> None:
    with within(new_scope("test")):
        epoch, reserved = some_epoch(budget), 0
        for grains in asked:
            if reserved + grains <= budget:
                epoch.reserve(uuid4(), grains)
                reserved += grains
            else:
                with refuses(EpochBudgetExhausted, epoch):
                    epoch.reserve(uuid4(), grains)
        assert epoch.reserved == reserved <= budget
        assert_replays(epoch)


def test_epochs_are_numbered_by_whole_lengths_since_1970() -> None:
    assert epoch_number(utc(1970, 1, 1), DAY_MS) == 0
    assert epoch_number(utc(1970, 1, 2) - timedelta(microseconds=1), DAY_MS) == 0
    assert epoch_number(utc(1970, 1, 2), DAY_MS) == 1
    assert epoch_span(1, DAY_MS) == (utc(1970, 1, 2), utc(1970, 1, 3))
    assert epoch_id_of(1) != epoch_id_of(2)


def test_issuance_allots_the_supply_and_takes_back_what_is_unspent() -> None:
    issuance = Issuance(supply=100)
    assert (issuance.unallotted, issuance.running) == (100, 0)
    issuance.fund(7, 80, 7)
    with refuses(SupplyExhausted, issuance):
        issuance.fund(8, 21, 7)
    issuance.fund(8, 20, 7)
    issuance.settle(7, 50)
    assert (issuance.unallotted, issuance.unsettled, issuance.running) == (50, {8}, 7)
    issuance.fund(9, 50, 9)
    assert facts_of(issuance)[-2:] == [
        (Issuance.EpochSettled, {"number": 7, "unspent": 50}),
        (Issuance.EpochFunded, {"number": 9, "budget": 50, "running": 9}),
    ]
    assert_replays(issuance)


def test_an_epoch_that_is_over_is_funded_no_more_even_by_a_clock_that_lags() -> None:
    issuance = Issuance(supply=100)
    issuance.fund(9, 10, 7)
    issuance.fund(8, 10, 8)
    for number in (6, 7):
        with refuses(EpochOver, issuance):
            issuance.fund(number, 1, 6)
    issuance.fund(10, 1, 6)
    assert issuance.running == 8


@given(
    supply=st.integers(0, 1_000),
    steps=st.lists(st.tuples(st.integers(0, 500), st.integers(0, 100)), max_size=12),
)
def test_budgets_together_never_exceed_the_supply(supply: int, steps: list[tuple[int, int]]) -> None:
    with within(new_scope("test")):
        issuance, spent = Issuance(supply=supply), 0
        for number, (budget, spent_percent) in enumerate(steps):
            if budget > supply - spent:
                with refuses(SupplyExhausted, issuance):
                    issuance.fund(number, budget, number)
                continue
            issuance.fund(number, budget, number)
            used = budget * spent_percent // 100
            issuance.settle(number, budget - used)
            spent += used
            assert issuance.unallotted == supply - spent >= 0
        assert_replays(issuance)


def test_a_claim_tells_every_input_of_its_formula_and_is_posted_once() -> None:
    claim = some_claim(5)
    (accrued,) = facts_of(claim)
    assert accrued[0] is RewardClaim.Accrued
    inputs = {"verified_ms", "quality_bp", "multiplier_bp", "rate_grains_per_hour", "rule_version", "carry", "grains"}
    assert inputs < accrued[1].keys()
    assert (accrued[1]["carry"], accrued[1]["grains"], accrued[1]["rate_grains_per_hour"]) == (3, 5, 10**9)
    transfer_id, epoch_id = uuid4(), uuid4()
    claim.post(transfer_id, epoch_id)
    assert facts_of(claim)[-1] == (
        RewardClaim.Posted,
        {
            "claim_id": claim.id, "device_id": claim.device_id, "grains": 5, "transfer_id": transfer_id,
            "epoch_id": epoch_id,
        },
    )  # fmt: skip
    with refuses(ClaimAlreadyPosted, claim):
        claim.post(transfer_id, epoch_id)
    assert_replays(claim)


@given(
    verified_ms=st.integers(0, MAX_VERIFIED_MS),
    quality_bp=st.integers(0, BASIS),
    carry=st.integers(0, REWARD_DIVISOR - 1),
    times=st.integers(0, 3),
)
def test_whatever_a_claim_earns_follows_from_its_own_fact_and_is_posted_once(
    verified_ms: int, quality_bp: int, carry: int, times: int
) -> None:
    with within(new_scope("test")):
        activity = Activity("fl_participation", uuid4(), uuid4(), uuid4(), verified_ms, quality_bp)
        earned = reward(Policy(), activity, carry)
        wallet_id = uuid4()
        claim = RewardClaim.accrue(
            activity, earned, wallet_id=wallet_id, carry=carry, policy=Policy(), cause_event_id=None
        )
        (_, said) = facts_of(claim)[0]
        product = said["verified_ms"] * said["rate_grains_per_hour"] * said["quality_bp"] * said["multiplier_bp"]
        assert said["grains"] == (product + said["carry"]) // REWARD_DIVISOR
        for attempt in range(times):
            if attempt:
                with refuses(ClaimAlreadyPosted, claim):
                    claim.post(uuid4(), epoch_id_of(7))
            else:
                claim.post(uuid4(), epoch_id_of(7))
        assert names_of(claim) == ["Accrued"] + ["Posted"] * min(times, 1)
        assert_replays(claim)


def test_a_claim_of_nothing_is_posted_without_a_transfer() -> None:
    claim = some_claim(0)
    claim.post(uuid4(), uuid4())
    assert facts_of(claim)[-1][1]["transfer_id"] is None
    assert claim.posted


def test_the_id_of_a_claim_is_that_of_its_activity() -> None:
    device, activity = uuid4(), uuid4()
    ids = {
        claim_id_of("fl_participation", activity, device),
        claim_id_of("fl_participation", activity, device),
        claim_id_of("harvest_contribution", activity, device),
        claim_id_of("fl_participation", device, activity),
    }
    assert len(ids) == 3


def test_a_budget_pays_first_come_first_served_and_a_smaller_claim_may_pass_a_larger_one() -> None:
    claims = [some_claim(grains) for grains in (50, 60, 10, 40, 1)]
    assert [claim.grains for claim in affordable(claims, 100)] == [50, 10, 40]
    assert affordable(claims, 161) == claims
    assert affordable([], 0) == []
    with pytest.raises(EpochBudgetExhausted):
        affordable(claims, 0)


def test_a_budget_of_nothing_pays_claims_of_nothing() -> None:
    assert [claim.grains for claim in affordable([some_claim(0), some_claim(5)], 0)] == [0]


def test_a_batch_has_one_leg_for_each_wallet_and_none_for_nothing() -> None:
    legs = batch_legs([some_claim(5, 1), some_claim(6, 2), some_claim(7, 1), some_claim(0, 3)])
    assert [leg.grains for leg in legs] == [-18, 12, 6]
    assert batch_legs([some_claim(0)]) == []
    assert batch_legs([]) == []
