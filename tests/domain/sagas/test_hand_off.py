"""A contract goes to the next match before it breaks: paid once for each part, whatever crashes, to the last device."""

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given

from domain.device_registry.evidence import Evidence, Measurement
from domain.kernel import Refusal
from domain.marketplace.hand_off import (
    ASKED,
    DONE,
    IDLE,
    MAX_ASKED,
    HandOff,
    HandOffsExhausted,
    NoReceipt,
    NotOfReceipt,
    heir_of,
)
from domain.marketplace.states import UsageBeyondContract, WrongParty
from domain.sagas.process import ENDED
from infrastructure.database import Database
from projections.marketplace import Contracts
from tests.devices import Applicant, enrol, some_capabilities
from tests.sagas import DEATHS, Faults, Oracle, deliveries, faults, stormy
from tests.trading import HOUR_MS, PRICE
from workers.projector import Projector
from workers.sla_monitor import MAX_GAP, SlaMonitor

from .handing import MINUTE, MINUTE_MS, Handing, handing, stored_handing
from .paying import FUNDS

__all__ = ["handing", "stored_handing"]


def test_what_was_delivered_is_paid_and_the_rest_goes_to_the_next_match(handing: Handing) -> None:
    contract_id = handing.bought()
    handing.work(contract_id, 10 * MINUTE_MS)
    handing.tell(contract_id, 50 * MINUTE_MS - 1, handing.provider_id)
    heir = handing.contract(heir_of(contract_id))
    assert (handing.contract(contract_id).status, heir.status) == ("handed_off", "active")
    assert heir.terms.offering_id == sorted(handing.offerings)[1]
    assert (heir.terms.duration_ms, heir.terms.agreed_price) == (50 * MINUTE_MS, 50 * MINUTE)
    assert handing.wallet(handing.customer_id).held == PRICE
    assert sorted(handing.free()) == [0, 1, 1]
    handing.work(heir.id, 50 * MINUTE_MS)
    handing.stage.until_quiet()
    assert [handing.settled(one).charged_grains for one in (contract_id, heir.id)] == [10 * MINUTE, 50 * MINUTE]
    assert handing.balances()["customer"] == FUNDS - PRICE
    assert (handing.free(), handing.wallet(handing.customer_id).held) == ([1, 1, 1], 0)
    handing.assert_sound()


def test_a_customer_with_no_grain_more_than_the_price_is_handed_off_too(handing: Handing) -> None:
    handing.customer_id = handing.given(PRICE)
    contract_id = handing.bought()
    handing.tell(contract_id, 0)
    assert handing.contract(heir_of(contract_id)).status == "active"
    assert handing.contract(contract_id).hold_id is None  # nothing was delivered
    handing.stage.until_quiet()
    assert handing.balances()["customer"] == PRICE
    handing.assert_sound()


def test_headroom_for_what_is_left_changes_nothing(handing: Handing) -> None:
    contract_id = handing.bought()
    head = handing.log.head()
    handing.tell(contract_id, HOUR_MS)
    assert handing.log.head() == head


def test_the_last_of_the_receipt_keeps_the_contract_and_is_asked_so_often(handing: Handing) -> None:
    contract_id = handing.bought(rank=2)
    for _ in range(MAX_ASKED):
        handing.tell(contract_id, 0)
        assert handing.hand_off(contract_id).status == IDLE
    assert handing.names(HandOff.create_id(contract_id)) == ["Opened", *["Asked", "Refused"] * MAX_ASKED]
    assert handing.contract(contract_id).status == "active"
    with pytest.raises(HandOffsExhausted):
        handing.tell(contract_id, 0)


def test_a_contract_is_handed_down_the_receipt_and_each_part_is_paid_once(handing: Handing) -> None:
    contract_id = handing.bought()
    parts = [contract_id, heir_of(contract_id), heir_of(heir_of(contract_id))]
    for one in parts[:2]:
        handing.work(one, MINUTE_MS)
        handing.tell(one, 0)
    handing.work(parts[2], MINUTE_MS)
    handing.stage.until_quiet()
    assert [handing.settled(one).charged_grains for one in parts] == [MINUTE] * 3
    assert handing.balances()["customer"] == FUNDS - 3 * MINUTE
    handing.assert_sound()


