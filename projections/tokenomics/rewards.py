"""Reward epochs, claims and payouts as they are read."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

from msgspec.structs import replace

from domain.kernel.fact import Fact
from domain.tokenomics.reward_claim import RewardClaim
from domain.tokenomics.reward_epoch import RewardEpoch
from projections.rows import Key, ReadModel, Row

PENDING, POSTED, VOID = "pending", "posted", "void"
OPEN, CLOSED = "open", "closed"


class EpochRow(Row, frozen=True):
    """A reward epoch: what its rewards may cost together and how much of it is reserved, in grains."""

    epoch_id: UUID
    number: int
    budget_grains: int
    reserved_grains: int
    state: str
    starts_at: datetime
    ends_at: datetime
    position: int


class Epochs(ReadModel[EpochRow]):
    """Reward epochs by id."""

    name = "epochs"
    table = "read.epochs"
    row = EpochRow
    key = ("epoch_id",)
    listens = (RewardEpoch.Opened, RewardEpoch.BudgetReserved, RewardEpoch.Closed)
    begins = (RewardEpoch.Opened,)

    def keys(self, fact: Fact) -> Iterable[Key]:
        return (fact.stream,)

    def evolve(self, row: EpochRow | None, fact: Fact, key: Key) -> EpochRow | None:
        match fact.event:
            case RewardEpoch.Opened(number=number, budget=budget, starts_at=starts_at, ends_at=ends_at):
                return EpochRow(key, number, budget, 0, OPEN, starts_at, ends_at, fact.position)
            case RewardEpoch.BudgetReserved(grains=grains) if row is not None:
                return replace(row, reserved_grains=row.reserved_grains + grains, position=fact.position)
            case RewardEpoch.Closed() if row is not None:
                return replace(row, state=CLOSED, position=fact.position)
        return row


class ClaimRow(Row, frozen=True):
    """A reward claim with every input of the formula that decided its grains. `position` is the accrual's."""

    claim_id: UUID
    device_id: UUID
    owner_id: UUID
    wallet_id: UUID
    activity_type: str
    activity_id: UUID
    verified_ms: int
    quality_bp: int
    multiplier_bp: int
    rate_grains_per_hour: int
    rule_version: str
    carry: int
    grains: int
    state: str
    transfer_id: UUID | None
    epoch_id: UUID | None
    accrued_at: datetime
    posted_at: datetime | None
    position: int


class RewardClaims(ReadModel[ClaimRow]):
    """Reward claims by id."""

    name = "reward_claims"
    table = "read.reward_claims"
    row = ClaimRow
    key = ("claim_id",)
    listens = (RewardClaim.Accrued, RewardClaim.Posted, RewardClaim.Voided)
    begins = (RewardClaim.Accrued,)

    def keys(self, fact: Fact) -> Iterable[Key]:
        return (fact.stream,)

    def evolve(self, row: ClaimRow | None, fact: Fact, key: Key) -> ClaimRow | None:
        made: Any = fact.event
        if type(made) is RewardClaim.Accrued:
            return ClaimRow(
                claim_id=key,
                device_id=made.device_id,
                owner_id=made.owner_id,
                wallet_id=made.wallet_id,
                activity_type=made.activity_type,
                activity_id=made.activity_id,
                verified_ms=made.verified_ms,
                quality_bp=made.quality_bp,
                multiplier_bp=made.multiplier_bp,
                rate_grains_per_hour=made.rate_grains_per_hour,
                rule_version=made.rule_version,
                carry=made.carry,
                grains=made.grains,
                state=PENDING,
                transfer_id=None,
                epoch_id=None,
                accrued_at=fact.recorded_at,
                posted_at=None,
                position=fact.position,
            )
        if row is None:
            return None
        if type(made) is RewardClaim.Voided:
            return replace(row, state=VOID)
        return replace(
            row, state=POSTED, transfer_id=made.transfer_id, epoch_id=made.epoch_id, posted_at=fact.recorded_at
        )


class PayoutRow(Row, frozen=True):
    """What a device has earned: claims counted, grains paid and grains still pending."""

    device_id: UUID
    owner_id: UUID
    claims: int
    paid_grains: int
    pending_grains: int
    position: int


class DevicePayouts(ReadModel[PayoutRow]):
    """Payouts by device."""

    name = "device_payouts"
    table = "read.device_payouts"
    row = PayoutRow
    key = ("device_id",)
    listens = (RewardClaim.Accrued, RewardClaim.Posted, RewardClaim.Voided)

    def keys(self, fact: Fact) -> Iterable[Key]:
        return (fact.event.device_id,)

    def evolve(self, row: PayoutRow | None, fact: Fact, key: Key) -> PayoutRow | None:
        made: Any = fact.event
        if type(made) is RewardClaim.Accrued:
            claims, paid, pending = (row.claims, row.paid_grains, row.pending_grains) if row else (0, 0, 0)
            return PayoutRow(key, made.owner_id, claims + 1, paid, pending + made.grains, fact.position)
        if row is None:
            return None
        paid = row.paid_grains + (0 if type(made) is RewardClaim.Voided else made.grains)
        return PayoutRow(key, row.owner_id, row.claims, paid, row.pending_grains - made.grains, fact.position)
