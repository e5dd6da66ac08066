"""Tokenomics over GraphQL: wallets, transfers, epochs, claims, payouts and the supply. Members see their own."""

from datetime import datetime
from typing import Any, Self
from uuid import UUID

import msgspec
import strawberry

from api.edge.graphql import AsOf, Condition, Connection, Grains, Info, Listing, Milliseconds, Position, equals
from api.edge.past import rows_of
from api.edge.personal import PersonalText, personal_text
from domain.kernel import Forbidden
from domain.kernel.personal import SealedText
from domain.tokenomics.accounts import SYSTEM_ACCOUNT_NAMES, wallet_id_of
from domain.tokenomics.pricing import REWARD_DIVISOR
from projections.rows import Row
from projections.tokenomics import Accounts, DevicePayouts, Epochs, RewardClaims, Transfers, Wallets
from projections.tokenomics.money import TransferRow
from projections.tokenomics.queries import RewardIndex, Supply

from .statement import StatementQuery


class FromRow:
    """A node whose fields are columns of a row of the same names."""

    @classmethod
    def of(cls, row: Row) -> Self:
        columns = msgspec.structs.asdict(row)
        fields = cls.__strawberry_definition__.fields  # type: ignore[attr-defined]
        return cls(**{field.name: columns[field.name] for field in fields if field.init})


@strawberry.type
class Wallet(FromRow):
    """A wallet; available is posted less held."""

    wallet_id: UUID
    owner_id: UUID
    posted_grains: Grains
    held_grains: Grains
    available_grains: Grains
    opened_at: datetime


@strawberry.type
class Leg:
    """What one account gained, or gave (negative)."""

    account: UUID
    grains: Grains

    @strawberry.field
    def name(self) -> str | None:
        """What a system account is called (mint, treasury, fees, insurance); null for a wallet."""
        return SYSTEM_ACCOUNT_NAMES.get(self.account)


@strawberry.type
class Transfer:
    """A posted transfer, whose legs sum to zero, or one that is rejected for good. `note` is what the village says."""

    transfer_id: UUID
    kind: str
    state: str
    reason: str | None
    note: str
    moved_grains: Grains
    posted_at: datetime
    position: Position
    stored: strawberry.Private[list[dict[str, str]]]
    sealed: strawberry.Private[SealedText | None]

    @strawberry.field
    def memo(self, info: Info) -> PersonalText | None:
        """What the payer says of it; null when nothing."""
        if self.sealed is None:
            return None
        return personal_text(info.context.personal, self.sealed)  # type: ignore[return-value]  # awaited by graphql

    @strawberry.field
    def legs(self, info: Info) -> list[Leg]:
        """Its legs. Of a batch of rewards, members see only their own."""
        legs = [Leg(account=UUID(leg["account"]), grains=Grains(int(leg["grains"]))) for leg in self.stored]
        principal = info.context.principal
        if principal.role == "operator" or self.kind != "reward":
            return legs
        return [leg for leg in legs if principal.owner is not None and leg.account == wallet_id_of(principal.owner)]

    @classmethod
    def of(cls, row: TransferRow) -> "Transfer":
        columns: dict[str, Any] = msgspec.structs.asdict(row)
        stored, sealed = columns.pop("legs"), columns.pop("memo")
        del columns["cause_event_id"]
        return cls(**columns, stored=stored, sealed=sealed)


@strawberry.type
class Epoch(FromRow):
    """A reward epoch: all its rewards together cost at most its budget."""

    epoch_id: UUID
    number: int
    budget_grains: Grains
    reserved_grains: Grains
    state: str
    starts_at: datetime
    ends_at: datetime


@strawberry.type
class RewardClaim(FromRow):
    """What an activity has earned, with every input of the formula; pending until it is posted or void.

    `carry` is what was owed below one grain before, in parts of 1 / 360,000,000,000,000 grain.
    """

    claim_id: UUID
    device_id: UUID
    owner_id: UUID
    activity_type: str
    activity_id: UUID
    verified_ms: Milliseconds
    quality_bp: int
    multiplier_bp: int
    rate_grains_per_hour: Grains
    carry: Grains
    rule_version: str
    grains: Grains
    state: str
    transfer_id: UUID | None
    epoch_id: UUID | None
    accrued_at: datetime
    posted_at: datetime | None

    @strawberry.field
    def explain(self) -> str:
        """The reward reckoned up, so that anybody can do it again."""
        return (
            f"{self.rule_version}: ({self.verified_ms} ms * {self.rate_grains_per_hour} grains an hour"
            f" * {self.quality_bp} bp of quality * {self.multiplier_bp} bp for {self.activity_type}"
            f" + {self.carry} carried) / {REWARD_DIVISOR} = {self.grains} grains, rounded down"
        )


@strawberry.type
class DevicePayout(FromRow):
    """What a device has earned so far."""

    device_id: UUID
    owner_id: UUID
    claims: int
    paid_grains: Grains
    pending_grains: Grains