@pytest.mark.parametrize("how", ["suspended", "offline", "silent"])
def test_a_device_that_is_gone_at_the_moment_of_the_hand_off_is_passed_over(handing: Handing, how: str) -> None:
    contract_id = handing.bought()
    first, second, third = sorted(handing.offerings)
    assert first == handing.contract(contract_id).terms.offering_id
    gone = handing.devices[handing.offerings.index(second)]
    if how == "suspended":
        handing.ask(handing.registry.suspend_device, device_id=gone, reason="a drill")
    elif how == "offline":
        handing.ask(handing.registry.device_went_offline, device_id=gone, last_seen_at=handing.now)
    else:
        handing.ask(handing.registry.device_went_degraded, device_id=gone, seen_at=handing.now)
    handing.tell(contract_id, 0)
    assert handing.contract(heir_of(contract_id)).terms.offering_id == third


def test_a_device_that_no_longer_measures_what_was_wished_inherits_nothing(handing: Handing) -> None:
    def measure(device: Applicant, mflops: int) -> None:
        handing.now += timedelta(minutes=1)
        told = Evidence(4, 4_096, [Measurement("matmul-f32", 1, mflops, handing.now)])
        proof: dict[str, Any] = {"evidence": told, "signature": device.signed(told)}
        known = {"device_id": device.device_id, "capabilities": some_capabilities(benchmark_id="other")}
        handing.ask(handing.registry.update_capabilities, **known, **proof)

    handing.offerings.clear()
    devices: dict[UUID, Applicant] = {}
    for _ in range(3):
        device = Applicant()
        device_id = enrol(handing.registry, device, owner_id=handing.provider_id, now=handing.now)
        devices[handing.offer(capacity=1, device_id=device_id)] = device
        measure(device, 9_000)
    first, second, third = sorted(devices)
    contract_id = handing.running(request_id=handing.receipt(min_matrix_mflops=9_000), offering_id=first)
    measure(devices[second], 8_999)
    handing.tell(contract_id, 0)
    assert handing.contract(heir_of(contract_id)).terms.offering_id == third


def test_a_contract_that_ended_while_it_was_asked_for_stays_ended(handing: Handing) -> None:
    contract_id = handing.bought()
    handing.ask(handing.market.report_headroom, contract_id=contract_id, provider_id=None, headroom_ms=0)
    assert handing.hand_off(contract_id).status == ASKED
    handing.ask(handing.market.complete_contract, contract_id=contract_id, customer_id=None)
    handing.stage.until_quiet()
    assert handing.hand_off(contract_id).status == IDLE
    assert handing.contract(contract_id).status == "settled"
    assert handing.free() == [1, 1, 1]


def test_nobody_else_asks_and_nothing_is_reported_after(handing: Handing) -> None:
    contract_id = handing.bought()
    with pytest.raises(WrongParty):
        handing.tell(contract_id, 0, handing.customer_id)
    plain = handing.running(offering_id=sorted(handing.offerings)[1])
    with pytest.raises(NoReceipt):
        handing.tell(plain, 0)
    with pytest.raises(NotOfReceipt):
        handing.propose(request_id=handing.receipt(), offering_id=handing.offering_id)
    with pytest.raises(NotOfReceipt):
        handing.propose(request_id=uuid4(), offering_id=handing.offerings[0])
    handing.tell(contract_id, 0)
    with pytest.raises(UsageBeyondContract):
        handing.work(contract_id, 1)


def test_a_dispute_over_what_was_delivered_before_is_heard(handing: Handing) -> None:
    contract_id = handing.bought()
    handing.work(contract_id, MINUTE_MS)
    handing.tell(contract_id, 0)
    handing.ask(handing.market.dispute_contract, contract_id=contract_id, customer_id=None, reason="nothing came")
    handing.ask(handing.market.decide_dispute, contract_id=contract_id, payable_ms=0, reason="nothing came")
    handing.stage.until_quiet()
    assert handing.balances()["customer"] == FUNDS
    handing.assert_sound()


