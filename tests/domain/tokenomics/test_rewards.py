"""Rewards on a real log: accrued at once, posted in batches, once, within the budget of an epoch."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domain.kernel import AlreadyExists
from domain.kernel.tokens import tokens
from domain.tokenomics.accounts import MINT, TREASURY
from domain.tokenomics.budget import BudgetInvalid, EpochTooFar
from domain.tokenomics.issuance import ISSUANCE_ID, EpochOver, Issuance
from domain.tokenomics.pricing import Activity, Policy, Reward
from domain.tokenomics.reward_claim import ClaimVoid, RewardClaim, RewardClaimUnknown
from domain.tokenomics.reward_epoch import EpochBudgetExhausted, RewardEpoch, epoch_id_of, epoch_number
from domain.tokenomics.rewards import MAX_BATCH, BatchTooLarge
from domain.tokenomics.transfer import Transfer
from tests.economy import HOUR, Books, NewEconomy, assert_sound

DAY_MS = 86_400_000


@pytest.fixture
def thrifty(new_economy: NewEconomy) -> Books:
    """An economy whose epochs pay two and a half hours of training."""
    return new_economy(replace(Policy(), epoch_budget_grains=5 * HOUR // 2))


def running(economy: Books) -> RewardEpoch:
    return economy.log.load(RewardEpoch, epoch_id_of(epoch_number(economy.now, DAY_MS)))


def test_genesis_issues_the_supply_once(economy: Books) -> None:
    for _ in range(3):
        with economy.acting():
            economy.service.genesis()
    (transfer,) = [fact.event for fact in economy.facts() if isinstance(fact.event, Transfer.Posted)]
    assert {leg.account: leg.grains for leg in transfer.legs} == {MINT: -(10**17), TREASURY: 10**17}
    assert transfer.kind == "genesis"


def test_two_processes_that_begin_at_once_issue_one_supply(economy: Books) -> None:
    def begin(_: int) -> None:
        with economy.acting():
            economy.service.genesis()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(begin, range(8)))
    assert [type(fact.event) for fact in economy.facts()] == [Issuance.Opened, Transfer.Posted]


def test_a_village_without_supply_has_no_transfer_and_pays_nothing(new_economy: NewEconomy) -> None:
    empty = new_economy(replace(Policy(), supply_grains=0))
    claim_id = empty.accrue()
    with pytest.raises(EpochBudgetExhausted):
        empty.distribute([claim_id])
    with empty.acting():
        empty.service.genesis()
    assert empty.log.load(Issuance, ISSUANCE_ID).supply == 0
    with pytest.raises(EpochBudgetExhausted):
        empty.distribute([claim_id])
    assert not [fact for fact in empty.facts() if isinstance(fact.event, Transfer.Posted)]


def test_an_activity_is_claimed_once_and_opens_the_wallet_of_its_owner(economy: Books) -> None:
    activity = Activity("fl_participation", uuid4(), uuid4(), uuid4(), 3_600_000, 10_000)
    receipts = []
    for _ in range(3):
        with economy.acting():
            receipts.append(economy.service.accrue_reward(activity=activity))
    assert len({receipt.id for receipt in receipts}) == 1
    assert {receipt.extra["grains"] for receipt in receipts} == {str(HOUR)}
    assert len([fact for fact in economy.facts() if isinstance(fact.event, RewardClaim.Accrued)]) == 1
    assert economy.wallet(activity.owner_id).posted == 0


def test_what_an_activity_would_earn_is_what_it_earns(economy: Books) -> None:
    activity = Activity("harvest_contribution", uuid4(), uuid4(), uuid4(), 1_234_567, 9_876)
    with economy.acting():
        accrued = economy.service.accrue_reward(activity=activity)
    assert str(economy.service.calculate_rewards(activity=activity).grains) == accrued.extra["grains"]
    assert economy.service.calculate_rewards(activity=replace(activity, verified_ms=0)) == Reward(0, 0, 10_000)


def test_a_batch_is_one_transfer_that_credits_every_wallet(economy: Books) -> None:
    owners = [uuid4(), uuid4()]
    claims = [economy.accrue(owner_id=owner) for owner in (*owners, owners[0])]
    receipt = economy.distribute(claims)
    assert receipt.extra == {"posted": 3, "grains": str(3 * HOUR), "left": []}
    assert [economy.wallet(owner).available for owner in owners] == [2 * HOUR, HOUR]
    transfer = economy.log.load(Transfer, receipt.id)
    assert {leg.grains for leg in transfer.legs} == {-3 * HOUR, 2 * HOUR, HOUR}
    assert running(economy).reserved == 3 * HOUR
    assert_sound(economy.facts())


def test_a_batch_posted_again_pays_nothing(economy: Books) -> None:
    owner, batch_id = uuid4(), uuid4()
    claims = [economy.accrue(owner_id=owner)]
    first = economy.distribute(claims, batch_id)
    head = economy.log.head()
    again = economy.distribute(claims, batch_id)
    assert (again.id, again.extra["posted"]) == (first.id, 0)
    assert economy.log.head() == head
    assert economy.distribute([*claims, economy.accrue(owner_id=owner)]).extra["posted"] == 1
    assert economy.wallet(owner).available == 2 * HOUR


def test_the_id_of_a_batch_pays_once_and_leaves_whatever_claims_come_with_it_later(economy: Books) -> None:
    batch_id, later = uuid4(), economy.accrue()
    economy.distribute([economy.accrue()], batch_id)
    head = economy.log.head()
    again = economy.distribute([later], batch_id)
    assert again.extra == {"posted": 0, "grains": "0", "left": [str(later)]}
    assert economy.log.head() == head
    assert not economy.log.load(RewardClaim, later).posted


def test_batches_posted_at_once_by_eight_threads_pay_each_claim_once(economy: Books) -> None:
    owner = uuid4()
    claims = [economy.accrue(owner_id=owner) for _ in range(6)]
    with ThreadPoolExecutor(8) as threads:
        posted = list(threads.map(lambda _: economy.distribute(claims).extra["posted"], range(8)))
    assert sum(posted) == 6
    assert economy.wallet(owner).available == 6 * HOUR
    assert_sound(economy.facts())


def test_the_largest_batch_pays_five_hundred_wallets_in_one_transaction(economy: Books) -> None:
    assert MAX_BATCH == 500
    owners = [uuid4() for _ in range(MAX_BATCH)]
    claims = [economy.accrue(owner_id=owner) for owner in owners]
    before = economy.log.head()
    assert economy.distribute(claims).extra["posted"] == MAX_BATCH
    facts = [fact for fact in economy.facts() if fact.position > before]
    assert len({fact.command_id for fact in facts}) == 1
    assert all(economy.wallet(owner).available == HOUR for owner in owners[:5])
    with pytest.raises(BatchTooLarge):
        economy.distribute([*claims, uuid4()])


def test_a_batch_voids_what_devices_have_forfeited_and_pays_the_others(economy: Books) -> None:
    lost, kept = economy.accrue(), economy.accrue()
    lost_by = economy.log.load(RewardClaim, lost).device_id
    economy.service.forfeiting = lambda device_ids: {lost_by}.intersection(device_ids)
    assert economy.distribute([lost, kept]).extra == {"posted": 1, "grains": str(HOUR), "left": []}
    assert economy.distribute([lost]).extra["posted"] == 0
    voided = [fact.event for fact in economy.facts() if isinstance(fact.event, RewardClaim.Voided)]
    assert [(event.claim_id, event.reason) for event in voided] == [(lost, "device_suspended")]
    assert_sound(economy.facts())


def test_a_void_claim_is_never_paid_and_what_is_paid_stays_so(economy: Books) -> None:
    owner = uuid4()
    paid, void, other = (economy.accrue(owner_id=owner) for _ in range(3))
    economy.distribute([paid])
    for _ in range(2):
        with economy.acting():
            voided = economy.service.void_rewards(claim_ids=[paid, void], reason="device_suspended").extra["voided"]
    assert voided == 0  # the second time
    assert economy.distribute([paid, void, other]).extra == {"posted": 1, "grains": str(HOUR), "left": []}
    assert economy.wallet(owner).available == 2 * HOUR
    assert [economy.log.load(RewardClaim, claim_id).voided for claim_id in (paid, void, other)] == [False, True, False]
    with pytest.raises(ClaimVoid):
        economy.log.load(RewardClaim, void).post(None, uuid4())
    assert_sound(economy.facts())


def test_a_claim_nobody_made_is_not_posted(economy: Books) -> None:
    owner = uuid4()
    with pytest.raises(RewardClaimUnknown):
        economy.distribute([economy.accrue(owner_id=owner), uuid4()])
    assert economy.wallet(owner).available == 0


def test_a_claim_of_nothing_is_posted_without_moving_money(economy: Books) -> None:
    claim_id = economy.accrue(verified_ms=0)
    receipt = economy.distribute([claim_id])
    assert receipt.extra == {"posted": 1, "grains": "0", "left": []}
    assert economy.log.find(Transfer, receipt.id) is None
    assert economy.log.load(RewardClaim, claim_id).posted


def test_an_epoch_pays_what_its_budget_allows_and_the_next_one_the_rest(thrifty: Books) -> None:
    claims = [thrifty.accrue() for _ in range(3)]
    first = thrifty.distribute(claims)
    assert (first.extra["posted"], first.extra["left"]) == (2, [str(claims[2])])
    head = thrifty.log.head()
    with pytest.raises(EpochBudgetExhausted):
        thrifty.distribute(claims)
    assert thrifty.log.head() == head
    spent = running(thrifty)
    thrifty.now += timedelta(days=1)
    assert thrifty.distribute(claims).extra["posted"] == 1
    assert running(thrifty).reserved == HOUR
    assert thrifty.log.load(RewardEpoch, spent.id).closed
    issuance = thrifty.log.load(Issuance, ISSUANCE_ID)
    assert issuance.unallotted == 10**17 - 2 * HOUR - thrifty.service.policy.epoch_budget_grains
    assert_sound(thrifty.facts())


def test_an_epoch_never_reopens_for_a_clock_that_lags(thrifty: Books) -> None:
    claims = [thrifty.accrue() for _ in range(3)]
    thrifty.distribute(claims[:1])
    thrifty.now += timedelta(days=2)
    thrifty.distribute(claims[1:2])
    thrifty.now -= timedelta(days=2)
    thrifty.distribute(claims[2:])
    numbers = [fact.event.number for fact in thrifty.facts() if isinstance(fact.event, RewardEpoch.Opened)]
    first = epoch_number(thrifty.now, DAY_MS)
    assert numbers == [first, first + 2]


def test_the_end_of_the_running_epoch_is_when_the_next_budget_opens(economy: Books) -> None:
    ends_at = economy.service.epoch_ends_at(economy.now)
    assert ends_at == economy.now.replace(hour=0) + timedelta(days=1)


def test_an_operator_gives_an_epoch_a_budget_of_its_own(economy: Books) -> None:
    number = epoch_number(economy.now, DAY_MS)
    with economy.acting():
        economy.service.open_epoch(number=number, budget_grains=HOUR)
        economy.service.open_epoch(number=number + 1, budget_grains=HOUR)
    claims = [economy.accrue(), economy.accrue()]
    assert economy.distribute(claims).extra["posted"] == 1
    assert not economy.log.load(RewardEpoch, epoch_id_of(number + 1)).closed
    economy.now += timedelta(days=1)
    assert economy.distribute(claims).extra["posted"] == 1


def test_an_epoch_that_an_operator_opened_ahead_stays_open_when_those_before_it_close(economy: Books) -> None:
    number = epoch_number(economy.now, DAY_MS)
    economy.distribute([economy.accrue()])
    with economy.acting():
        economy.service.open_epoch(number=number + 2, budget_grains=HOUR)
    economy.now += timedelta(days=1)
    economy.distribute([economy.accrue()])
    epochs = [economy.log.load(RewardEpoch, epoch_id_of(number + ahead)) for ahead in range(3)]
    assert [epoch.closed for epoch in epochs] == [True, False, False]


def test_epochs_of_the_past_or_the_far_future_or_beyond_the_supply_are_not_opened(economy: Books) -> None:
    number = epoch_number(economy.now, DAY_MS)
    with economy.acting():
        economy.service.open_epoch(number=number, budget_grains=0)
        with pytest.raises(AlreadyExists):
            economy.service.open_epoch(number=number, budget_grains=1)
        with pytest.raises(EpochOver):
            economy.service.open_epoch(number=number - 1, budget_grains=1)
        with pytest.raises(EpochTooFar):
            economy.service.open_epoch(number=number + 367, budget_grains=1)
        for budget in (-1, 10**17 + 1):
            with pytest.raises(BudgetInvalid):
                economy.service.open_epoch(number=number + 1, budget_grains=budget)
        economy.service.open_epoch(number=number + 366, budget_grains=10**17)


def test_when_the_supply_has_been_allotted_epochs_open_with_what_is_left(new_economy: NewEconomy) -> None:
    policy = replace(Policy(), supply_grains=tokens(40), epoch_budget_grains=tokens(30))
    last = new_economy(policy)
    claims = [last.accrue() for _ in range(3)]
    paid = [last.distribute(claims).extra["posted"]]
    for _ in range(2):
        last.now += timedelta(days=1)
        try:
            paid.append(last.distribute(claims).extra["posted"])
        except EpochBudgetExhausted:
            paid.append(0)
    assert paid == [2, 0, 0]
    assert last.log.load(Issuance, ISSUANCE_ID).unallotted == tokens(10)
    assert_sound(last.facts())


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    work=st.lists(st.integers(1, 7_200_000), min_size=1, max_size=6),
    batches=st.lists(st.lists(st.integers(0, 5), max_size=6), max_size=6),
    days=st.lists(st.integers(0, 1), max_size=6),
)
def test_no_order_of_batches_pays_a_claim_twice_or_an_epoch_more_than_its_budget(
    thrifty: Books, work: list[int], batches: list[list[int]], days: list[int]
) -> None:
    owner = uuid4()
    claims = [thrifty.accrue(owner_id=owner, verified_ms=ms) for ms in work]
    for index, batch in enumerate(batches):
        thrifty.now += timedelta(days=days[index] if index < len(days) else 1)
        chosen: list[UUID] = [claims[number % len(claims)] for number in batch]
        try:
            thrifty.distribute(chosen)
        except EpochBudgetExhausted:
            continue
    posted = [claim for claim_id in claims if (claim := thrifty.log.load(RewardClaim, claim_id)).posted]
    assert thrifty.wallet(owner).available == sum(claim.grains for claim in posted)
    reserved: dict[UUID, int] = {}
    for fact in thrifty.facts():
        if isinstance(fact.event, RewardEpoch.BudgetReserved):
            reserved[fact.stream] = reserved.get(fact.stream, 0) + fact.event.grains
    assert all(grains <= thrifty.service.policy.epoch_budget_grains for grains in reserved.values())
