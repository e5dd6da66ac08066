"""A provider that vanishes, owners that trade in a circle, and identities that want a name for nothing."""

from itertools import pairwise
from typing import Any
from uuid import UUID, uuid4

import pytest

from domain.marketplace.dealing import Dealing, is_wash
from domain.marketplace.terms import SelfDealing
from domain.sagas.pay_for_service import FULL_WEIGHT_GRAINS
from domain.sagas.process import ENDED
from tests.devices import enrol
from tests.trading import HOUR_MS, PRICE

from .paying import FUNDS, NO_SLA, TEN_MINUTES, Market

ENDS: dict[str, tuple[str, dict[str, Any]]] = {
    "completed": ("complete_contract", {"customer_id": None}),
    "cancelled": ("cancel_contract", {"customer_id": None, "reason": "enough"}),
    "breached": ("breach_contract", {"provider_id": None, "reason": "gone"}),
    "disputed": ("dispute_contract", {"customer_id": None, "reason": "no"}),
}


def stepped(market: Market) -> UUID:
    """A contract whose price is held, and that nobody has reserved capacity for."""
    contract_id = market.propose()
    for _ in range(10):
        if market.contract(contract_id).status == "reserved":
            return contract_id
        market.stage.deliver(market.stage.heard()[-1])
    raise AssertionError("the price is not held")


def reached(market: Market, state: str) -> tuple[UUID, int]:
    """A contract in a state, and what was delivered by then, in grains."""
    if state == "proposed":
        return market.propose(), 0
    if state == "reserved":
        return stepped(market), 0
    contract_id = market.running()
    if state == "active":
        return contract_id, 0
    market.work(contract_id, TEN_MINUTES)
    if state == "expired":
        market.now = market.contract(contract_id).terms.deadline_at
        market.ask(market.market.expire_contract, contract_id=contract_id)
    elif state in ENDS:
        name, given = ENDS[state]
        market.ask(getattr(market.market, name), contract_id=contract_id, **given)
    return contract_id, PRICE // 6


@pytest.mark.parametrize("gone", ["offline", "suspended"])
@pytest.mark.parametrize("state", ["proposed", "reserved", "active", "delivering", *ENDS, "expired"])
def test_a_provider_that_vanishes_in_any_state_is_paid_what_it_delivered_and_no_hold_is_left(
    market: Market, state: str, gone: str
) -> None:
    contract_id, delivered = reached(market, state)
    if gone == "offline":
        market.ask(market.registry.device_went_online, device_id=market.device_id, seen_at=market.now)
        market.ask(market.registry.device_went_offline, device_id=market.device_id, last_seen_at=market.now)
    else:
        market.ask(market.registry.suspend_device, device_id=market.device_id, reason="gone")
    market.stage.until_quiet()
    assert market.contract(contract_id).status == "settled"
    assert market.process(contract_id).status in ENDED
    assert market.settled(contract_id).charged_grains == delivered
    assert (market.balances()["customer"], market.wallet(market.customer_id).held) == (FUNDS - delivered, 0)
    assert market.offering().free == 4
    market.assert_sound()


def test_nobody_buys_of_itself_through_any_of_its_devices(market: Market) -> None:
    market.given(FUNDS, market.provider_id)
    market.device_id = enrol(market.registry, owner_id=market.provider_id, now=market.now)
    market.owners[market.device_id] = market.provider_id
    for offering_id in (market.offering_id, market.offer()):
        with pytest.raises(SelfDealing):
            market.propose(offering_id=offering_id, customer_id=market.provider_id)


# Wash trades.


@pytest.mark.parametrize(
    ("trades", "one", "other", "wash"),
    [(4, 100, 100, True), (4, 110, 90, True), (4, 111, 89, False), (3, 100, 100, False), (9, 100, 0, False)],
)
def test_trades_both_ways_that_leave_a_tenth_or_less_are_wash(trades: int, one: int, other: int, wash: bool) -> None:
    assert is_wash(trades, one, other) is wash
    assert is_wash(trades, other, one) is wash


def trade(market: Market, provider_id: UUID, customer_id: UUID, offering_id: UUID, ms: int = TEN_MINUTES) -> None:
    """Ten minutes, or another time, delivered and paid."""
    contract_id = market.running(offering_id=offering_id, customer_id=customer_id, duration_ms=ms)
    market.work(contract_id, ms)
    market.stage.until_quiet()
    assert market.contract(contract_id).status == "settled"


def stalls(market: Market, *owners: UUID) -> dict[UUID, UUID]:
    """An offering of each owner."""
    offerings = {}
    for owner in owners:
        market.device_id = enrol(market.registry, owner_id=owner, now=market.now)
        market.owners[market.device_id] = market.provider_id = owner
        offerings[owner] = market.offer(sla=NO_SLA)
    return offerings


def between(market: Market, one: UUID, other: UUID) -> Dealing:
    return market.log.load(Dealing, Dealing.create_id(*Dealing.between(one, other)))


