"""Reward commands: the supply, the epochs that budget it, claims that accrue and the batches that post them."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from domain.kernel import EventLog, Receipt, Refusal, command, scope
from domain.kernel.garbage import seldom_collected

from . import budget
from .accounts import wallet_id_of
from .issuance import ISSUANCE_ID, Issuance
from .legs import batch_legs, credits
from .pricing import Activity, Policy, Reward, reward
from .reward_claim import RewardClaim, RewardClaimUnknown, claim_id_of
from .reward_epoch import epoch_span
from .transfer import Leg, Transfer, transfer_id_of
from .wallet import Wallet

MAX_BATCH = 500
"""Claims posted by one transfer."""
MAX_PENDING = 100
"""Pending rewards answered for one device."""
FORFEITED = "device_suspended"
"""Why a claim is void whose device has forfeited it."""


class BatchTooLarge(Refusal):
    """A batch posts at most 500 claims."""


@dataclass(frozen=True, slots=True)
class PendingReward:
    """A claim that is accrued and not yet posted."""

    claim_id: UUID
    device_id: UUID
    activity_type: str
    activity_id: UUID
    grains: int
    accrued_at: datetime

    @property
    def reward_type(self) -> str:
        """The activity's type, under the name the seed interface gives it."""
        return self.activity_type


class PendingRewards(Protocol):
    """Query port: the pending rewards of a device, oldest first, at most `limit`."""

    def __call__(self, device_id: UUID, limit: int) -> list[PendingReward]: ...


class Forfeiting(Protocol):
    """Query port: those of these devices, which differ, of which what is earned and not paid is void."""

    def __call__(self, device_ids: Sequence[UUID]) -> Collection[UUID]: ...


