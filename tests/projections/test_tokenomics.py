"""Read models of tokenomics: equal to the aggregates, conserved at every position, the same after a rebuild."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domain.kernel import Refusal
from domain.tokenomics.accounts import FEES, MINT, SYSTEM_ACCOUNT_NAMES, TREASURY, wallet_id_of
from domain.tokenomics.reward_claim import RewardClaim
from domain.tokenomics.reward_epoch import RewardEpoch
from domain.tokenomics.wallet import Wallet
from infrastructure.database import Database
from projections.replay import compare
from projections.rows import ReadModel
from projections.tokenomics import (
    READ_MODELS,
    Accounts,
    DevicePayouts,
    Epochs,
    RewardClaims,
    TransferLegs,
    Transfers,
    Wallets,
)
from tests.economy import HOUR, Economy


@pytest.fixture
def economy(database_url: str, database: Database) -> Iterator[Economy]:
    economy = Economy(database_url, database)
    yield economy
    economy.close()


def rows(economy: Economy, model: ReadModel[Any]) -> dict[Any, Any]:
    """The live rows by key, once the projector has caught up."""
    economy.projector.run_once()
    with economy.database.reader.connection() as connection:
        found = [model.read(record) for record in connection.execute(model.select())]
    return {model.key_of(row): row for row in found}


def hold(economy: Economy, owner: UUID, grains: int, minutes: int = 60) -> UUID:
    hold_id = uuid4()
    with economy.acting():
        economy.service.hold_funds(
            owner_id=owner,
            hold_id=hold_id,
            grains=grains,
            expires_at=economy.now + timedelta(minutes=minutes),
            purpose="job",
        )
    return hold_id


def test_a_wallet_row_tells_what_the_wallet_has(economy: Economy) -> None:
    owner, payee = economy.given(1_000), economy.given(0)
    captured, voided, expired, kept = (hold(economy, owner, grains) for grains in (100, 50, 30, 20))
    with economy.acting():
        economy.service.capture_hold(owner_id=owner, hold_id=captured, to_owner_id=payee, grains=60)
        economy.service.void_hold(owner_id=owner, hold_id=voided)
    economy.now += timedelta(hours=1)
    with economy.acting():
        economy.service.expire_hold(owner_id=owner, hold_id=expired)
    row = rows(economy, Wallets())[wallet_id_of(owner)]
    assert (row.owner_id, row.posted_grains, row.held_grains, row.available_grains) == (owner, 940, 20, 920)
    assert set(economy.wallet(owner).holds) == {kept}
    assert rows(economy, Wallets())[wallet_id_of(payee)].posted_grains == 60


def test_accounts_name_the_system_and_count_transfers(economy: Economy) -> None:
    payer, payee = economy.given(1_000), economy.given(0)
    economy.pay(payer, payee, 500, kind="service_payment")
    found = rows(economy, Accounts())
    assert {row.name: row.balance_grains for row in found.values() if row.name} == {
        "mint": -(10**17), "treasury": 10**17 - 1_000, "fees": 10,
    }  # fmt: skip
    assert (found[wallet_id_of(payer)].name, found[wallet_id_of(payer)].balance_grains) == (None, 500)
    assert {account: row.transfers for account, row in found.items()} == {
        MINT: 1, TREASURY: 2, wallet_id_of(payer): 2, wallet_id_of(payee): 1, FEES: 1,
    }  # fmt: skip


def test_a_transfer_is_found_by_its_id_and_by_each_of_its_accounts(economy: Economy) -> None:
    payer, payee = economy.given(1_000), economy.given(0)
    receipt = economy.pay(payer, payee, 500, memo="rent", kind="service_payment")
    row = rows(economy, Transfers())[receipt.id]
    assert (row.kind, row.state, economy.read(row.memo), row.moved_grains, row.posted_at) == (
        "service_payment", "posted", "rent", 500, economy.now,
    )  # fmt: skip
    assert {leg["account"]: leg["grains"] for leg in row.legs} == {
        str(wallet_id_of(payer)): "-500", str(wallet_id_of(payee)): "490", str(FEES): "10",
    }  # fmt: skip
    legs = rows(economy, TransferLegs())
    assert legs[(wallet_id_of(payee), row.position)].grains == 490
    assert legs[(FEES, row.position)].transfer_id == receipt.id


def test_a_rejected_transfer_is_shown_with_its_reason(economy: Economy) -> None:
    payer = economy.given(10)
    with economy.acting():
        receipt = economy.service.reject_payment(
            payment_id="late", from_owner_id=payer, kind="payment", reason="timed out"
        )
    row = rows(economy, Transfers())[receipt.id]
    assert (row.state, row.reason, row.legs, row.moved_grains) == ("rejected", "timed out", [], 0)


def test_claims_epochs_and_payouts_follow_a_batch(economy: Economy) -> None:
    claim_id, waiting = economy.accrue(), economy.accrue()
    receipt = economy.distribute([claim_id])
    claims = rows(economy, RewardClaims())
    paid, pending = claims[claim_id], claims[waiting]
    assert (paid.state, paid.transfer_id, paid.posted_at) == ("posted", receipt.id, economy.now)
    assert (pending.state, pending.transfer_id, pending.epoch_id) == ("pending", None, None)
    epoch = rows(economy, Epochs())[paid.epoch_id]
    assert (epoch.reserved_grains, epoch.budget_grains, epoch.state) == (HOUR, 100_000 * 10**8, "open")
    payouts = rows(economy, DevicePayouts())
    assert (payouts[paid.device_id].paid_grains, payouts[paid.device_id].pending_grains) == (HOUR, 0)
    assert (payouts[pending.device_id].paid_grains, payouts[pending.device_id].pending_grains) == (0, HOUR)
    economy.now += timedelta(days=1)
    economy.distribute([waiting])
    assert rows(economy, Epochs())[paid.epoch_id].state == "closed"


def test_pending_rewards_are_those_of_the_device_oldest_first(economy: Economy) -> None:
    claims = [economy.accrue() for _ in range(3)]
    economy.projector.run_once()
    assert economy.index.pending_ids(2) == claims[:2]
    device_id = economy.log.load(RewardClaim, claims[1]).device_id
    (reward,) = economy.service.get_pending_rewards(device_id=device_id)
    assert (reward.claim_id, reward.grains, reward.reward_type) == (claims[1], HOUR, "fl_participation")
    economy.distribute(claims)
    economy.projector.run_once()
    assert economy.service.get_pending_rewards(device_id=device_id) == []
    assert economy.index.pending_ids(10) == []


def test_a_void_claim_is_pending_no_more_and_was_not_paid(economy: Economy) -> None:
    claim_id = economy.accrue()
    device_id = economy.log.load(RewardClaim, claim_id).device_id
    with economy.acting():
        economy.service.void_rewards(claim_ids=[claim_id], reason="device_suspended")
    claim, payout = rows(economy, RewardClaims())[claim_id], rows(economy, DevicePayouts())[device_id]
    assert (claim.state, claim.transfer_id, claim.posted_at) == ("void", None, None)
    assert (payout.claims, payout.paid_grains, payout.pending_grains) == (1, 0, 0)
    assert economy.index.pending_ids(10) == []


def test_nothing_drifts_before_the_first_transfer_nor_after_it(economy: Economy) -> None:
    assert economy.index.supply() == (0, 0, 0)
    economy.pay(economy.given(1_000), economy.given(0), 400, kind="service_payment")
    economy.projector.run_once()
    supply = economy.index.supply()
    assert (supply.issued, supply.total, supply.drift) == (10**17, 10**17, 0)
    assert supply.treasury == 10**17 - 1_000


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["pay", "serve", "hold", "capture", "void", "earn", "batch", "day"]),
        st.integers(0, 2),
        st.integers(0, 2),
        st.integers(1, 900),
    ),
    max_size=25,
)


class Bazaar:
    """Three owners who do as they are told; what is refused is refused."""

    def __init__(self, economy: Economy) -> None:
        self.economy = economy
        self.owners = [economy.given(1_000) for _ in range(3)]
        self.holds: list[tuple[UUID, UUID]] = []
        self.claims: list[UUID] = []

    def act(self, what: str, who: int, whom: int, grains: int) -> None:
        try:
            getattr(self, what)(self.owners[who], self.owners[whom], grains)
        except Refusal:
            return

    def pay(self, payer: UUID, payee: UUID, grains: int) -> None:
        self.economy.pay(payer, payee, grains)

    def serve(self, payer: UUID, payee: UUID, grains: int) -> None:
        self.economy.pay(payer, payee, grains, kind="service_payment")

    def hold(self, payer: UUID, _: UUID, grains: int) -> None:
        self.holds.append((payer, hold(self.economy, payer, grains)))

    def capture(self, _: UUID, payee: UUID, grains: int) -> None:
        if self.holds:
            owner, hold_id = self.holds[grains % len(self.holds)]
            with self.economy.acting():
                self.economy.service.capture_hold(
                    owner_id=owner, hold_id=hold_id, to_owner_id=payee, grains=grains, kind="service_payment"
                )

    def void(self, _: UUID, __: UUID, grains: int) -> None:
        if self.holds:
            owner, hold_id = self.holds[grains % len(self.holds)]
            with self.economy.acting():
                self.economy.service.void_hold(owner_id=owner, hold_id=hold_id)

    def earn(self, owner: UUID, _: UUID, grains: int) -> None:
        self.claims.append(self.economy.accrue(owner_id=owner, verified_ms=grains))

    def batch(self, _: UUID, __: UUID, grains: int) -> None:
        self.economy.distribute(self.claims[-grains:])

    def day(self, _: UUID, __: UUID, ___: int) -> None:
        self.economy.now += timedelta(days=1)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(actions=ACTIONS)
def test_every_row_is_its_aggregate_and_the_supply_is_conserved_at_every_position(
    economy: Economy, actions: list[tuple[str, int, int, int]]
) -> None:
    bazaar = Bazaar(economy)
    for action in actions:
        bazaar.act(*action)
    wallets, accounts = rows(economy, Wallets()), rows(economy, Accounts())
    for owner in bazaar.owners:
        wallet, row = economy.wallet(owner), wallets[wallet_id_of(owner)]
        assert (row.posted_grains, row.held_grains, row.available_grains) == (
            wallet.posted, wallet.held, wallet.available,
        )  # fmt: skip
        assert accounts[wallet_id_of(owner)].balance_grains == wallet.posted
    for key, row in rows(economy, Epochs()).items():
        epoch = economy.log.load(RewardEpoch, key)
        assert (row.reserved_grains, row.budget_grains, row.state == "closed") == (
            epoch.reserved, epoch.budget, epoch.closed,
        )  # fmt: skip
    for key, row in rows(economy, RewardClaims()).items():
        claim = economy.log.load(RewardClaim, key)
        assert (row.grains, row.state == "posted") == (claim.grains, claim.posted)
    model, balances = Accounts(), dict[Any, Any]()
    for fact in economy.facts():
        if fact.topic in model.topics:
            for key in model.keys(fact):
                balances[key] = model.evolve(balances.get(key), fact, key)
            assert sum(row.balance_grains for row in balances.values()) == 0


def test_rebuilt_from_the_log_every_row_is_the_live_one(economy: Economy) -> None:
    bazaar = Bazaar(economy)
    for index in range(40):
        for what in ("pay", "serve", "hold", "capture", "void", "earn", "batch"):
            bazaar.act(what, index % 3, (index + 1) % 3, 7 + index)
    economy.projector.run_once()
    with economy.database.reader.connection() as connection:
        compared = compare(connection, READ_MODELS)
    assert compared.differences == []
    assert compared.rows > 100


def test_no_system_account_is_taken_for_a_wallet(economy: Economy) -> None:
    economy.pay(economy.given(1_000), economy.given(0), 500, kind="service_payment")
    assert not SYSTEM_ACCOUNT_NAMES.keys() & rows(economy, Wallets()).keys()
    assert economy.log.find(Wallet, TREASURY) is None
