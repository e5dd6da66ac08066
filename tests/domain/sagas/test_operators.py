"""Bursts and hand-offs that cannot go on park; an operator ends them, and nothing is held, paid or reserved twice."""

from uuid import UUID

import pytest

from domain.marketplace.burst import REFUSED, REQUESTED
from domain.marketplace.hand_off import ASKED, DONE, IDLE, HandOff, heir_of
from domain.sagas.pay_for_service import PARKED_FOR
from domain.sagas.process import (
    ABANDON,
    COMPENSATE,
    COMPENSATED,
    COMPENSATING,
    COMPLETED,
    PARKED,
    RETRY,
    SKIP,
    Process,
    ProcessNotParked,
)
from domain.tokenomics.accounts import wallet_id_of
from tests.trading import HOUR_MS, PRICE

from .handing import MINUTE, MINUTE_MS, Handing, handing
from .paying import FUNDS
from .stubborn import out_of_order
from .test_allocate_burst import Bursting, bursting

__all__ = ["bursting", "handing"]

either = pytest.mark.parametrize("action", [RETRY, COMPENSATE])


# Bursts.


def held_back(bursting: Bursting) -> tuple[UUID, UUID]:
    """A burst that is held for and cannot begin, for its devices were suspended since; and its customer."""
    customer_id = bursting.given(PRICE)
    burst_id = bursting.burst(nodes=2, customer_id=customer_id)
    for device_id in bursting.devices:
        bursting.ask(bursting.registry.suspend_device, device_id=device_id, reason="a drill")
    return burst_id, customer_id


def holds(bursting: Bursting, customer_id: UUID) -> list[str]:
    """What became of what was held."""
    return [name for name in bursting.names(wallet_id_of(customer_id)) if name.startswith(("Funds", "Hold"))]


def given_back(bursting: Bursting, burst_id: UUID, customer_id: UUID) -> None:
    """Nothing came of a burst, and nothing of it is left."""
    bursting.stage.until_quiet()
    assert (bursting.burst_process(burst_id).status, bursting.status(burst_id)) == (COMPENSATED, REFUSED)
    assert (bursting.free(), bursting.wallet(customer_id).available) == ([1, 1, 1], PRICE)
    assert holds(bursting, customer_id) == ["FundsHeld", "HoldVoided"]
    bursting.all_or_nothing(burst_id)
    bursting.stage.adds_nothing()


@either
@pytest.mark.parametrize("command", ["tokenomics.void_hold", "marketplace.release_burst", "marketplace.refuse_burst"])
def test_a_burst_of_which_something_cannot_be_taken_back_parks_until_an_operator_has_it_done(
    bursting: Bursting, command: str, action: str
) -> None:
    burst_id, customer_id = held_back(bursting)
    with out_of_order(bursting.stage, command):
        bursting.stage.until_quiet()
        process = bursting.burst_process(burst_id)
        assert (process.status, process.reason) == (PARKED, "out_of_order")
        assert bursting.names(process.id).count("StepRetried") == 3
        bursting.stage.resolve(process.id, action)
        bursting.stage.until_quiet()
        assert bursting.burst_process(burst_id).status == PARKED
    bursting.stage.resolve(process.id, action)
    given_back(bursting, burst_id, customer_id)
    with pytest.raises(ProcessNotParked):
        bursting.stage.resolve(process.id, action)


@either
def test_a_burst_whose_time_is_over_while_it_is_given_back_waits_for_an_operator(
    bursting: Bursting, action: str
) -> None:
    burst_id, customer_id = held_back(bursting)
    runner = bursting.stage.runner()
    runner.step()
    process_id = bursting.burst_process(burst_id).id
    while bursting.burst_process(burst_id).status != COMPENSATING:
        runner.step()
    bursting.stage.stand_still(process_id)
    assert (bursting.burst_process(burst_id).status, bursting.burst_process(burst_id).reason) == (PARKED, "timed_out")
    bursting.stage.resolve(process_id, action)
    given_back(bursting, burst_id, customer_id)


def test_what_is_held_for_a_burst_that_is_given_up_is_the_customer_s_again_at_its_instant(bursting: Bursting) -> None:
    burst_id, customer_id = held_back(bursting)
    with out_of_order(bursting.stage, "tokenomics.void_hold"):
        bursting.stage.until_quiet()
    process = bursting.burst_process(burst_id)
    bursting.stage.resolve(process.id, ABANDON)
    bursting.stage.until_quiet()
    assert (bursting.burst_process(burst_id).status, bursting.wallet(customer_id).available) == (COMPENSATED, 0)
    bursting.now = process.due_at + PARKED_FOR
    bursting.pay(customer_id, bursting.customer_id, PRICE)
    assert holds(bursting, customer_id) == ["FundsHeld", "HoldExpired"]
    bursting.assert_sound()


