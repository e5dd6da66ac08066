"""Rewarding a session: paid once by the hour and the duty, whatever crashes, comes twice or late; never for a lie."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from hypothesis import given

from domain.device_registry.device import Device
from domain.device_registry.reputation import NEWCOMER_BP, Reputation
from domain.device_registry.status import ACTIVE, SUSPENDED
from domain.harvest import audit
from domain.harvest.device import HarvestDevice
from domain.harvest.session import HarvestSession
from domain.kernel.tokens import tokens
from domain.sagas.process import COMPENSATE, COMPENSATED, COMPLETED, PARKED, RETRY, PivotPassed
from domain.tokenomics.accounts import wallet_id_of
from domain.tokenomics.pricing import Policy
from domain.tokenomics.reward_epoch import epoch_number
from domain.tokenomics.wallet import Wallet
from infrastructure.database import Database
from tests.economy import assert_sound
from tests.sagas import DEATHS, Faults, Oracle, deliveries, faults, stormy

from .harvesting import Harvesting, MemoryHarvesting, StoredHarvesting


@pytest.fixture(autouse=True)
def _short_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "AUDIT_ROUNDS", 10)


@pytest.fixture
def harvest() -> Iterator[Harvesting]:
    harvest = MemoryHarvesting()
    yield harvest
    harvest.close()


@pytest.fixture
def stored_harvest(database_url: str, database: Database) -> Iterator[Harvesting]:
    harvest = StoredHarvesting(database_url, database)
    yield harvest
    harvest.close()


def reputation_bp(harvest: Harvesting, device_id: UUID) -> int:
    return harvest.log.load(Reputation, Reputation.create_id(device_id, "harvest")).standing.score_bp


def test_an_hour_is_paid_ten_tokens_once_and_the_device_gains_reputation(harvest: Harvesting) -> None:
    owner = uuid4()
    device_id = harvest.device(owner)
    session_id = harvest.session(device_id)
    harvest.stage.run()
    assert (harvest.status(session_id), harvest.process(session_id).status) == ("rewarded", COMPLETED)
    assert harvest.wallet(owner).available == tokens(10)
    assert reputation_bp(harvest, device_id) > NEWCOMER_BP
    assert_sound(harvest.facts())


def test_two_short_sessions_pay_what_a_long_one_does(harvest: Harvesting) -> None:
    owner = uuid4()
    device_id = harvest.device(owner)
    for minutes in (1, 2):
        harvest.session(device_id, minutes)
    harvest.stage.run()
    assert harvest.wallet(owner).available == tokens(10) * 3 // 60


@pytest.mark.parametrize("answer", ["0" * 64, None])
def test_who_does_not_know_the_answer_is_paid_nothing_and_loses_reputation(
    harvest: Harvesting, answer: str | None
) -> None:
    owner = uuid4()
    device_id = harvest.device(owner)
    session_id = harvest.session(device_id, answer=answer)
    harvest.stage.until_quiet()
    assert harvest.status(session_id) == "rewarded"
    assert not [fact for fact in harvest.facts() if fact.topic.startswith("tokenomics.RewardClaim")]
    assert reputation_bp(harvest, device_id) < NEWCOMER_BP
    assert harvest.log.load(HarvestDevice, HarvestDevice.create_id(device_id)).valid_in_a_row == 0
    assert harvest.log.load(Device, device_id).status == (SUSPENDED if answer else ACTIVE)


def test_an_audit_may_be_answered_after_the_end(harvest: Harvesting) -> None:
    owner = uuid4()
    session_id = harvest.session(harvest.device(owner), answer=None)
    harvest.stage.run()
    assert harvest.status(session_id) == "closed"
    harvest.answer(session_id)
    harvest.stage.run()
    assert harvest.wallet(owner).available == tokens(10)


def test_a_session_that_never_ran_earns_nothing(harvest: Harvesting) -> None:
    session_id = harvest.session(harvest.device(uuid4()), minutes=0)
    harvest.stage.until_quiet()
    assert harvest.log.load(HarvestSession, session_id).contribution.verified_ms == 0
    assert harvest.status(session_id) == "rewarded"


def test_a_claim_that_no_budget_pays_is_paid_by_a_later_epoch() -> None:
    poor = MemoryHarvesting(policy=replace(Policy(), epoch_budget_grains=tokens(15)))
    owner = uuid4()
    for _ in range(2):
        poor.session(poor.device(owner))
    poor.stage.run()
    assert poor.wallet(owner).available == tokens(10)
    poor.stage.until_quiet()
    assert poor.wallet(owner).available == tokens(20)
    poor.close()


def test_a_claim_that_no_epoch_pays_parks_its_process_and_an_operator_s_retry_pays_it() -> None:
    poor = MemoryHarvesting(policy=replace(Policy(), epoch_budget_grains=tokens(1) - 1))
    owner = uuid4()
    session_id = poor.session(poor.device(owner), minutes=6)
    poor.stage.until_quiet()
    process = poor.process(session_id)
    assert (process.status, process.reason) == (PARKED, "epoch_budget_exhausted")
    with pytest.raises(PivotPassed):
        poor.stage.resolve(process.id, COMPENSATE)
    poor.now += timedelta(days=1)
    number = epoch_number(poor.now, poor.service.policy.epoch_ms)
    poor.stage.ask(poor.service.open_epoch, number=number, budget_grains=tokens(1))
    poor.stage.resolve(process.id, RETRY)
    assert (poor.process(session_id).status, poor.wallet(owner).available) == (COMPLETED, tokens(1))
    poor.close()


def test_a_village_that_stood_still_for_a_month_pays_once_an_operator_lets_it(harvest: Harvesting) -> None:
    owner = uuid4()
    session_id = harvest.session(harvest.device(owner), minutes=6, answer=None)
    harvest.stage.run()
    harvest.answer(session_id)
    harvest.stage.stand_still(harvest.process(session_id).id)
    assert (harvest.process(session_id).status, harvest.process(session_id).reason) == (PARKED, "timed_out")
    harvest.stage.resolve(harvest.process(session_id).id, RETRY)
    harvest.stage.until_quiet()
    assert (harvest.process(session_id).status, harvest.wallet(owner).available) == (COMPLETED, tokens(1))


def test_a_session_that_an_operator_gives_up_is_paid_nothing(harvest: Harvesting) -> None:
    session_id = harvest.session(harvest.device(uuid4()), minutes=6, answer=None)
    harvest.stage.run()
    harvest.answer(session_id)
    harvest.stage.stand_still(harvest.process(session_id).id)
    harvest.stage.resolve(harvest.process(session_id).id, COMPENSATE)
    harvest.stage.until_quiet()
    assert harvest.process(session_id).status == COMPENSATED
    assert not [fact for fact in harvest.facts() if fact.topic.startswith("tokenomics.RewardClaim")]


# Crashes, repeats and reorders.


def begun(harvest: Harvesting) -> Oracle:
    """A session ends; at last it is paid exactly once, or its process says that its time was over."""
    owner = uuid4()
    session_id = harvest.session(harvest.device(owner), minutes=6)

    def paid_once() -> None:
        process = harvest.process(session_id)
        wallet = harvest.log.find(Wallet, wallet_id_of(owner))
        paid = 0 if wallet is None else wallet.available
        if process.status == COMPLETED:
            assert (harvest.status(session_id), paid) == ("rewarded", tokens(1))
        else:
            assert (process.reason, process.status in (PARKED, COMPENSATED)) == ("timed_out", True)
            assert paid in (0, tokens(1))
        assert_sound(harvest.facts())

    return paid_once


def test_a_crash_at_any_write_pays_once(stored_harvest: Harvesting) -> None:
    assert stored_harvest.stage.crash_points(lambda: begun(stored_harvest), DEATHS) >= 3


@stormy
@given(deliveries)
def test_facts_in_any_order_and_number_pay_once(harvest: Harvesting, order: list[int]) -> None:
    harvest.stage.storm(lambda: begun(harvest), order)


@stormy
@given(broken=faults)
def test_whatever_fails_it_is_paid_once(harvest: Harvesting, broken: Faults) -> None:
    harvest.stage.strike(lambda: begun(harvest), broken)
