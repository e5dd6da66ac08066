"""Payments, rewards and suspensions of which a step keeps failing park, and end once an operator has it done."""

from collections.abc import Iterator
from uuid import uuid4

import pytest

from domain.harvest import audit
from domain.harvest.session import HarvestSession
from domain.kernel.tokens import tokens
from domain.marketplace.hand_off import heir_of
from domain.sagas.process import (
    ABANDON,
    COMPENSATE,
    COMPENSATED,
    COMPLETED,
    PARKED,
    RETRY,
    SKIP,
    NothingToSkip,
    PivotPassed,
)
from domain.tokenomics.accounts import wallet_id_of
from domain.tokenomics.reward_claim import claim_id_of
from tests.trading import PRICE

from .harvesting import Harvesting, MemoryHarvesting
from .paying import FEE, FUNDS, TEN_MINUTES, Market
from .stubborn import out_of_order
from .suspending import MemorySuspending, Suspending


@pytest.fixture
def harvest(monkeypatch: pytest.MonkeyPatch) -> Iterator[Harvesting]:
    monkeypatch.setattr(audit, "AUDIT_ROUNDS", 10)
    harvest = MemoryHarvesting()
    yield harvest
    harvest.close()


@pytest.fixture
def suspending() -> Iterator[Suspending]:
    suspending = MemorySuspending()
    yield suspending
    suspending.close()


def holds(market: Market) -> list[str]:
    """What became of what the customer had held."""
    return [name for name in market.names(wallet_id_of(market.customer_id)) if name.startswith(("Funds", "Hold"))]


# Payments.


@pytest.mark.parametrize("action", [RETRY, COMPENSATE])
@pytest.mark.parametrize(
    "command",
    [
        "tokenomics.void_hold",
        "marketplace.release_capacity",
        "marketplace.call_off_contract",
        "marketplace.cancel_jobs",
    ],
)
def test_a_payment_of_which_something_cannot_be_taken_back_parks_until_an_operator_has_it_done(
    market: Market, command: str, action: str
) -> None:
    contract_id = market.propose()
    market.ask(market.registry.suspend_device, device_id=market.device_id, reason="a drill")
    with out_of_order(market.stage, command):
        market.stage.until_quiet()
        process = market.process(contract_id)
        assert (process.status, process.reason) == (PARKED, "out_of_order")
        market.resolve(contract_id, action)
        market.stage.until_quiet()
        assert market.process(contract_id).status == PARKED
    market.resolve(contract_id, action)
    assert market.process(contract_id).status == COMPENSATED
    assert market.names(contract_id)[-2:] == ["Cancelled", "Settled"]
    assert (holds(market), market.balances()["customer"]) == (["FundsHeld", "HoldVoided"], FUNDS)
    assert market.offering().free == 4
    market.assert_sound()
    market.stage.adds_nothing()


@pytest.mark.parametrize(
    "command", ["marketplace.release_capacity", "marketplace.cancel_jobs", "tokenomics.capture_hold"]
)
def test_a_service_that_was_delivered_and_cannot_be_paid_parks_and_a_retry_pays_it(
    market: Market, command: str
) -> None:
    contract_id = market.delivered(50 * 60_000)
    with out_of_order(market.stage, command):
        market.work(contract_id, TEN_MINUTES)
        market.judge(contract_id)
        market.stage.until_quiet()
        assert (market.process(contract_id).status, market.process(contract_id).reason) == (PARKED, "out_of_order")
    market.resolve(contract_id, RETRY)
    market.stage.until_quiet()
    assert market.process(contract_id).status == COMPLETED
    assert (market.balances()["provider"], holds(market)) == (PRICE - FEE, ["FundsHeld", "HoldCaptured"])
    assert market.offering().free == 4
    market.assert_sound()


@pytest.mark.parametrize("command", ["marketplace.settle_contract", "marketplace.count_trade"])
def test_what_was_captured_is_not_taken_back_and_is_settled_by_a_retry(market: Market, command: str) -> None:
    contract_id = market.delivered(50 * 60_000)
    with out_of_order(market.stage, command):
        market.work(contract_id, TEN_MINUTES)
        market.judge(contract_id)
    assert market.process(contract_id).status == PARKED
    for action, refusal in ((COMPENSATE, PivotPassed), (SKIP, NothingToSkip)):
        with pytest.raises(refusal):
            market.resolve(contract_id, action)
    market.resolve(contract_id, RETRY)
    market.stage.until_quiet()
    assert (market.process(contract_id).status, market.names(contract_id).count("Settled")) == (COMPLETED, 1)
    assert (market.balances()["provider"], holds(market)) == (PRICE - FEE, ["FundsHeld", "HoldCaptured"])
    market.assert_sound()


# Rewards of harvest.