class Rewards:
    """The part of the tokenomics service that issues tokens."""

    log: EventLog
    policy: Policy
    pending: PendingRewards | None
    forfeiting: Forfeiting | None

    @command
    def genesis(self) -> Receipt:
        """Issue the supply to the treasury; a village that has begun is left as it is."""
        begun = self.log.find(Issuance, ISSUANCE_ID)
        return self.log.record(*([begun] if begun else budget.genesis(self.policy)))

    @command
    def open_epoch(self, *, number: int, budget_grains: int) -> Receipt:
        """Open an epoch of the present or future with a budget of its own.

        Raises:
            EpochOver, EpochTooFar, BudgetInvalid, SupplyExhausted, AlreadyExists.
        """
        opened = budget.opened_epoch(self.log, self.policy, scope().now, number, budget_grains)
        return self.log.record(*opened.changed, id=opened.epoch.id)

    def calculate_rewards(self, *, activity: Activity, carry: int = 0) -> Reward:
        """What an activity would earn; nothing is recorded. Refusals: those of `pricing.reward`."""
        return reward(self.policy, activity, carry)

    @command
    def accrue_reward(self, *, activity: Activity, cause_event_id: UUID | None = None) -> Receipt:
        """Claim what an activity has earned. It opens the owner's wallet, and earns once.

        Raises:
            UnknownActivity, InvalidActivity, AmountTooLarge.
        """
        claim_id = claim_id_of(activity.activity_type, activity.activity_id, activity.device_id)
        if (accrued := self.log.find(RewardClaim, claim_id)) is not None:
            return self.log.record(accrued, grains=str(accrued.grains))
        wallet_id = wallet_id_of(activity.owner_id)
        wallet = self.log.find(Wallet, wallet_id) or Wallet(wallet_id=wallet_id, owner_id=activity.owner_id)
        carry = wallet.remainder
        earned = reward(self.policy, activity, carry)
        claim = RewardClaim.accrue(
            activity, earned, wallet_id=wallet_id, carry=carry, policy=self.policy, cause_event_id=cause_event_id
        )
        wallet.carry(claim_id, earned.remainder)
        return self.log.record(wallet, claim, id=claim_id, grains=str(claim.grains))

    @command
    @seldom_collected()
    def distribute_rewards(self, *, batch_id: UUID, claim_ids: Sequence[UUID]) -> Receipt:
        """Post claims out of the running epoch's budget, as many as it pays: one transfer, one transaction.

        Claims that are posted or void are passed over, so that no batch pays twice; those of devices that have
        forfeited them are voided. The answer tells how many were `posted`, and which were `left` for a later epoch.

        Raises:
            BatchTooLarge, RewardClaimUnknown, EpochBudgetExhausted.
        """
        transfer_id = transfer_id_of("reward", batch_id)
        pending = self._pending_claims(claim_ids)
        if not pending or self.log.find(Transfer, transfer_id) is not None:
            return self.log.record(id=transfer_id, posted=0, grains="0", left=[str(claim.id) for claim in pending])
        running = budget.running_epoch(self.log, self.policy, scope().now)
        epoch = running.epoch
        void = self._forfeited(pending)
        chosen = budget.affordable([claim for claim in pending if claim.open], epoch.unreserved)
        legs = batch_legs(chosen)
        total = -legs[0].grains if legs else 0
        if legs:
            epoch.reserve(transfer_id, total)
        for claim in chosen:
            claim.post(transfer_id, epoch.id)
        paid = [_reward_transfer(transfer_id, legs, epoch.number)] if legs else []
        left = [str(claim.id) for claim in pending if claim.open]
        # The wallets are open: to accrue a claim opened them.
        return self.log.record(
            *running.changed,
            *paid,
            *credits(transfer_id, legs),
            *chosen,
            *void,
            id=transfer_id,
            posted=len(chosen),
            grains=str(total),
            left=left,
        )

    @command
    def void_rewards(self, *, claim_ids: Sequence[UUID], reason: str) -> Receipt:
        """Pay these claims never; what is posted or void stays so. Refusals: BatchTooLarge, RewardClaimUnknown."""
        claims = self._pending_claims(claim_ids)
        for claim in claims:
            claim.void(reason)
        return self.log.record(*claims, voided=len(claims))

    def get_pending_rewards(self, *, device_id: UUID) -> list[PendingReward]:
        """The device's claims that are accrued and not yet posted, oldest first, at most 100."""
        assert self.pending is not None, "this process was composed without read models"
        return self.pending(device_id, MAX_PENDING)

    def epoch_ends_at(self, now: datetime) -> datetime:
        """When the running epoch ends: then a new budget opens."""
        number = budget.running_number(self.log.find(Issuance, ISSUANCE_ID), self.policy, now)
        return epoch_span(number, self.policy.epoch_ms)[1]

    def _forfeited(self, claims: Sequence[RewardClaim]) -> list[RewardClaim]:
        """Those whose devices have forfeited them, which are void from now on."""
        if self.forfeiting is None:
            return []
        devices = {claim.device_id.int: claim.device_id for claim in claims}
        lost = self.forfeiting(list(devices.values()))
        void = [claim for claim in claims if claim.device_id in lost] if lost else []
        for claim in void:
            claim.void(FORFEITED)
        return void

    def _pending_claims(self, claim_ids: Sequence[UUID]) -> list[RewardClaim]:
        if len(claim_ids) > MAX_BATCH:
            raise BatchTooLarge(f"{len(claim_ids)} claims")
        wanted = list({claim_id.int: claim_id for claim_id in claim_ids}.values())
        claims = []
        for claim_id, claim in zip(wanted, self.log.find_all(RewardClaim, wanted), strict=True):
            if claim is None:
                raise RewardClaimUnknown(f"claim {claim_id}")
            if claim.open:
                claims.append(claim)
        return claims


def _reward_transfer(transfer_id: UUID, legs: Sequence[Leg], epoch_number: int) -> Transfer.Posted:
    return Transfer.post(transfer_id, "reward", legs, note=f"epoch {epoch_number}", cause_event_id=scope().causation_id)
