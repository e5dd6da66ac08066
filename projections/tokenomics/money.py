"""Wallets, accounts and transfers as they are read. Balances fold transfers only."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any
from uuid import UUID

from msgspec import to_builtins

from domain.kernel.fact import Fact
from domain.kernel.personal import SealedText, sealed_text
from domain.tokenomics.accounts import SYSTEM_ACCOUNT_NAMES, is_system
from domain.tokenomics.transfer import Leg, Transfer
from domain.tokenomics.wallet import Wallet
from projections.rows import Key, ReadModel, Row

POSTED, REJECTED = "posted", "rejected"


class WalletRow(Row, frozen=True):
    """A wallet's funds in grains; available is posted less held."""

    wallet_id: UUID
    owner_id: UUID
    posted_grains: int
    held_grains: int
    available_grains: int
    opened_at: datetime
    position: int


class Wallets(ReadModel[WalletRow]):
    """Wallets by id: holds from the wallet's own facts, balances from transfers."""

    name = "wallets"
    table = "read.wallets"
    row = WalletRow
    key = ("wallet_id",)
    listens = (
        Wallet.Opened,
        Wallet.FundsHeld,
        Wallet.HoldCaptured,
        Wallet.HoldVoided,
        Wallet.HoldExpired,
        Transfer.Posted,
    )
    begins = (Wallet.Opened,)

    def keys(self, fact: Fact) -> Iterable[Key]:
        if type(fact.event) is Transfer.Posted:
            return [leg.account for leg in fact.event.legs if not is_system(leg.account)]
        return (fact.stream,)

    def evolve(self, row: WalletRow | None, fact: Fact, key: Key) -> WalletRow | None:
        made: Any = fact.event
        if type(made) is Wallet.Opened:
            return WalletRow(made.wallet_id, made.owner_id, 0, 0, 0, fact.recorded_at, fact.position)
        if row is None:
            return None
        posted, held = row.posted_grains, row.held_grains
        if type(made) is Transfer.Posted:
            posted += _grains_of(made.legs, key)
        elif type(made) is Wallet.FundsHeld:
            held += made.grains
        elif type(made) is Wallet.HoldCaptured:
            held -= made.grains + made.released
        else:
            held -= made.grains
        return WalletRow(key, row.owner_id, posted, held, posted - held, row.opened_at, fact.position)


class AccountRow(Row, frozen=True):
    """The balance of an account in grains; `name` for system accounts, None for wallets."""

    account_id: UUID
    name: str | None
    balance_grains: int
    transfers: int
    position: int


class Accounts(ReadModel[AccountRow]):
    """Every account a transfer has touched. Their balances sum to zero at every position."""

    name = "accounts"
    table = "read.accounts"
    row = AccountRow
    key = ("account_id",)
    listens = (Transfer.Posted,)

    def keys(self, fact: Fact) -> Iterable[Key]:
        return [leg.account for leg in fact.event.legs]

    def evolve(self, row: AccountRow | None, fact: Fact, key: Key) -> AccountRow | None:
        grains = _grains_of(fact.event.legs, key)
        if row is None:
            return AccountRow(key, SYSTEM_ACCOUNT_NAMES.get(key), grains, 1, fact.position)
        return AccountRow(key, row.name, row.balance_grains + grains, row.transfers + 1, fact.position)


class TransferRow(Row, frozen=True):
    """A transfer that was posted, or rejected for good. `legs` are {account, grains} with decimal strings.

    `memo` is the payer's and sealed, `note` the village's own.
    """

    transfer_id: UUID
    kind: str
    state: str
    reason: str | None
    memo: SealedText | None
    note: str
    moved_grains: int
    legs: list[dict[str, str]]
    cause_event_id: UUID | None
    posted_at: datetime
    position: int


class Transfers(ReadModel[TransferRow]):
    """Transfers by id."""

    name = "transfers"
    table = "read.transfers"
    row = TransferRow
    key = ("transfer_id",)
    listens = (Transfer.Posted, Transfer.Rejected)
    begins = listens

    def keys(self, fact: Fact) -> Iterable[Key]:
        return (fact.stream,)

    def evolve(self, row: TransferRow | None, fact: Fact, key: Key) -> TransferRow | None:
        made: Any = fact.event
        if type(made) is Transfer.Rejected:
            return TransferRow(
                key, made.kind, REJECTED, made.reason, None, "", 0, [], None, fact.recorded_at, fact.position
            )
        # A sixth of the time of str(), and a transfer may have 501 legs.
        legs = [{"account": to_builtins(leg.account), "grains": str(leg.grains)} for leg in made.legs]
        moved = sum(leg.grains for leg in made.legs if leg.grains > 0)
        return TransferRow(
            key,
            made.kind,
            POSTED,
            None,
            sealed_text(fact, "memo"),
            made.note,
            moved,
            legs,
            made.cause_event_id,
            fact.recorded_at,
            fact.position,
        )


class TransferLegRow(Row, frozen=True):
    """One leg of a posted transfer, found by its account from the newest back."""

    account_id: UUID
    position: int
    transfer_id: UUID
    kind: str
    grains: int
    posted_at: datetime


class TransferLegs(ReadModel[TransferLegRow]):
    """The transfers of an account."""

    name = "transfer_legs"
    table = "read.transfer_legs"
    row = TransferLegRow
    key = ("account_id", "position")
    listens = (Transfer.Posted,)
    begins = listens

    def keys(self, fact: Fact) -> Iterable[Key]:
        return [(leg.account, fact.position) for leg in fact.event.legs]

    def evolve(self, row: TransferLegRow | None, fact: Fact, key: Key) -> TransferLegRow | None:
        grains = _grains_of(fact.event.legs, key[0])
        return TransferLegRow(key[0], fact.position, fact.stream, fact.event.kind, grains, fact.recorded_at)


_ACCOUNT = attrgetter("account.int")


def _grains_of(legs: Sequence[Leg], account: UUID) -> int:
    """The leg of an account: a transfer keeps its legs sorted by account."""
    return legs[bisect_left(legs, account.int, key=_ACCOUNT)].grains
