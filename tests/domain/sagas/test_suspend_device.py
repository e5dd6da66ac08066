"""Suspending a device ends what it does for others, once, whatever crashes, doubles, is late or stands still."""

from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.federated_learning.session import TrainingSession
from domain.harvest.session import HarvestSession
from domain.marketplace.delivery import LAST_REPORT_MS
from domain.marketplace.hand_off import heir_of
from domain.marketplace.offering import Offering
from domain.sagas import suspend_device
from domain.sagas.process import COMPENSATE, COMPENSATED, COMPLETED, PARKED, RETRY
from infrastructure.database import Database
from projections.sagas import Deadlines as DeadlineRows
from tests.sagas import DEATHS, Faults, Oracle, deliveries, faults, stormy
from tests.trading import HOUR_MS, PRICE
from workers.projector import Projector

from .paying import FUNDS
from .suspending import MemorySuspending, StoredSuspending, Suspending

TEN_MINUTES = 600_000


@pytest.fixture
def village() -> Iterator[Suspending]:
    village = MemorySuspending()
    yield village
    village.close()


@pytest.fixture
def stored_village(database_url: str, database: Database) -> Iterator[StoredSuspending]:
    village = StoredSuspending(database_url, database)
    yield village
    village.close()


def test_what_a_suspended_device_does_for_others_ends_and_nothing_of_it_is_sold(village: Suspending) -> None:
    session_id, round_id, contract_id = village.lend(), village.train(), village.running()
    process_id = village.suspend()
    village.act()
    assert village.suspension(process_id).status == COMPLETED
    village.assert_idle()
    session = village.log.load(HarvestSession, session_id)
    assert (session.status, village.names(session_id)[-1]) == ("closed", "SessionClosed")
    assert village.contract(contract_id).status == "breached"
    assert village.offering().withdrawn
    assert village.round(round_id).left == {village.device_id}
    assert village.names(process_id) == [
        "Began",
        "StepDone",
        "StepDone",
        "StepRetried",
        "StepDone",
        "StepDone",
        "StepDone",
        "Completed",
    ]


