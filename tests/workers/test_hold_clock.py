"""Holds end by themselves at their instant, each exactly once, whoever else ends them."""

from collections.abc import Iterator
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from domain.tokenomics.wallet import HoldAlreadyEnded, Wallet
from infrastructure.database import Database
from projections.tokenomics.queries import MoneyIndex
from tests.economy import Economy, assert_sound
from workers.hold_clock import HoldClock

ENDS = (Wallet.HoldCaptured, Wallet.HoldVoided, Wallet.HoldExpired)


@pytest.fixture
def economy(database_url: str, database: Database) -> Iterator[Economy]:
    economy = Economy(database_url, database)
    yield economy
    economy.close()


def clock_of(economy: Economy) -> HoldClock:
    return HoldClock(economy.service, MoneyIndex(economy.database).due_holds, lambda: economy.now)


def held(economy: Economy, owner: UUID, minutes: int) -> UUID:
    hold_id = uuid4()
    with economy.acting():
        economy.service.hold_funds(
            owner_id=owner, hold_id=hold_id, grains=100, expires_at=economy.now + timedelta(minutes=minutes)
        )
    economy.projector.run_once()
    return hold_id


def test_a_hold_ends_at_its_instant_and_not_before(economy: Economy) -> None:
    owner, clock = economy.given(1_000), clock_of(economy)
    early, late = held(economy, owner, 1), held(economy, owner, 2)
    economy.now += timedelta(seconds=59)
    assert clock.tick() == 0
    economy.now += timedelta(seconds=1)
    assert clock.tick() == 1
    assert set(economy.wallet(owner).holds) == {late}
    assert early in economy.wallet(owner).ended
    assert economy.wallet(owner).available == 900


def test_a_hold_ends_once_though_two_clocks_and_a_behind_read_model_try_it_again(economy: Economy) -> None:
    owner, one, other = economy.given(1_000), clock_of(economy), clock_of(economy)
    hold_id = held(economy, owner, 1)
    economy.now += timedelta(minutes=1)
    assert [one.tick(), other.tick(), one.tick()] == [1, 0, 0]
    economy.projector.run_once()
    assert one.tick() == 0
    with economy.acting(), pytest.raises(HoldAlreadyEnded):
        economy.service.void_hold(owner_id=owner, hold_id=hold_id)
    assert [type(fact.event) for fact in economy.facts() if isinstance(fact.event, ENDS)] == [Wallet.HoldExpired]
    assert_sound(economy.facts())


def test_what_ended_before_its_instant_is_left_alone(economy: Economy) -> None:
    owner, payee, clock = economy.given(1_000), economy.given(0), clock_of(economy)
    captured, voided = held(economy, owner, 1), held(economy, owner, 1)
    with economy.acting():
        economy.service.capture_hold(owner_id=owner, hold_id=captured, to_owner_id=payee, grains=60)
        economy.service.void_hold(owner_id=owner, hold_id=voided)
    economy.now += timedelta(minutes=5)
    assert clock.tick() == 0
    assert economy.wallet(owner).available == 940