@pytest.mark.parametrize("command", ["harvest.judge_audit", "tokenomics.accrue_reward", "harvest.mark_rewarded"])
def test_a_reward_that_cannot_be_claimed_parks_and_a_retry_pays_it_once(harvest: Harvesting, command: str) -> None:
    owner = uuid4()
    session_id = harvest.session(harvest.device(owner), minutes=6)
    with out_of_order(harvest.stage, command):
        harvest.stage.until_quiet()
    process = harvest.process(session_id)
    assert (process.status, process.reason) == (PARKED, "out_of_order")
    harvest.stage.resolve(process.id, RETRY)
    harvest.stage.until_quiet()
    assert (harvest.process(session_id).status, harvest.wallet(owner).available) == (COMPLETED, tokens(1))


def test_a_reward_that_an_operator_gives_up_stays_a_claim_that_a_batch_pays_once(harvest: Harvesting) -> None:
    owner = uuid4()
    device_id = harvest.device(owner)
    session_id = harvest.session(device_id, minutes=6)
    with out_of_order(harvest.stage, "tokenomics.distribute_rewards"):
        harvest.stage.until_quiet()
    process = harvest.process(session_id)
    assert (process.status, process.reason) == (PARKED, "out_of_order")
    with pytest.raises(PivotPassed):
        harvest.stage.resolve(process.id, COMPENSATE)
    harvest.stage.resolve(process.id, ABANDON)
    claim_id = claim_id_of("harvest_contribution", session_id, device_id)
    paid = [harvest.distribute([claim_id]).extra["posted"] for _ in range(2)]
    assert (paid, harvest.wallet(owner).available) == ([1, 0], tokens(1))


# Suspensions.


@pytest.mark.parametrize(
    "command",
    [
        "harvest.close_session",
        "federated_learning.leave_training",
        "marketplace.withdraw_offering",
        "marketplace.breach_contract",
        "tokenomics.void_rewards",
    ],
)
def test_a_suspension_that_cannot_end_something_parks_and_a_retry_ends_all_of_it_once(
    suspending: Suspending, command: str
) -> None:
    session_id, round_id, contract_id = suspending.lend(), suspending.train(), suspending.running()
    claim_id = suspending.earned()
    process_id = suspending.suspend()
    with out_of_order(suspending.stage, command):
        suspending.act()
        suspending.stage.wait(minutes=1)
        assert suspending.standing(process_id) == (PARKED, "out_of_order")
        suspending.stage.resolve(process_id, RETRY)
        assert suspending.standing(process_id) == (PARKED, "out_of_order")
    suspending.stage.resolve(process_id, RETRY)
    assert suspending.suspension(process_id).status == COMPLETED
    suspending.stage.until_quiet()
    suspending.assert_idle()
    assert suspending.names(session_id).count("SessionClosed") == 1
    assert suspending.names(round_id).count("ParticipantLeft") == 1
    assert suspending.names(contract_id).count("Breached") == 1
    assert suspending.names(claim_id) == ["Accrued", "Voided"]
    suspending.assert_sound()


def test_a_contract_that_cannot_be_moved_whole_is_breached_and_its_hold_is_left_to_its_payment(
    suspending: Suspending,
) -> None:
    suspending.rival()
    contract_id = suspending.running(request_id=suspending.receipt(2 * PRICE))
    suspending.work(contract_id, TEN_MINUTES)
    process_id = suspending.suspend()
    with out_of_order(suspending.stage, "marketplace.hand_off_contract"):
        suspending.act()
    assert suspending.suspension(process_id).status == COMPLETED
    assert (suspending.contract(contract_id).status, suspending.names(heir_of(contract_id))) == ("breached", [])
    suspending.stage.until_quiet()
    assert holds(suspending) == ["FundsHeld", "HoldCaptured"]
    suspending.assert_sound()


def test_a_suspension_that_an_operator_gives_up_ends_no_more_and_the_next_one_ends_the_rest(
    suspending: Suspending,
) -> None:
    contract_id, session_id = suspending.running(), suspending.lend()
    process_id = suspending.suspend()
    with out_of_order(suspending.stage, "marketplace.withdraw_offering"):
        suspending.act()
    suspending.stage.resolve(process_id, ABANDON)
    suspending.stage.wait(minutes=1)
    assert suspending.contract(contract_id).status == "active"
    assert not suspending.log.load(HarvestSession, session_id).is_open
    suspending.ask(suspending.registry.reinstate_device, device_id=suspending.device_id, reason="once more")
    again = suspending.suspend()
    suspending.act()
    assert (suspending.suspension(again).status, suspending.contract(contract_id).status) == (COMPLETED, "breached")
    suspending.stage.until_quiet()
    suspending.assert_idle()
    suspending.assert_sound()