def test_a_device_that_rests_is_relieved_by_the_monitor(stored_handing: Handing, database: Database) -> None:
    handing = stored_handing
    contract_id = handing.bought()
    tired = handing.contract(contract_id).terms.device_id
    handing.market._rests = lambda device_id: device_id == tired
    assert relieved(handing, database, contract_id) == "device_rests"


def test_a_window_that_heads_for_a_breach_is_handed_off_before(stored_handing: Handing, database: Database) -> None:
    handing = stored_handing
    contract_id = handing.bought()
    device_id = handing.contract(contract_id).terms.device_id
    handing.ask(handing.registry.device_went_online, device_id=device_id, seen_at=handing.now)
    handing.ask(handing.registry.device_went_offline, device_id=device_id, last_seen_at=handing.now)
    assert relieved(handing, database, contract_id) == "sla_at_risk"


def relieved(handing: Handing, database: Database, contract_id: UUID) -> str:
    """Why the monitor handed a contract off."""
    projector = Projector(database, [Contracts()])
    monitor = SlaMonitor(database, handing.market, clock=lambda: handing.now)
    projector.run_once()
    monitor.tick()
    handing.now += MAX_GAP
    monitor.tick()
    handing.stage.run()
    projector.close()
    assert handing.contract(heir_of(contract_id)).status == "active"
    (asked,) = [fact.event for fact in handing.facts() if isinstance(fact.event, HandOff.Asked)]
    return asked.reason


def test_a_crash_at_any_write_moves_a_contract_whole_and_pays_each_part_once(handing: Handing) -> None:
    def scenario() -> Oracle:
        contract_id = handing.bought()
        before = handing.balances()["customer"]
        handing.work(contract_id, MINUTE_MS)
        handing.ask(handing.market.report_headroom, contract_id=contract_id, provider_id=None, headroom_ms=0)

        def moved() -> None:
            for one in (contract_id, heir_of(contract_id)):
                assert handing.contract(one).status == "settled"
                assert handing.process(one).status in ENDED
            assert handing.balances()["customer"] == before - MINUTE
            assert (handing.free(), handing.wallet(handing.customer_id).held) == ([1, 1, 1], 0)

        return moved

    handing.given(8 * FUNDS, handing.customer_id)
    assert handing.stage.crash_points(scenario, DEATHS) >= 8
    handing.assert_sound()


def asked(handing: Handing) -> Oracle:
    """A contract that was delivered for a minute is to be handed off; whatever comes of it, all of it ends once."""
    handing.given(FUNDS, handing.customer_id)
    contract_id = handing.bought()
    before = handing.balances()["customer"]
    handing.work(contract_id, MINUTE_MS)
    handing.ask(handing.market.report_headroom, contract_id=contract_id, provider_id=None, headroom_ms=0)

    def ended_once() -> None:
        handing.stage.settle_parked()
        parts = [contract_id, *filter(handing.names, [heir_of(contract_id)])]
        assert [handing.names(one).count("Settled") for one in parts] == [1] * len(parts)
        assert handing.balances()["customer"] == before - sum(handing.settled(one).charged_grains for one in parts)
        assert handing.hand_off(contract_id).status == (DONE if parts[1:] else IDLE)
        assert (handing.free(), handing.wallet(handing.customer_id).held) == ([1, 1, 1], 0)
        handing.assert_sound()

    return ended_once


@stormy
@given(order=deliveries)
def test_facts_in_any_order_and_number_move_a_contract_once_or_not_at_all(handing: Handing, order: list[int]) -> None:
    handing.stage.storm(lambda: asked(handing), order)


@stormy
@given(broken=faults)
def test_whatever_fails_a_contract_is_moved_once_or_not_at_all(handing: Handing, broken: Faults) -> None:
    handing.stage.strike(lambda: asked(handing), broken)


def test_on_a_real_log_too_a_contract_is_moved_once_where_every_write_fails(stored_handing: Handing) -> None:
    stored_handing.stage.stumble(lambda: asked(stored_handing))


def test_a_history_of_hand_offs_delivered_again_records_nothing_new(handing: Handing) -> None:
    contract_id = handing.bought()
    handing.tell(contract_id, 0)
    handing.stage.until_quiet()
    handing.stage.adds_nothing()
    with pytest.raises(Refusal):
        handing.tell(contract_id, 0)