@strawberry.type
class TokenSupply:
    """What the mint has issued, what all other accounts hold together, and the drift between them, which is zero."""

    issued_grains: Grains
    total_grains: Grains
    treasury_grains: Grains
    drift_grains: Grains
    conserved: bool


WALLETS = Listing(Wallets(), Wallet.of, order=("wallet_id",), owner="owner_id")
TRANSFERS = Listing(Transfers(), Transfer.of, order=("position",), descending=True, shared=True)
EPOCHS = Listing(Epochs(), Epoch.of, order=("number",), descending=True, shared=True)
CLAIMS = Listing(
    RewardClaims(), RewardClaim.of, order=("position",), descending=True, owner="owner_id", device="device_id"
)
PAYOUTS = Listing(DevicePayouts(), DevicePayout.of, order=("device_id",), owner="owner_id", device="device_id")


@strawberry.type
class Query(StatementQuery):
    """Queries of tokenomics."""

    @strawberry.field
    async def wallets(
        self,
        info: Info,
        first: int,
        after: str | None = None,
        at_least: Position | None = None,
        as_of: AsOf | None = None,
    ) -> Connection[Wallet]:
        """Wallets, as they are or as they were."""
        return await WALLETS.page(info, first, after, at_least, as_of=as_of)

    @strawberry.field
    async def wallet(
        self, info: Info, owner_id: UUID, at_least: Position | None = None, as_of: AsOf | None = None
    ) -> Wallet | None:
        """The wallet of an owner, as it is or as it was."""
        if as_of is not None:
            return await WALLETS.one_at(info, wallet_id_of(owner_id), as_of)
        return await WALLETS.one(info, *equals("owner_id", owner_id), at_least=at_least)

    @strawberry.field
    async def transfers(
        self,
        info: Info,
        first: int,
        after: str | None = None,
        account: UUID | None = None,
        at_least: Position | None = None,
        as_of: AsOf | None = None,
    ) -> Connection[Transfer]:
        """Transfers from the newest back, of all accounts or of one; members see those of their own."""
        account = _account(info, account)
        return await TRANSFERS.page(info, first, after, at_least, *_of_account(account), as_of=as_of)

    @strawberry.field
    async def epochs(
        self,
        info: Info,
        first: int,
        after: str | None = None,
        at_least: Position | None = None,
        as_of: AsOf | None = None,
    ) -> Connection[Epoch]:
        """Reward epochs from the newest back."""
        return await EPOCHS.page(info, first, after, at_least, as_of=as_of)

    @strawberry.field
    async def reward_claims(
        self,
        info: Info,
        first: int,
        after: str | None = None,
        device_id: UUID | None = None,
        activity_id: UUID | None = None,
        state: str | None = None,
        at_least: Position | None = None,
        as_of: AsOf | None = None,
    ) -> Connection[RewardClaim]:
        """Reward claims from the newest back, of a device, of a round or session, pending, posted or void."""
        conditions = [
            *equals("device_id", device_id), *equals("activity_id", activity_id), *equals("state", state),
        ]  # fmt: skip
        return await CLAIMS.page(info, first, after, at_least, *conditions, as_of=as_of)

    @strawberry.field
    async def device_payouts(
        self,
        info: Info,
        first: int,
        after: str | None = None,
        at_least: Position | None = None,
        as_of: AsOf | None = None,
    ) -> Connection[DevicePayout]:
        """What each device has earned: claims, paid and pending."""
        return await PAYOUTS.page(info, first, after, at_least, as_of=as_of)

    @strawberry.field
    async def supply(self, info: Info, as_of: AsOf | None = None) -> TokenSupply:
        """Whether every grain is, or was, accounted for."""
        ctx = info.context.ctx
        if as_of is None:
            found = await ctx.in_query_thread(RewardIndex(ctx.database).supply)
        else:
            found = await rows_of(ctx, Accounts(), as_of, Supply.of)
        return TokenSupply(
            issued_grains=Grains(found.issued),
            total_grains=Grains(found.total),
            treasury_grains=Grains(found.treasury),
            drift_grains=Grains(found.drift),
            conserved=found.drift == 0,
        )


def _account(info: Info, asked: UUID | None) -> UUID | None:
    """The account whose transfers may be listed; None for all of them."""
    principal = info.context.principal
    if principal.role == "operator":
        return asked
    if principal.role != "member" or principal.owner is None:
        raise Forbidden("transfers are for operators and members")
    own = wallet_id_of(principal.owner)
    if asked not in (None, own):
        raise Forbidden("account is somebody else's")
    return own


def _of_account(account: UUID | None) -> list[Condition]:
    if account is None:
        return []
    return [
        Condition(
            "position IN (SELECT position FROM read.transfer_legs WHERE account_id = %(account)s)",
            {"account": account},
            lambda row: any(leg["account"] == str(account) for leg in row.legs),
        )
    ]
