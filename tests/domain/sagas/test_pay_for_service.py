"""Paying for a service: held, delivered, captured once, shared to the grain, whatever crashes, doubles or is late."""

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from domain.kernel import Refusal, new_scope, within
from domain.sagas.pay_for_service import PARKED_FOR, PayForService, PaymentPolicy
from domain.sagas.process import COMPENSATE, COMPENSATED, COMPLETED, ENDED, PARKED, RETRY, RUNNING
from domain.tokenomics.wallet import HoldOfContract
from tests.sagas import DEATHS, Faults, Oracle, deliveries, faults
from tests.trading import HOUR, HOUR_MS, PRICE, SLA

from .paying import FUNDS, Market

TEN_MINUTES = 600_000
FEE = PRICE // 50
NO_SLA = replace(SLA, uptime_bp=0)


def delivered(market: Market, ms: int = HOUR_MS, **changes: Any) -> UUID:
    """A contract whose service was delivered for so long, and judged well."""
    contract_id = market.running(**changes)
    for _ in range(ms // TEN_MINUTES):
        market.work(contract_id, TEN_MINUTES)
        market.judge(contract_id)
    if ms % TEN_MINUTES:
        market.work(contract_id, ms % TEN_MINUTES)
    return contract_id


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
    contract_id = delivered(market)
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


# Service levels.


def test_an_sla_credit_is_not_captured_and_weighs_on_the_reputation(market: Market) -> None:
    contract_id = market.running()
    for index in range(6):
        market.work(contract_id, TEN_MINUTES)
        market.judge(contract_id, **({"ok_ms": 580_000, "degraded_ms": 20_000} if index == 2 else {}))
    credit = PRICE // 6 // 4
    settled = market.settled(contract_id)
    assert (settled.credit_grains, settled.charged_grains) == (credit, PRICE - credit)
    assert market.balances()["customer"] == FUNDS - PRICE + credit
    assert market.reputation_bp() == 2_000
    market.assert_sound()


def test_time_nobody_knows_about_costs_the_provider_nothing(market: Market) -> None:
    contract_id = market.running()
    market.work(contract_id, HOUR_MS)
    assert market.process(contract_id).status == RUNNING  # six windows are not judged
    market.judge(contract_id, ok_ms=0, unknown_ms=600_000)
    market.judge(contract_id, ok_ms=100_000, excluded_ms=500_000)
    market.stage.until_quiet()
    assert market.settled(contract_id).credit_grains == 0
    assert market.balances()["provider"] == PRICE - FEE


def test_a_breach_costs_the_provider_a_penalty_that_goes_to_the_insurance(market: Market) -> None:
    contract_id = market.running()
    market.work(contract_id, HOUR_MS // 2)
    market.ask(market.market.breach_contract, contract_id=contract_id, provider_id=market.provider_id, reason="gone")
    market.stage.until_quiet()
    half = PRICE // 2
    assert market.balances() == {
        "customer": FUNDS - half, "provider": half - FEE // 2 - PRICE // 10, "fees": FEE // 2, "insurance": PRICE // 10,
    }  # fmt: skip
    assert market.reputation_bp() == 2_000
    market.assert_sound()


def test_a_penalty_takes_no_more_than_what_the_provider_would_get(market: Market) -> None:
    contract_id = market.running()
    market.work(contract_id, 1_000)
    market.ask(market.market.breach_contract, contract_id=contract_id, provider_id=None, reason="found out")
    market.stage.until_quiet()
    settled = market.settled(contract_id)
    assert (settled.fee_grains, settled.penalty_grains, settled.provider_grains) == (200, 9_800, 0)
    market.assert_sound()


def test_a_dispute_is_decided_before_anything_is_paid(market: Market) -> None:
    contract_id = market.running()
    market.work(contract_id, TEN_MINUTES)
    market.ask(market.market.dispute_contract, contract_id=contract_id, customer_id=market.customer_id, reason="no")
    market.ask(market.market.complete_contract, contract_id=contract_id, customer_id=market.customer_id)
    market.judge(contract_id)
    assert market.process(contract_id).status == RUNNING
    market.ask(market.market.decide_dispute, contract_id=contract_id, payable_ms=1_000, reason="a second came")
    market.stage.run()
    assert market.settled(contract_id).charged_grains == 10_000


def test_a_dispute_nobody_decides_lapses_with_the_review(market: Market) -> None:
    contract_id = market.running()
    market.work(contract_id, TEN_MINUTES)
    market.ask(market.market.dispute_contract, contract_id=contract_id, customer_id=market.customer_id, reason="no")
    market.stage.until_quiet()
    assert market.settled(contract_id).charged_grains == PRICE // 6


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


def resolve(market: Market, contract_id: UUID, action: str) -> None:
    process_id = market.process(contract_id).id
    with within(new_scope("operator:test", now=market.now)):
        market.operations.resolve_process(process_id=process_id, action=action, reason="the test asks")
    market.stage.run()


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
    resolve(market, contract_id, RETRY)
    market.stage.until_quiet()
    assert market.process(contract_id).status == COMPLETED
    assert market.balances()["provider"] == PRICE - FEE
    market.assert_sound()


def test_an_operator_may_take_back_what_is_parked(market: Market) -> None:
    contract_id = parked(market)
    resolve(market, contract_id, COMPENSATE)
    assert market.process(contract_id).status == COMPENSATED
    assert market.names(contract_id)[-1] == "Settled"
    assert (market.balances()["customer"], market.wallet(market.customer_id).held) == (FUNDS, 0)
    assert market.offering().free == 4
    market.assert_sound()


def test_funds_of_a_process_nobody_decides_over_are_free_again_in_the_end(market: Market) -> None:
    contract_id = parked(market)
    market.now = market.process(contract_id).due_at + PARKED_FOR
    market.pay(market.customer_id, market.provider_id, FUNDS)
    resolve(market, contract_id, RETRY)
    assert (market.process(contract_id).status, market.process(contract_id).reason) == (PARKED, "hold_already_ended")
    resolve(market, contract_id, COMPENSATE)
    assert market.process(contract_id).status == COMPENSATED
    market.assert_sound()


# Crashes and deliveries.


def test_a_crash_before_or_after_any_write_of_a_contract_nobody_delivers_frees_everything(market: Market) -> None:
    def scenario() -> Oracle:
        contract_id = market.propose()
        return lambda: ended(market, contract_id)

    assert market.stage.crash_points(scenario, DEATHS) >= 10
    assert market.balances()["customer"] == FUNDS
    market.assert_sound()


def test_a_crash_before_or_after_any_write_of_a_capture_pays_once(market: Market) -> None:
    minute = PRICE // 60

    def scenario() -> Oracle:
        contract_id = market.running(duration_ms=60_000)
        before = market.balances()
        market.now += timedelta(minutes=1)
        market.ask(market.market.report_usage, contract_id=contract_id, provider_id=None, cumulative_ms=60_000)

        def paid_once() -> None:
            ended(market, contract_id)
            assert market.balances()["customer"] == before["customer"] - minute
            assert market.balances()["provider"] == before["provider"] + minute - minute // 50

        return paid_once

    market.offering_id = market.offer(sla=NO_SLA)
    assert market.stage.crash_points(scenario, DEATHS) >= 4
    market.assert_sound()


def test_a_whole_history_delivered_again_records_nothing_new(market: Market) -> None:
    delivered(market)
    head = market.log.head()
    market.stage.begin_again()
    market.stage.run()
    assert market.log.head() == head


moves = st.lists(
    st.one_of(
        st.tuples(st.just("work"), st.integers(1, 1_800_000)),
        st.tuples(st.just("judge"), st.integers(0, 600_000)),
        st.tuples(st.sampled_from(["complete", "cancel", "breach", "dispute", "run"]), st.just(0)),
        st.tuples(st.just("decide"), st.integers(0, HOUR_MS)),
    ),
    max_size=6,
)


def live(market: Market, contract_id: UUID, moves: list[tuple[str, int]]) -> None:
    """The parties do as they like; what is refused is none of theirs."""
    service, contract = market.market, {"contract_id": contract_id}
    by_customer, by_provider = {**contract, "customer_id": None}, {**contract, "provider_id": None}
    ways: dict[str, Callable[[int], object]] = {
        "work": lambda ms: market.work(contract_id, ms),
        "judge": lambda ms: market.judge(contract_id, ok_ms=ms, degraded_ms=600_000 - ms),
        "complete": lambda _: market.ask(service.complete_contract, **by_customer),
        "cancel": lambda _: market.ask(service.cancel_contract, **by_customer, reason="enough"),
        "breach": lambda _: market.ask(service.breach_contract, **by_provider, reason="gone"),
        "dispute": lambda _: market.ask(service.dispute_contract, **by_customer, reason="no"),
        "decide": lambda ms: market.ask(service.decide_dispute, **contract, payable_ms=ms, reason="so"),
        "run": lambda _: market.stage.run(),
    }
    for name, amount in moves:
        with suppress(Refusal):
            ways[name](amount)


def ended(market: Market, contract_id: UUID) -> None:
    """A contract has ended in time, was settled once, and everybody has what is theirs."""
    process, contract, settled = market.process(contract_id), market.contract(contract_id), market.settled(contract_id)
    assert process.status in ENDED
    assert contract.status == "settled"
    assert 0 <= settled.credit_grains <= settled.usage_grains <= contract.terms.agreed_price
    assert settled.charged_grains + settled.released_grains == contract.terms.agreed_price
    assert (market.wallet(market.customer_id).held, market.offering().free) == (0, 4)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=deliveries, moves=moves, units=st.integers(1, 3))
def test_any_contract_ends_in_time_and_is_settled_once_whatever_order_and_number_its_facts_come_in(
    market: Market, order: list[int], moves: list[tuple[str, int]], units: int
) -> None:
    market.given(3 * FUNDS, market.customer_id)
    market.stage.until_quiet()
    contract_id = market.running(units=units)
    live(market, contract_id, moves)
    market.stage.deliver_anyhow(order)
    if market.process(contract_id).status == PARKED:  # all time has passed before anything was delivered
        resolve(market, contract_id, RETRY)
        market.stage.until_quiet()
    ended(market, contract_id)
    market.assert_sound()


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(broken=faults, moves=moves, units=st.integers(1, 3))
def test_any_contract_ends_in_time_and_is_settled_once_whatever_crashes(
    market: Market, broken: Faults, moves: list[tuple[str, int]], units: int
) -> None:
    market.given(3 * FUNDS, market.customer_id)
    contract_id = market.running(units=units)
    live(market, contract_id, moves)
    market.stage.survive(broken)
    ended(market, contract_id)
    market.assert_sound()
