"""Paying for a service: verified, held, delivered and captured, or taken back before it begins."""

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from domain.sagas.pay_for_service import PARKED_FOR, PayForService, PaymentPolicy
from domain.sagas.process import COMPENSATE, COMPENSATED, COMPLETED, PARKED, RETRY, RUNNING
from domain.tokenomics import wallet
from domain.tokenomics.wallet import HoldOfContract
from tests.trading import HOUR, HOUR_MS, PRICE

from .paying import FEE, FUNDS, TEN_MINUTES, Market

# The way it should go.


def test_a_service_is_held_for_delivered_and_paid_to_the_grain(market: Market) -> None:
    contract_id = market.running()
    assert market.wallet(market.customer_id).held == PRICE
    assert market.offering().free == 3
    for _ in range(6):
        market.work(contract_id, TEN_MINUTES)
        market.judge(contract_id)
    assert market.process(contract_id).status == COMPLETED
    assert market.names(contract_id)[-2:] == ["SlaWindowEvaluated", "Settled"]
    assert market.balances() == {
        "customer": FUNDS - PRICE, "provider": PRICE - FEE, "fees": FEE, "insurance": 0
    }  # fmt: skip
    settled = market.settled(contract_id)
    assert (settled.charged_grains, settled.fee_grains, settled.provider_grains) == (PRICE, FEE, PRICE - FEE)
    assert (market.offering().free, market.wallet(market.customer_id).held) == (4, 0)
    assert market.reputation_bp() == 4_000  # (1 + 1) / (1 + 4)
    market.assert_sound()


def test_the_steps_of_a_payment_are_the_facts_of_its_process(market: Market) -> None:
    contract_id = market.delivered()
    assert market.names(market.process(contract_id).id) == [
        "Began", *["StepDone"] * 5, "StepAwaited", "StepDone", "StepAwaited", "StepDone", "StepDone", "Completed",
    ]  # fmt: skip


def test_what_was_not_used_is_not_paid(market: Market) -> None:
    contract_id = market.running()
    market.work(contract_id, 1_000)
    market.ask(market.market.cancel_contract, contract_id=contract_id, customer_id=market.customer_id, reason="enough")
    market.stage.until_quiet()
    assert market.balances()["customer"] == FUNDS - 10_000
    assert market.settled(contract_id).released_grains == PRICE - 10_000
    market.assert_sound()


def test_a_service_that_delivered_nothing_is_paid_nothing_and_its_hold_is_voided(market: Market) -> None:
    contract_id = market.running()
    market.stage.until_quiet()
    assert market.names(contract_id)[-2:] == ["Expired", "Settled"]
    assert market.process(contract_id).status == COMPLETED
    assert (market.balances()["customer"], market.wallet(market.customer_id).held) == (FUNDS, 0)
    assert market.reputation_bp() is None
    market.assert_sound()


def test_what_is_accepted_is_paid_at_once_when_it_is_judged(market: Market) -> None:
    contract_id = market.running()
    market.work(contract_id, TEN_MINUTES)
    market.ask(market.market.complete_contract, contract_id=contract_id, customer_id=market.customer_id)
    market.stage.run()
    assert market.process(contract_id).status == RUNNING
    market.judge(contract_id)
    assert market.process(contract_id).status == COMPLETED
    assert market.balances()["customer"] == FUNDS - PRICE // 6


# Refusals before the work begins.


def test_a_customer_without_funds_is_tried_again_three_times_and_then_refused(market: Market) -> None:
    contract_id = market.propose(units=4)
    market.stage.run()
    assert market.process(contract_id).status == RUNNING
    before = market.now
    market.stage.until_quiet()
    process = market.process(contract_id)
    assert (process.status, process.reason) == (COMPENSATED, "insufficient_funds")
    assert market.names(process.id).count("StepRetried") == 3
    assert market.names(contract_id) == ["ServiceContractCreated", "Cancelled", "Settled"]
    assert market.now > before
    assert market.balances()["customer"] == FUNDS


def test_funds_that_come_while_a_payment_is_tried_again_are_in_time(market: Market) -> None:
    contract_id = market.propose(units=4)
    market.stage.run()
    market.given(2 * FUNDS, market.customer_id)
    market.stage.wait(seconds=8)
    assert market.contract(contract_id).status == "active"


def test_a_payment_that_is_not_to_be_tried_again_is_not(market: Market) -> None:
    market.stage.handlers = [PayForService(market.village.deadlines, PaymentPolicy(max_retries=0))]
    contract_id = market.propose(units=4)
    market.stage.run()
    assert market.process(contract_id).status == COMPENSATED


def test_what_is_taken_up_too_late_is_not_held(market: Market) -> None:
    contract_id = market.propose()
    market.now += timedelta(seconds=31)
    market.stage.until_quiet()
    assert market.process(contract_id).reason == "payment_timed_out"
    assert (market.balances()["customer"], market.wallet(market.customer_id).held) == (FUNDS, 0)


