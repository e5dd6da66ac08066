"""Whatever comes between two steps of a payment, a burst or a hand-off: it ends, once, and nobody loses a grain."""

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from uuid import UUID

import pytest

from domain.kernel import Refusal
from domain.marketplace.burst import ALLOCATED, REFUSED
from domain.marketplace.hand_off import DONE, IDLE, heir_of
from domain.marketplace.offering import Offering
from domain.sagas.process import ENDED
from tests.trading import HOUR, PRICE

from .handing import MINUTE_MS, Handing, handing
from .paying import FUNDS, Market
from .test_allocate_burst import Bursting, bursting

__all__ = ["bursting", "handing"]

MOST = 9
"""Batches of facts after which each of them waits or is over."""


def after(market: Market, batches: int) -> None:
    """The sagas have handled so many batches of facts."""
    runner = market.stage.runner()
    for _ in range(batches):
        runner.step()
    runner.close()


def retired(market: Market, device_id: UUID) -> None:
    market.ask(market.registry.retire_device, device_id=device_id, reason="lost")


def suspended(market: Market, device_id: UUID) -> None:
    market.ask(market.registry.suspend_device, device_id=device_id, reason="a drill")


def withdrawn(market: Market, device_id: UUID) -> None:
    (offering_id,) = [one for one in market.offerings if market.log.load(Offering, one).device_id == device_id]
    market.ask(market.market.withdraw_offering, offering_id=offering_id, provider_id=None)


def spent(market: Market, device_id: UUID) -> None:
    """The customer pays another all that is not held."""
    if available := market.wallet(market.customer_id).available:
        market.pay(market.customer_id, market.given(1), available)


def late(market: Market, device_id: UUID) -> None:
    """Nobody does anything for longer than a payment may take to begin."""
    market.now += timedelta(seconds=31)


def too_late(market: Market, device_id: UUID) -> None:
    """Nobody does anything until all that was bought cannot be delivered by its deadline."""
    market.now += HOUR + timedelta(minutes=45)


Between = Callable[[Market, UUID], None]
REASONS: dict[Between, set[str]] = {
    retired: {"device_retired"},
    suspended: {"device_suspended"},
    withdrawn: {"offering_withdrawn"},
    spent: {"insufficient_funds"},
    late: {"payment_timed_out", "timed_out"},
    too_late: {"payment_timed_out", "timed_out", "deadline_too_close", "term_invalid"},
}
anything = pytest.mark.parametrize("between", REASONS, ids=lambda one: one.__name__)


@anything
def test_a_payment_ends_whatever_comes_between_two_of_its_steps(market: Market, between: Between) -> None:
    reasons = set()
    for batches in range(MOST):
        device_id = market.device_id = market.enrolled()
        market.offering_id = market.offer()
        market.customer_id = market.given(FUNDS)
        contract_id = market.propose()
        after(market, batches)
        between(market, device_id)
        market.stage.until_quiet()
        assert (market.process(contract_id).status in ENDED, market.contract(contract_id).status) == (True, "settled")
        settled = market.settled(contract_id)
        assert (settled.charged_grains, settled.released_grains in (0, PRICE)) == (0, True)
        assert (market.wallet(market.customer_id).held, market.offering().free) == (0, 4)
        reasons.add(market.process(contract_id).reason)
        market.assert_sound()
    assert {""} < reasons <= {"", *REASONS[between]}


@pytest.mark.parametrize("batches", range(MOST))
def test_a_payment_ends_wherever_its_customer_cancels(market: Market, batches: int) -> None:
    contract_id = market.propose()
    after(market, batches)
    market.ask(market.market.cancel_contract, contract_id=contract_id, customer_id=market.customer_id, reason="no")
    market.stage.until_quiet()
    assert market.process(contract_id).status in ENDED
    assert market.names(contract_id)[-2:] == ["Cancelled", "Settled"]
    assert (market.balances()["customer"], market.wallet(market.customer_id).held) == (FUNDS, 0)
    assert market.offering().free == 4
    market.assert_sound()


@anything
def test_a_burst_begins_whole_or_not_at_all_whatever_comes_between_two_of_its_steps(
    bursting: Bursting, between: Between
) -> None:
    reasons = set()
    for batches in range(MOST):
        bursting.devices = [bursting.enrolled() for _ in range(2)]
        bursting.offerings.clear()
        for device_id in bursting.devices:
            bursting.offer(capacity=1, device_id=device_id)
        bursting.customer_id = bursting.given(PRICE)
        burst_id = bursting.burst(nodes=2)
        after(bursting, batches)
        between(bursting, bursting.devices[1])
        bursting.stage.until_quiet()
        bursting.all_or_nothing(burst_id)
        begun = bursting.status(burst_id) == ALLOCATED
        assert begun or bursting.status(burst_id) == REFUSED
        assert bursting.states(burst_id) == ({"settled"} if begun else set())
        assert (bursting.free(), bursting.wallet(bursting.customer_id).held) == ([1, 1], 0)
        reasons.add(bursting.burst_process(burst_id).reason)
    assert reasons <= {"", *REASONS[between]}
    assert len(reasons) > 1 or between is late  # who is late and not too late is served


@anything
def test_a_hand_off_moves_a_contract_whole_or_not_at_all_whatever_comes_between_two_of_its_steps(
    handing: Handing, between: Between
) -> None:
    for batches in range(MOST):
        handing.devices = [handing.enrolled() for _ in range(2)]
        handing.offerings.clear()
        for device_id in handing.devices:
            handing.offer(capacity=1, device_id=device_id)
        handing.customer_id = handing.given(FUNDS)
        contract_id = handing.bought()
        before = handing.wallet(handing.customer_id).posted
        handing.work(contract_id, MINUTE_MS)
        handing.ask(handing.market.report_headroom, contract_id=contract_id, provider_id=None, headroom_ms=0)
        after(handing, batches)
        heir = next(one for one in handing.devices if one != handing.contract(contract_id).terms.device_id)
        with suppress(Refusal):
            between(handing, heir)
        handing.stage.until_quiet()
        handing.stage.settle_parked()
        parts = [contract_id, *filter(handing.names, [heir_of(contract_id)])]
        assert [handing.names(one).count("Settled") for one in parts] == [1] * len(parts)
        assert handing.hand_off(contract_id).status == (DONE if parts[1:] else IDLE)
        assert (handing.free(), handing.wallet(handing.customer_id).held) == ([1, 1], 0)
        if between is not spent:
            charged = sum(handing.settled(one).charged_grains for one in parts)
            assert handing.wallet(handing.customer_id).posted == before - charged
        handing.assert_sound()
