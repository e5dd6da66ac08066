"""Rewarding a round: everybody who counted is paid, once, whatever is delivered how often and whatever crashes."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from hypothesis import given

from domain.device_registry.reputation import NEWCOMER_BP
from domain.kernel.tokens import tokens
from domain.sagas import reward_training
from domain.sagas.process import ABANDON, COMPENSATE, RETRY, ActionUnknown, PivotPassed, ProcessNotParked
from domain.sagas.reward_training import MAX_POSTPONEMENTS, median, quality_bp
from domain.tokenomics.pricing import Policy
from domain.tokenomics.reward_claim import RewardClaim, claim_id_of
from domain.tokenomics.reward_epoch import RewardEpoch, epoch_id_of, epoch_number
from domain.tokenomics.transfer import Transfer
from infrastructure.database import Database
from tests.economy import assert_sound
from tests.sagas import DEATHS, Oracle, deliveries, stormy

from .rewarding import TEN_MINUTES, MemoryRewarding, Rewarding, StoredRewarding
from .stubborn import out_of_order

FULL = tokens(15) // 6
"""Ten minutes of training at full quality."""
ALL_STEPS = ["Started", "RewardsAccrued", "RewardsPosted", "Completed"]


def test_a_completed_round_leaves_pending_rewards_before_the_batch_is_posted(stored_village: StoredRewarding) -> None:
    device_id = stored_village.device()
    round_id = stored_village.completed_round([device_id])
    runner = stored_village.stage.runner()
    while not stored_village.steps(round_id):
        runner.step()
    runner.close()
    stored_village.projector.run_once()
    rewards = stored_village.service.get_pending_rewards(device_id=device_id)
    assert len(rewards) > 0
    assert rewards[0].reward_type == "fl_participation"
    assert (rewards[0].grains, rewards[0].activity_id) == (FULL, round_id)
    stored_village.stage.run()
    stored_village.projector.run_once()
    assert stored_village.service.get_pending_rewards(device_id=device_id) == []


def test_every_survivor_is_paid_by_one_transfer_and_gains_reputation(village: Rewarding) -> None:
    owners = [uuid4(), uuid4()]
    devices = [village.device(owner_id=owner) for owner in owners]
    round_id = village.completed_round(devices)
    village.stage.run()
    assert village.steps(round_id) == ALL_STEPS
    assert [village.wallet(owner).available for owner in owners] == [FULL, FULL]
    assert all(village.claim(round_id, device_id).posted for device_id in devices)
    assert all(village.reputation_bp(device_id) > NEWCOMER_BP for device_id in devices)
    rewards = [fact for fact in village.facts() if isinstance(fact.event, Transfer.Posted)]
    assert [fact.event.kind for fact in rewards] == ["genesis", "reward"]
    assert_sound(village.facts())


def test_an_owner_of_two_devices_is_paid_for_both(village: Rewarding) -> None:
    owner = uuid4()
    village.completed_round([village.device(owner_id=owner) for _ in range(2)])
    village.stage.run()
    assert village.wallet(owner).available == 2 * FULL


def test_a_refused_update_earns_nothing_and_costs_reputation(village: Rewarding) -> None:
    honest, broken, cheat = village.device(), village.device(), uuid4()
    cheat = village.device(owner_id=cheat)
    round_id = village.completed_round([honest, broken], rejected=[cheat])
    village.stage.run()
    assert village.steps(round_id) == ALL_STEPS
    assert village.saga(round_id).claims == 2
    assert village.reputation_bp(cheat) < NEWCOMER_BP < village.reputation_bp(honest)


def test_nobody_is_paid_for_more_time_than_passed(village: Rewarding) -> None:
    owner = uuid4()
    village.completed_round([village.device(owner_id=owner)], train_ms=TEN_MINUTES, took_ms=TEN_MINUTES // 2)
    village.stage.run()
    assert village.wallet(owner).available == FULL // 2


def test_the_fraction_of_a_grain_a_round_leaves_is_paid_by_a_later_one(village: Rewarding) -> None:
    owner = uuid4()
    device_id = village.device(owner_id=owner)
    for _ in range(3):
        village.completed_round([device_id], train_ms=1)
    village.stage.run()
    assert village.wallet(owner).available == 3 * tokens(15) // 3_600_000 == 1_250


def test_quality_pays_half_for_taking_part_and_half_for_data_up_to_the_median() -> None:
    assert median([1, 900, 100, 30]) == 30
    assert [quality_bp(examples, 100) for examples in (1, 50, 100, 10**9)] == [5_050, 7_500, 10_000, 10_000]


def test_a_device_with_less_data_than_the_median_is_paid_less(village: Rewarding) -> None:
    owners = [uuid4(), uuid4(), uuid4()]
    devices = [village.device(owner_id=owner) for owner in owners]
    village.completed_round(devices, examples=[50, 100, 10**6])
    village.stage.run()
    assert [village.wallet(owner).available for owner in owners] == [FULL * 3 // 4, FULL, FULL]


def test_a_large_round_is_rewarded_in_several_steps(village: Rewarding, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reward_training, "MAX_ACCRUALS", 3)
    monkeypatch.setattr(reward_training, "MAX_BATCH", 2)
    owners = [uuid4() for _ in range(7)]
    round_id = village.completed_round([village.device(owner_id=owner) for owner in owners])
    village.stage.run()
    assert village.steps(round_id) == ["Started", *["RewardsAccrued"] * 3, *["RewardsPosted"] * 4, "Completed"]
    assert [village.wallet(owner).available for owner in owners] == [FULL] * 7
    assert_sound(village.facts())


def test_a_device_nobody_knows_parks_the_saga_before_anything_is_claimed(village: Rewarding) -> None:
    round_id = village.completed_round([village.device(), uuid4()])
    village.stage.run()
    assert village.steps(round_id) == ["Started", "Parked"]
    assert not [fact for fact in village.facts() if fact.topic.startswith("tokenomics.")]


def test_a_suspended_device_is_paid_nothing_for_a_round_and_the_others_are(village: Rewarding) -> None:
    owners = [uuid4(), uuid4()]
    devices = [village.device(owner_id=owner) for owner in owners]
    round_id = village.completed_round(devices)
    village.stage.ask(village.registry.suspend_device, device_id=devices[0], reason="sends nonsense")
    village.stage.run()
    assert village.steps(round_id) == ALL_STEPS
    assert village.log.find(RewardClaim, claim_id_of("fl_participation", round_id, devices[0])) is None
    assert village.wallet(owners[1]).available == FULL


def test_a_round_of_suspended_devices_only_pays_nobody(village: Rewarding) -> None:
    device_id = village.device()
    round_id = village.completed_round([device_id])
    village.stage.ask(village.registry.suspend_device, device_id=device_id, reason="sends nonsense")
    village.stage.run()
    assert village.steps(round_id)[-1] == "Completed"
    assert not [fact for fact in village.facts() if fact.topic.startswith("tokenomics.RewardClaim")]


# The budget.


@pytest.fixture
def poor() -> Iterator[Rewarding]:
    """A village whose epochs can pay two devices and a half."""
    poor = MemoryRewarding(policy=replace(Policy(), epoch_budget_grains=5 * FULL // 2))
    yield poor
    poor.close()


def test_claims_beyond_the_budget_stay_pending_and_a_later_epoch_pays_them(poor: Rewarding) -> None:
    owners = [uuid4() for _ in range(7)]
    round_id = poor.completed_round([poor.device(owner_id=owner) for owner in owners])
    first = epoch_number(poor.now, poor.service.policy.epoch_ms)
    paid = []
    for _ in range(3):
        poor.stage.run()
        paid.append(sum(poor.wallet(owner).available for owner in owners))
        assert poor.stage.jump()
    poor.stage.run()
    assert paid == [2 * FULL, 4 * FULL, 6 * FULL]
    assert sum(poor.wallet(owner).available for owner in owners) == 7 * FULL
    assert poor.saga(round_id).ended
    assert poor.steps(round_id)[-1] == "Completed"
    epochs = [poor.log.load(RewardEpoch, epoch_id_of(first + ahead)) for ahead in range(4)]
    assert [epoch.reserved for epoch in epochs] == [2 * FULL, 2 * FULL, 2 * FULL, FULL]
    assert [epoch.closed for epoch in epochs] == [True, True, True, False]
    assert_sound(poor.facts())


def test_the_deadline_of_a_postponement_counts_once(poor: Rewarding) -> None:
    round_id = poor.completed_round([poor.device() for _ in range(5)])
    poor.stage.run()
    poor.stage.when_time_comes()
    (elapsed,) = [fact for fact in poor.stage.heard() if fact.topic.endswith("Elapsed")]
    for _ in range(3):
        poor.stage.deliver(elapsed)
    assert poor.saga(round_id).postponements == 2


def test_a_saga_that_no_epoch_can_pay_parks_at_last_and_its_claims_can_still_be_posted(
    database_url: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reward_training, "MAX_POSTPONEMENTS", 2)
    owner = uuid4()
    broke = StoredRewarding(database_url, database, replace(Policy(), epoch_budget_grains=FULL - 1))
    round_id = broke.completed_round([broke.device(owner_id=owner)])
    broke.stage.until_quiet()
    assert broke.steps(round_id)[-1] == "Parked"
    assert broke.wallet(owner).available == 0
    claims = broke.saga(round_id).pending
    broke.close()
    rich = StoredRewarding(database_url, database)
    rich.now = broke.now.replace(year=broke.now.year + 1)
    rich.distribute(claims)
    assert rich.wallet(owner).available == FULL
    rich.close()


@pytest.fixture
def broke(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rewarding]:
    """A village whose epochs pay a device, but for a grain, and whose sagas wait for two of them."""
    monkeypatch.setattr(reward_training, "MAX_POSTPONEMENTS", 2)
    broke = MemoryRewarding(replace(Policy(), epoch_budget_grains=FULL - 1))
    yield broke
    broke.close()


def parked(broke: Rewarding) -> tuple[UUID, UUID]:
    """A round that no epoch has paid, and the owner of its device."""
    owner = uuid4()
    round_id = broke.completed_round([broke.device(owner_id=owner)])
    broke.stage.until_quiet()
    assert broke.saga(round_id).parked
    return round_id, owner


def fund_tomorrow(broke: Rewarding) -> None:
    broke.now += timedelta(days=1)
    number = epoch_number(broke.now, broke.service.policy.epoch_ms)
    broke.stage.ask(broke.service.open_epoch, number=number, budget_grains=FULL)


def test_a_saga_that_is_parked_goes_on_where_it_was_once_an_operator_says_so(broke: Rewarding) -> None:
    round_id, owner = parked(broke)
    fund_tomorrow(broke)
    broke.stage.resolve(broke.saga(round_id).id, RETRY)
    assert (broke.steps(round_id)[-3:], broke.wallet(owner).available) == (
        ["Resolved", "RewardsPosted", "Completed"], FULL,
    )  # fmt: skip
    with pytest.raises(ProcessNotParked):
        broke.stage.resolve(broke.saga(round_id).id, RETRY)
    broke.stage.adds_nothing()
    assert_sound(broke.facts())


def test_a_saga_that_is_tried_again_too_early_parks_again(broke: Rewarding) -> None:
    round_id, owner = parked(broke)
    broke.stage.resolve(broke.saga(round_id).id, RETRY)
    broke.stage.until_quiet()
    assert (broke.saga(round_id).parked, broke.wallet(owner).available) == (True, 0)
    assert broke.steps(round_id).count("Postponed") == 4


def test_a_saga_that_an_operator_gives_up_leaves_claims_that_a_batch_pays_once(broke: Rewarding) -> None:
    round_id, owner = parked(broke)
    with pytest.raises(PivotPassed):
        broke.stage.resolve(broke.saga(round_id).id, COMPENSATE)
    with pytest.raises(ActionUnknown):
        broke.stage.resolve(broke.saga(round_id).id, "shrug")
    broke.stage.resolve(broke.saga(round_id).id, ABANDON)
    assert (broke.steps(round_id)[-1], broke.saga(round_id).parked) == ("Resolved", False)
    fund_tomorrow(broke)
    paid = [broke.distribute(broke.saga(round_id).pending).extra["posted"] for _ in range(2)]
    assert (paid, broke.wallet(owner).available) == ([1, 0], FULL)


def test_a_saga_that_parked_between_two_parts_of_its_devices_goes_on_with_the_next_part(
    village: Rewarding, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reward_training, "MAX_ACCRUALS", 2)
    owners = [uuid4() for _ in range(6)]
    round_id = village.completed_round([village.device(owner_id=owner) for owner in owners])
    while "RewardsAccrued" not in village.steps(round_id):
        village.stage.runner().step()
    with out_of_order(village.stage, "tokenomics.accrue_reward"):
        village.stage.until_quiet()
    assert village.steps(round_id) == ["Started", "RewardsAccrued", "Parked"]
    village.stage.resolve(village.saga(round_id).id, RETRY)
    village.stage.until_quiet()
    assert [village.wallet(owner).available for owner in owners] == [FULL] * 6
    assert village.steps(round_id)[3:] == ["Resolved", *["RewardsAccrued"] * 2, "RewardsPosted", "Completed"]


def test_thirty_epochs_may_pass_before_an_operator_is_wanted() -> None:
    assert MAX_POSTPONEMENTS == 30


# Crashes and deliveries.


def a_round(village: Rewarding, devices: int = 2) -> Oracle:
    """A round is completed; in the end each of its devices is paid once."""
    owners = [uuid4() for _ in range(devices)]
    round_id = village.completed_round([village.device(owner_id=owner) for owner in owners])

    def each_is_paid_once() -> None:
        assert village.steps(round_id) == ALL_STEPS or village.saga(round_id).postponements
        assert village.steps(round_id)[-1] == "Completed"
        assert [village.wallet(owner).available for owner in owners] == [FULL] * devices

    return each_is_paid_once


def test_a_crash_before_or_after_any_write_pays_once(stored_village: Rewarding) -> None:
    assert stored_village.stage.crash_points(lambda: a_round(stored_village)) >= 3
    assert_sound(stored_village.facts())


def test_a_crash_at_any_write_of_a_round_that_waits_for_a_budget_pays_once(poor: Rewarding) -> None:
    assert poor.stage.crash_points(lambda: a_round(poor, devices=3), DEATHS) >= 6
    assert_sound(poor.facts())


def test_a_whole_history_delivered_again_records_nothing_new(village: Rewarding) -> None:
    village.completed_round([village.device(), village.device()])
    village.stage.run()
    head = village.log.head()
    for fact in village.stage.heard():
        village.stage.deliver(fact)
    assert village.log.head() == head


@stormy
@given(facts=deliveries)
def test_any_order_and_number_of_deliveries_pays_the_same(village: Rewarding, facts: list[int]) -> None:
    each_is_paid_once = a_round(village)
    village.stage.deliver_anyhow(facts)
    each_is_paid_once()
    assert_sound(village.facts())


def test_two_runners_at_once_pay_once(stored_village: Rewarding) -> None:
    owner = uuid4()
    stored_village.completed_round([stored_village.device(owner_id=owner)])
    first, second = stored_village.stage.runner(), stored_village.stage.runner()
    for _ in range(6):
        first.step()
        second.step()
    first.close()
    second.close()
    assert stored_village.wallet(owner).available == FULL


def test_a_saga_replays_to_what_it_was(village: Rewarding) -> None:
    round_id = village.completed_round([village.device()])
    village.stage.run()
    assert village.saga(round_id) == village.log.at_version(type(village.saga(round_id)), village.saga(round_id).id, 4)