def test_the_customer_pays_what_was_delivered_and_gets_back_the_rest(village: Suspending) -> None:
    contract_id = village.running()
    village.work(contract_id, TEN_MINUTES)
    village.suspend()
    village.stage.until_quiet()
    settled = village.settled(contract_id)
    assert (settled.charged_grains, settled.released_grains) == (PRICE // 6, PRICE - PRICE // 6)
    assert settled.penalty_grains == PRICE // 10
    assert village.balances()["customer"] == FUNDS - PRICE // 6
    assert village.wallet(village.customer_id).held == 0
    village.assert_sound()


def test_a_contract_goes_on_with_the_next_match_and_nothing_is_broken(village: Suspending) -> None:
    taken, contract_id = village.rival(), village.running(request_id=village.receipt(2 * PRICE))
    village.work(contract_id, TEN_MINUTES)
    process_id = village.suspend()
    village.act()
    heir = village.contract(heir_of(contract_id))
    assert village.suspension(process_id).status == COMPLETED
    assert (village.contract(contract_id).status, heir.status) == ("handed_off", "active")
    rest_ms = HOUR_MS - (village.contract(contract_id).kept_ms or 0)
    assert (heir.terms.offering_id, heir.terms.duration_ms) == (taken, rest_ms)
    assert 0 <= HOUR_MS - TEN_MINUTES - rest_ms <= LAST_REPORT_MS
    village.assert_idle()
    village.work(heir.id, rest_ms)
    village.stage.until_quiet()
    charged = [village.settled(one).charged_grains for one in (contract_id, heir.id)]
    assert charged == [PRICE // 6, 2 * PRICE * rest_ms // HOUR_MS]
    assert (village.balances()["customer"], village.wallet(village.customer_id).held) == (FUNDS - sum(charged), 0)
    village.assert_sound()


def test_of_two_contracts_the_one_without_an_heir_is_breached(village: Suspending) -> None:
    village.given(2 * FUNDS, village.customer_id)
    village.rival(capacity=1)
    contracts = [village.running(request_id=village.receipt(2 * PRICE)) for _ in range(2)]
    village.suspend()
    village.act()
    assert sorted(village.contract(one).status for one in contracts) == ["breached", "handed_off"]
    village.stage.until_quiet()
    village.assert_sound()


def test_a_device_that_is_suspended_too_is_no_heir(village: Suspending) -> None:
    village.rival()
    contract_id = village.running(request_id=village.receipt(2 * PRICE))
    village.ask(village.registry.suspend_device, device_id=village.others[0], reason="a drill")
    village.suspend()
    village.act()
    assert village.contract(contract_id).status == "breached"


# What it has earned.


def test_what_a_suspended_device_was_not_paid_yet_is_void(village: Suspending) -> None:
    claim_id, paid_id = village.earned(), village.earned()
    village.distribute([paid_id])
    village.suspend()
    village.act()
    assert [village.claim(one).open for one in (claim_id, paid_id)] == [False, False]
    assert (village.claim(claim_id).voided, village.claim(paid_id).posted) == (True, True)
    before = village.balances()["provider"]
    assert village.distribute([claim_id, paid_id]).extra["posted"] == 0
    assert village.balances()["provider"] == before
    village.assert_sound()


def test_what_a_retired_device_has_earned_is_still_paid(village: Suspending) -> None:
    claim_id = village.earned()
    village.ask(village.registry.retire_device, device_id=village.device_id, reason="lost")
    village.act()
    assert village.distribute([claim_id]).extra["posted"] == 1


def test_a_device_that_is_reinstated_in_time_keeps_what_it_has_earned(village: Suspending) -> None:
    claim_id = village.earned()
    village.suspend()
    village.ask(village.registry.reinstate_device, device_id=village.device_id, reason="a mistake")
    village.act()
    assert village.claim(claim_id).open


def test_a_session_that_ends_with_the_suspension_earns_nothing(village: Suspending) -> None:
    session_id = village.lend()
    village.lived(session_id)
    village.suspend()
    village.stage.until_quiet()
    session = village.log.load(HarvestSession, session_id)
    assert (session.status, session.contribution.verified_ms > 0) == ("rewarded", True)
    assert not [fact for fact in village.facts() if fact.topic == "tokenomics.RewardClaim.Accrued"][1:]


def test_more_claims_than_one_transaction_takes_are_void_after_several(
    stored_village: StoredSuspending, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suspend_device, "MAX_CLAIMS", 1)
    monkeypatch.setattr(suspend_device, "MAX_LISTED", 2)
    claims = [stored_village.earned() for _ in range(3)]
    process_id = stored_village.suspend()
    stored_village.stage.until_quiet()
    assert stored_village.suspension(process_id).status == COMPLETED
    assert [stored_village.names(one) for one in claims] == [["Accrued", "Voided"]] * 3


def test_a_contract_that_has_not_begun_is_taken_back_whole(village: Suspending) -> None:
    contract_id = village.propose()
    village.suspend()
    village.stage.until_quiet()
    assert village.process(contract_id).reason == "device_suspended"
    assert village.settled(contract_id).released_grains == PRICE
    assert (village.balances()["customer"], village.wallet(village.customer_id).held) == (FUNDS, 0)


def test_a_device_with_nothing_to_end_is_done_at_once(village: Suspending) -> None:
    village.ask(village.market.withdraw_offering, offering_id=village.offering_id, provider_id=None)
    process_id = village.suspend()
    village.stage.until_quiet()
    assert village.suspension(process_id).status == COMPLETED


def test_a_reservation_whose_contract_is_not_made_yet_is_left_to_its_burst(village: Suspending) -> None:
    offering = village.offering()
    offering.reserve(uuid4(), 1, village.now)
    village.stage.given(offering)
    process_id = village.suspend()
    village.stage.until_quiet()
    assert village.suspension(process_id).status == COMPLETED
    assert village.offering().free == 3


def test_what_others_do_goes_on(village: Suspending) -> None:
    mine, village.device_id = village.device_id, village.others[0]
    offering_id = village.offer()
    contract_id = village.running(offering_id=offering_id)
    village.device_id = mine
    village.suspend()
    village.act()
    assert village.contract(contract_id).status == "active"
    assert not village.log.load(Offering, offering_id).withdrawn


def test_a_device_that_is_reinstated_before_anything_ended_goes_on_with_all_of_it(village: Suspending) -> None:
    session_id, round_id, contract_id = village.lend(), village.train(), village.running()
    process_id = village.suspend()
    village.ask(village.registry.reinstate_device, device_id=village.device_id, reason="a mistake")
    village.stage.run()
    assert village.suspension(process_id).status == COMPLETED
    assert village.contract(contract_id).status == "active"
    assert village.log.load(HarvestSession, session_id).is_open
    assert not village.round(round_id).left
    assert not village.offering().withdrawn


def test_every_suspension_ends_what_was_begun_since_the_last_one(village: Suspending) -> None:
    for _ in range(2):
        village.offered()
        contract_id = village.running()
        process_id = village.suspend()
        village.act()
        assert village.suspension(process_id).status == COMPLETED
        assert village.contract(contract_id).status == "breached"


def test_a_device_that_retires_leaves_nothing_behind(village: Suspending) -> None:
    village.running()
    village.lend()
    village.ask(village.registry.retire_device, device_id=village.device_id, reason="lost")
    village.stage.until_quiet()
    village.assert_idle()
    village.assert_sound()


def test_a_device_that_answers_its_audit_wrongly_is_suspended(village: Suspending) -> None:
    contract_id = village.running()
    session_id = village.lend()
    job = village.log.load(HarvestSession, session_id).job
    assert job is not None, "the first sessions of a device are audited"
    village.ask(village.harvest.answer_audit, session_id=session_id, device_id=village.device_id, answer="0" * 64)
    village.ask(village.harvest.close_session, session_id=session_id)
    village.act()
    assert village.contract(contract_id).status == "breached"
    village.assert_idle()


def test_a_round_that_waited_for_nobody_else_ends_without_the_device(village: Suspending) -> None:
    round_id = village.train()
    for device_id in village.others:
        village.submit(round_id, device_id)
    village.suspend()
    village.stage.run()
    assert (village.round(round_id).state_name, village.round(round_id).survivors) == ("sealed", sorted(village.others))


def test_a_round_that_is_left_with_too_few_is_lost_and_its_session_knows(village: Suspending) -> None:
    round_id = village.train()
    village.submit(round_id, village.device_id)
    village.suspend()
    village.ask(village.training.leave_training, device_id=village.others[0], reason="test")
    village.ask(village.training.leave_training, device_id=village.others[1], reason="test")
    village.stage.run()
    session = village.log.load(TrainingSession, village.round(round_id).session_id)
    assert (village.round(round_id).state_name, session.open_round) == ("abandoned", None)


# More than one transaction, an index that is late, and operators.


def test_more_contracts_than_one_transaction_takes_end_in_several(
    village: Suspending, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suspend_device, "MAX_CONTRACTS", 1)
    village.given(2 * FUNDS, village.customer_id)
    contracts = [village.running() for _ in range(3)]
    process_id = village.suspend()
    village.act()
    assert village.names(process_id).count("StepContinued") == 2
    assert [village.names(contract_id).count("Breached") for contract_id in contracts] == [1, 1, 1]
    assert village.suspension(process_id).status == COMPLETED
    village.assert_sound()


def parked(village: StoredSuspending) -> tuple[UUID, UUID]:
    """A contract that runs, and the process of a suspension in a village whose read models stand still."""
    contract_id, behind = village.running(units=1), village.stage.projector
    village.stage.projector = Projector(village.database, [DeadlineRows()])
    process_id = village.suspend()
    village.act()
    for _ in range(40):
        if village.suspension(process_id).status == PARKED:
            break
        village.stage.wait(minutes=1)
    village.stage.projector.close()
    village.stage.projector = behind
    return contract_id, process_id


def test_an_index_that_stays_behind_parks_the_process_and_a_retry_ends_it(stored_village: StoredSuspending) -> None:
    contract_id, process_id = parked(stored_village)
    assert stored_village.standing(process_id) == (PARKED, "offerings_behind")
    assert stored_village.contract(contract_id).status == "active"
    stored_village.stage.projector.run_once()
    stored_village.stage.resolve(process_id, RETRY)
    assert stored_village.suspension(process_id).status == COMPLETED
    stored_village.stage.until_quiet()
    stored_village.assert_idle()
    stored_village.assert_sound()


def test_a_village_that_stood_still_for_a_day_parks_what_nobody_did(village: Suspending) -> None:
    process_id = village.suspend()
    village.stage.stand_still(process_id)
    assert village.standing(process_id) == (PARKED, "timed_out")
    village.stage.resolve(process_id, COMPENSATE)
    assert village.suspension(process_id).status == COMPENSATED


# Crashes and deliveries.


def suspended(village: Suspending, used_ms: int = TEN_MINUTES) -> Oracle:
    """A device that lends itself, trains, sells and has earned is suspended; all of it ends once."""
    village.offered()
    village.rival()
    village.given(2 * FUNDS, village.customer_id)
    before = village.balances()["customer"]
    session_id, round_id, contract_id = village.lend(), village.train(), village.running()
    moved_id = village.running(request_id=village.receipt(2 * PRICE))
    village.work(contract_id, used_ms)
    claim_id, process_id = village.earned(), village.suspend()

    def ended_once() -> None:
        bought = [contract_id, moved_id, *filter(village.names, [heir_of(moved_id)])]
        village.decide_over_parked(process_id, *(village.process(one).id for one in bought))
        assert village.suspension(process_id).status == COMPLETED
        village.assert_idle()
        assert village.names(round_id).count("ParticipantLeft") == 1
        assert village.names(session_id).count("SessionClosed") == 1
        assert [village.names(one).count("Settled") for one in bought] == [1] * len(bought)
        assert village.balances()["customer"] == before - sum(village.settled(one).charged_grains for one in bought)
        assert village.names(claim_id) == ["Accrued", "Voided"]
        assert (village.wallet(village.customer_id).held, village.offering().free) == (0, 4)
        village.assert_sound()

    return ended_once


def test_a_crash_before_or_after_any_write_of_the_process_ends_everything_once(village: Suspending) -> None:
    village.stage.handlers = village.stage.handlers[-1:]

    def scenario() -> Oracle:
        village.offered()
        session_id, contract_id = village.lend(), village.activated()
        moved_id = village.activated(request_id=village.receipt(2 * PRICE))
        claim_id, process_id = village.earned(), village.suspend()

        def ended_once() -> None:
            assert village.suspension(process_id).status == COMPLETED
            assert village.names(process_id).count("StepDone") == 5
            assert village.names(session_id).count("SessionClosed") == 1
            assert village.names(contract_id).count("Breached") == 1
            assert (village.names(moved_id)[-1], village.names(heir_of(moved_id))[-1]) == ("HandedOff", "Activated")
            assert village.names(claim_id) == ["Accrued", "Voided"]
            assert village.offering().withdrawn

        return ended_once

    village.rival(capacity=100)
    village.given(100 * FUNDS, village.customer_id)
    assert village.stage.crash_points(scenario, DEATHS) >= 7
    village.assert_sound()


@stormy
@given(order=deliveries, used_ms=st.sampled_from([1_000, TEN_MINUTES]))
def test_facts_in_any_order_and_number_end_everything_once(village: Suspending, order: list[int], used_ms: int) -> None:
    village.stage.storm(lambda: suspended(village, used_ms), order)


@stormy
@given(broken=faults)
def test_everything_ends_once_whatever_fails(village: Suspending, broken: Faults) -> None:
    village.stage.strike(lambda: suspended(village), broken)


def test_on_a_real_log_too_everything_ends_once_where_every_write_fails(stored_village: StoredSuspending) -> None:
    stored_village.stage.stumble(lambda: suspended(stored_village))


def test_a_whole_history_delivered_again_records_nothing_new(village: Suspending) -> None:
    oracle = suspended(village)
    village.stage.until_quiet()
    oracle()
    village.stage.adds_nothing()
