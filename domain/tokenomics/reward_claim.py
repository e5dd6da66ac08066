"""A reward claim: what one activity of one device has earned; accrued at once, then posted out of a budget, or void."""

from uuid import UUID

from domain.kernel import Aggregate, Created, NotFound, Refusal, derive, event

from .pricing import Activity, Policy, Reward


class RewardClaimUnknown(NotFound):
    """Only an accrued claim is posted."""


class ClaimAlreadyPosted(Refusal):
    """A claim is posted once."""

    status = 409


class ClaimVoid(Refusal):
    """A claim that was voided is never posted."""

    status = 409


class RewardClaim(Aggregate):
    """A stream for each rewarded activity: an activity earns once, however often it is reported."""

    class Accrued(Created):
        """Holds every input of the reward formula: anyone can compute `grains` again.

        `carry` is what the wallet was owed below one grain before, in units of the formula's divisor.
        """

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
        cause_event_id: UUID | None

    class Posted(Aggregate.Event):
        """`transfer_id` is None for a claim of zero grains: a transfer has no empty legs."""

        closes = True
        claim_id: UUID
        device_id: UUID
        grains: int
        transfer_id: UUID | None
        epoch_id: UUID

    class Voided(Aggregate.Event):
        """It will not be paid, for this reason."""

        closes = True
        claim_id: UUID
        device_id: UUID
        grains: int
        reason: str

    def __init__(self, claim_id: UUID, device_id: UUID, owner_id: UUID, wallet_id: UUID, grains: int) -> None:
        self.claim_id = claim_id
        self.device_id = device_id
        self.owner_id = owner_id
        self.wallet_id = wallet_id
        self.grains = grains
        self.posted = False
        self.voided = False

    @property
    def open(self) -> bool:
        """Whether it is still to be paid."""
        return not (self.posted or self.voided)

    @staticmethod
    def create_id(claim_id: UUID) -> UUID:
        return claim_id

    @classmethod
    def accrue(
        cls,
        activity: Activity,
        reward: Reward,
        *,
        wallet_id: UUID,
        carry: int,
        policy: Policy,
        cause_event_id: UUID | None,
    ) -> "RewardClaim":
        """The claim of a device for an activity, as the policy's formula decided it."""
        return cls._create(
            cls.Accrued,
            claim_id=claim_id_of(activity.activity_type, activity.activity_id, activity.device_id),
            device_id=activity.device_id,
            owner_id=activity.owner_id,
            wallet_id=wallet_id,
            activity_type=activity.activity_type,
            activity_id=activity.activity_id,
            verified_ms=activity.verified_ms,
            quality_bp=activity.quality_bp,
            multiplier_bp=reward.multiplier_bp,
            rate_grains_per_hour=policy.rate_grains_per_hour,
            rule_version=policy.rule_version,
            carry=carry,
            grains=reward.grains,
            cause_event_id=cause_event_id,
        )

    def post(self, transfer_id: UUID | None, epoch_id: UUID) -> None:
        """Mark the claim as paid by this transfer out of the budget of this epoch.

        Raises:
            ClaimAlreadyPosted, ClaimVoid.
        """
        if self.voided:
            raise ClaimVoid(f"claim {self.claim_id}")
        if self.posted:
            raise ClaimAlreadyPosted(f"claim {self.claim_id}")
        self._posted(
            claim_id=self.claim_id,
            device_id=self.device_id,
            grains=self.grains,
            transfer_id=transfer_id if self.grains else None,
            epoch_id=epoch_id,
        )

    def void(self, reason: str) -> None:
        """Pay it never; what is posted or void stays so."""
        if self.open:
            self._voided(claim_id=self.claim_id, device_id=self.device_id, grains=self.grains, reason=reason)

    @event(Posted)
    def _posted(self, claim_id: UUID, device_id: UUID, grains: int, transfer_id: UUID | None, epoch_id: UUID) -> None:
        self.posted = True

    @event(Voided)
    def _voided(self, claim_id: UUID, device_id: UUID, grains: int, reason: str) -> None:
        self.voided = True


def claim_id_of(activity_type: str, activity_id: UUID, device_id: UUID) -> UUID:
    """The id of the claim of this device for this activity."""
    return derive("tokenomics.RewardClaim", activity_type, activity_id, device_id)