def test_capacity_that_is_gone_voids_the_hold(market: Market) -> None:
    market.given(3 * FUNDS, market.customer_id)
    first = market.running(units=3)
    second = market.propose(units=2)
    market.stage.run()
    process = market.process(second)
    assert (process.status, process.reason) == (COMPENSATED, "capacity_exhausted")
    assert market.names(process.id)[-6:] == ["StepDone", "CompensationBegan", *["StepUndone"] * 3, "Compensated"]
    assert market.names(second)[-2:] == ["Cancelled", "Settled"]
    assert market.wallet(market.customer_id).held == 3 * PRICE
    assert market.contract(first).status == "active"
    market.assert_sound()


def test_a_contract_whose_deadline_is_too_close_at_its_start_is_taken_back_whole(market: Market) -> None:
    contract_id = market.propose(deadline_at=market.now + HOUR)
    market.now += timedelta(seconds=5)
    market.stage.run()
    process = market.process(contract_id)
    assert (process.status, process.reason) == (COMPENSATED, "deadline_too_close")
    assert (market.offering().free, market.wallet(market.customer_id).held) == (4, 0)
    market.assert_sound()


def test_a_device_that_was_suspended_since_does_not_start(market: Market) -> None:
    contract_id = market.propose()
    market.ask(market.registry.suspend_device, device_id=market.device_id, reason="a drill")
    market.stage.run()
    assert (market.process(contract_id).status, market.process(contract_id).reason) == (COMPENSATED, "device_suspended")
    assert (market.offering().free, market.wallet(market.customer_id).held) == (4, 0)


def test_a_contract_that_is_cancelled_before_it_starts_costs_nothing(market: Market) -> None:
    contract_id = market.propose()
    market.ask(market.market.cancel_contract, contract_id=contract_id, customer_id=market.customer_id, reason="no")
    market.stage.run()
    assert market.process(contract_id).reason == "wrong_contract_state"
    assert market.names(contract_id)[-2:] == ["Cancelled", "Settled"]
    assert market.wallet(market.customer_id).held == 0


# What nobody but the contract may do.


def test_nobody_but_its_contract_ends_a_hold(market: Market) -> None:
    contract_id = market.running()
    hold: dict[str, Any] = {"owner_id": market.customer_id, "hold_id": market.contract(contract_id).hold_id}
    with pytest.raises(HoldOfContract):
        market.ask(market.service.void_hold, **hold)
    with pytest.raises(HoldOfContract):
        market.ask(market.service.void_hold, **hold, contract_id=uuid4())
    with pytest.raises(HoldOfContract):
        market.ask(market.service.capture_hold, **hold, to_owner_id=market.provider_id, grains=1)
    assert market.wallet(market.customer_id).held == PRICE


# Operators.


def parked(market: Market) -> UUID:
    """A contract that was delivered, and whose process stood still until its deadline had passed."""
    contract_id = market.running()
    market.now += HOUR
    market.ask(market.market.report_usage, contract_id=contract_id, provider_id=None, cumulative_ms=HOUR_MS)
    market.now += 3 * HOUR
    market.stage.projector.run_once()
    market.stage.clock.tick()
    market.stage.until_quiet()
    assert (market.process(contract_id).status, market.process(contract_id).reason) == (PARKED, "timed_out")
    return contract_id


def test_what_was_delivered_is_not_undone_by_a_village_that_stood_still(market: Market) -> None:
    contract_id = parked(market)
    assert market.wallet(market.customer_id).held == PRICE
    market.resolve(contract_id, RETRY)
    market.stage.until_quiet()
    assert market.process(contract_id).status == COMPLETED
    assert market.balances()["provider"] == PRICE - FEE
    market.assert_sound()


def test_an_operator_may_take_back_what_is_parked(market: Market) -> None:
    contract_id = parked(market)
    market.resolve(contract_id, COMPENSATE)
    assert market.process(contract_id).status == COMPENSATED
    assert market.names(contract_id)[-1] == "Settled"
    assert (market.balances()["customer"], market.wallet(market.customer_id).held) == (FUNDS, 0)
    assert market.offering().free == 4
    market.assert_sound()


def test_funds_of_a_process_nobody_decides_over_are_free_again_in_the_end(market: Market) -> None:
    contract_id = parked(market)
    market.now = market.process(contract_id).due_at + PARKED_FOR
    market.pay(market.customer_id, market.provider_id, FUNDS)
    market.resolve(contract_id, RETRY)
    assert (market.process(contract_id).status, market.process(contract_id).reason) == (PARKED, "hold_already_ended")
    market.resolve(contract_id, COMPENSATE)
    assert market.process(contract_id).status == COMPENSATED
    market.assert_sound()


def test_a_hold_that_its_wallet_has_forgotten_hinders_nobody_from_taking_back(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    contract_id = parked(market)
    market.now = market.process(contract_id).due_at + PARKED_FOR
    market.pay(market.customer_id, market.provider_id, FUNDS)
    monkeypatch.setattr(wallet, "MAX_REMEMBERED", 1)
    market.given(1, market.customer_id)
    another: dict[str, Any] = {"hold_id": uuid4(), "grains": 1, "expires_at": market.now + HOUR}
    market.ask(market.service.hold_funds, owner_id=market.customer_id, **another)
    assert not market.wallet(market.customer_id).ended
    market.resolve(contract_id, COMPENSATE)
    market.stage.until_quiet()
    assert (market.process(contract_id).status, market.offering().free) == (COMPENSATED, 4)
    market.assert_sound()