@pytest.mark.parametrize(
    ("command", "left"),
    [
        ("tokenomics.void_hold", ("FundsHeld", 0, [1, 1, 1], REFUSED)),
        ("marketplace.release_burst", ("HoldVoided", PRICE, [0, 0, 1], REFUSED)),
        ("marketplace.refuse_burst", ("HoldVoided", PRICE, [1, 1, 1], REQUESTED)),
    ],
)
def test_what_cannot_be_taken_back_of_a_burst_is_skipped_and_all_else_is_taken_back(
    bursting: Bursting, command: str, left: tuple[str, int, list[int], str]
) -> None:
    burst_id, customer_id = held_back(bursting)
    with out_of_order(bursting.stage, command):
        bursting.stage.until_quiet()
    bursting.stage.resolve(bursting.burst_process(burst_id).id, SKIP)
    bursting.stage.until_quiet()
    assert bursting.burst_process(burst_id).status == COMPENSATED
    available, free = bursting.wallet(customer_id).available, sorted(bursting.free())
    assert (holds(bursting, customer_id)[-1], available, free, bursting.status(burst_id)) == left
    bursting.all_or_nothing(burst_id)
    bursting.stage.adds_nothing()


def test_a_burst_that_began_cannot_be_taken_back(bursting: Bursting) -> None:
    burst_id = bursting.burst()
    bursting.stage.run()
    with pytest.raises(ProcessNotParked):
        bursting.stage.resolve(bursting.burst_process(burst_id).id, COMPENSATE)


# Hand-offs.


def without_heir(handing: Handing) -> UUID:
    """A contract that ran for a minute and is to be handed off, to nobody."""
    contract_id = handing.bought(rank=2)
    handing.work(contract_id, MINUTE_MS)
    handing.ask(handing.market.report_headroom, contract_id=contract_id, provider_id=None, headroom_ms=0)
    return contract_id


def hand_off_process(handing: Handing) -> Process:
    """The newest process of a hand-off."""
    *_, began = [
        fact.stream
        for fact in handing.facts()
        if isinstance(fact.event, Process.Began) and fact.event.plan == "hand_off_contract"
    ]
    return handing.log.load(Process, began)


def delivered_whole(handing: Handing, contract_id: UUID) -> None:
    """The contract goes on with its first provider, and is paid once."""
    handing.work(contract_id, HOUR_MS - MINUTE_MS)
    handing.stage.until_quiet()
    assert handing.settled(contract_id).charged_grains == PRICE
    assert handing.balances()["customer"] == FUNDS - PRICE
    assert (handing.free(), handing.wallet(handing.customer_id).held) == ([1, 1, 1], 0)
    assert holds(handing, handing.customer_id) == ["FundsHeld", "HoldCaptured"]
    handing.assert_sound()


def unrefused(handing: Handing) -> UUID:
    """A contract to be handed off to nobody, and not even that can be said; its process is parked."""
    contract_id = without_heir(handing)
    with out_of_order(handing.stage, "marketplace.refuse_hand_off"):
        handing.stage.run()
        for _ in range(3):
            handing.stage.when_time_comes()
    process = hand_off_process(handing)
    assert (process.status, process.reason, handing.hand_off(contract_id).status) == (PARKED, "out_of_order", ASKED)
    return contract_id


@either
def test_a_hand_off_that_cannot_be_refused_parks_and_is_asked_for_again_once_an_operator_has_had_it_done(
    handing: Handing, action: str
) -> None:
    contract_id = unrefused(handing)
    handing.stage.resolve(hand_off_process(handing).id, action)
    assert (hand_off_process(handing).status, handing.hand_off(contract_id).status) == (COMPENSATED, IDLE)
    handing.tell(contract_id, 0)
    assert handing.names(HandOff.create_id(contract_id)) == ["Opened", *["Asked", "Refused"] * 2]
    delivered_whole(handing, contract_id)


def test_a_contract_whose_hand_off_is_given_up_is_delivered_and_paid_all_the_same(handing: Handing) -> None:
    contract_id = unrefused(handing)
    handing.stage.resolve(hand_off_process(handing).id, ABANDON)
    assert hand_off_process(handing).status == COMPENSATED
    delivered_whole(handing, contract_id)


@either
def test_a_hand_off_whose_time_is_over_waits_for_an_operator_and_moves_nothing(handing: Handing, action: str) -> None:
    contract_id = without_heir(handing)
    runner = handing.stage.runner()
    runner.step()
    while hand_off_process(handing).status != COMPENSATING:
        runner.step()
    handing.stage.time_out(hand_off_process(handing).id)
    assert (hand_off_process(handing).status, hand_off_process(handing).reason) == (PARKED, "timed_out")
    handing.stage.resolve(hand_off_process(handing).id, action)
    assert (hand_off_process(handing).status, handing.hand_off(contract_id).status) == (COMPENSATED, IDLE)
    delivered_whole(handing, contract_id)


@pytest.mark.parametrize(
    "command", ["tokenomics.hold_funds", "tokenomics.open_wallet", "marketplace.hand_off_contract"]
)
def test_a_move_that_is_refused_half_way_leaves_the_hold_and_the_contract_as_they_were(
    handing: Handing, command: str
) -> None:
    contract_id = handing.bought()
    handing.work(contract_id, MINUTE_MS)
    with out_of_order(handing.stage, command):
        handing.tell(contract_id, 0)
    assert (hand_off_process(handing).status, hand_off_process(handing).reason) == (COMPENSATED, "out_of_order")
    assert (handing.hand_off(contract_id).status, handing.names(heir_of(contract_id))) == (IDLE, [])
    handing.work(contract_id, MINUTE_MS)
    handing.tell(contract_id, 0)
    assert (hand_off_process(handing).status, handing.hand_off(contract_id).status) == (COMPLETED, DONE)
    handing.stage.until_quiet()
    assert handing.settled(contract_id).charged_grains == 2 * MINUTE
    handing.assert_sound()