def test_tokens_that_go_round_are_flagged_and_gain_no_reputation(market: Market) -> None:
    one, other = market.provider_id, market.customer_id
    market.given(FUNDS, one)
    offerings = stalls(market, one, other)
    for _ in range(2):
        trade(market, one, other, offerings[one])
        trade(market, other, one, offerings[other])
    dealing = between(market, one, other)
    assert (dealing.trades, dealing.low_grains, dealing.high_grains) == (4, PRICE // 3, PRICE // 3)
    assert dealing.flagged
    assert market.names(dealing.id) == ["Opened", *["Traded"] * 4, "Flagged"]
    before = market.reputation_bp()
    trade(market, other, one, offerings[other])
    assert market.reputation_bp() == before
    market.assert_sound()


def test_a_ring_of_three_owners_that_sell_to_each_other_ever_more_is_flagged_on_every_side(market: Market) -> None:
    ring = [market.customer_id, market.provider_id, uuid4()]
    for owner in ring[1:]:
        market.given(FUNDS, owner)
    offerings = stalls(market, *ring)
    sides = [(owner, ring[(at + 1) % 3]) for at, owner in enumerate(ring)]
    for number in range(5):
        for provider_id, customer_id in sides:
            trade(market, provider_id, customer_id, offerings[provider_id], ms=60_000 << number)
        assert [between(market, *side).flagged for side in sides] == [[False] * 3, [False, False, True], [True] * 3][
            max(0, number - 2)
        ]
    market.assert_sound()


@pytest.mark.parametrize("third", [False, True])
@pytest.mark.parametrize("when", ["all beforehand", "bit by bit"])
def test_tokens_that_a_provider_pays_back_are_flagged_also_beforehand_and_through_somebody_else(
    market: Market, third: bool, when: str
) -> None:
    one, other = market.provider_id, market.customer_id
    market.given(FUNDS, one)
    path = [one, market.given(1), other] if third else [one, other]
    (offering_id,) = stalls(market, one).values()

    def pay_back(trades: int) -> None:
        for payer, payee in pairwise(path):
            market.pay(payer, payee, trades * (PRICE // 6))

    if when == "all beforehand":
        pay_back(4)
    for _ in range(4):
        assert not (
            market.names(Dealing.create_id(*Dealing.between(one, other))) and between(market, one, other).flagged
        )
        if when == "bit by bit":
            pay_back(1)
        trade(market, one, other, offering_id)
    assert between(market, one, other).flagged
    before = market.reputation_bp()
    trade(market, one, other, offering_id)
    assert market.reputation_bp() == before
    market.assert_sound()


def test_a_customer_that_earned_what_it_spends_elsewhere_is_not_flagged(market: Market) -> None:
    one, other, third = market.provider_id, market.customer_id, market.given(FUNDS)
    offerings = stalls(market, one, other)
    for _ in range(4):
        trade(market, other, third, offerings[other])
        trade(market, one, other, offerings[one])
    assert not between(market, one, other).flagged
    assert not between(market, other, third).flagged


# Reputation farming.


def test_contracts_of_next_to_nothing_build_no_reputation(market: Market) -> None:
    market.offering_id = market.offer(sla=NO_SLA)
    for _ in range(3):
        contract_id = market.running(duration_ms=1)
        market.work(contract_id, 1)
        market.stage.until_quiet()
    assert market.reputation_bp() is None


def test_each_trade_of_the_same_two_weighs_less(market: Market) -> None:
    market.given(4 * FUNDS, market.customer_id)
    market.offering_id = market.offer(sla=NO_SLA)
    gains, before = [], 2_000
    for _ in range(3):
        contract_id = market.running(duration_ms=HOUR_MS)
        market.work(contract_id, HOUR_MS)
        market.stage.until_quiet()
        after = market.reputation_bp() or 0
        gains.append(after - before)
        before = after
    assert gains == sorted(gains, reverse=True)
    assert gains[0] > gains[1] > gains[2] > 0


def test_many_new_customers_that_share_a_payment_move_a_name_no_further_than_one_that_pays_it_all(
    market: Market,
) -> None:
    scores, ms = [], FULL_WEIGHT_GRAINS * HOUR_MS // PRICE
    for customers in (10, 1):
        device_id = market.device_id = enrol(market.registry, owner_id=market.provider_id, now=market.now)
        market.offering_id = market.offer(sla=NO_SLA, device_id=device_id)
        before = market.balances()["fees"]
        for _ in range(customers):
            contract_id = market.running(customer_id=market.given(PRICE), duration_ms=ms // customers)
            market.work(contract_id, ms // customers)
            market.stage.until_quiet()
        assert market.balances()["fees"] - before == FULL_WEIGHT_GRAINS // 50  # what a name costs who pays himself
        scores.append(market.reputation_bp() or 0)
    many, one = scores
    assert 2_000 < many <= one
