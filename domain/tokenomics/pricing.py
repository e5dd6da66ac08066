"""Pricing: the reward formula and the fee, in exact integers. A rule's version is recorded with what it decided."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from uuid import UUID

from domain.kernel import Refusal
from domain.kernel.tokens import GRAINS_PER_TOKEN, MAX_GRAINS, AmountTooLarge, tokens

BASIS = 10_000
"""Basis points in one."""
MS_PER_HOUR = 3_600_000
REWARD_DIVISOR = MS_PER_HOUR * BASIS * BASIS
"""The reward formula's divisor; a wallet's carry is counted in these fractions of a grain."""

MAX_VERIFIED_MS = 366 * 24 * MS_PER_HOUR
MAX_QUALITY_BP = BASIS
ACTIVITY_TYPES = ("harvest_contribution", "fl_participation", "service_hosting")


class UnknownActivity(Refusal):
    """Rewarded activities are harvest_contribution, fl_participation and service_hosting."""


class InvalidActivity(Refusal):
    """An activity is measured in 0 to 366 days of verified time and a quality of 0 to 10,000 basis points."""


@dataclass(frozen=True, slots=True)
class Activity:
    """What a device did for the village.

    `activity_id` names the session or round; `verified_ms` is the time others can vouch for, `quality_bp` how good
    it was in basis points.
    """

    activity_type: str
    activity_id: UUID
    device_id: UUID
    owner_id: UUID
    verified_ms: int
    quality_bp: int


@dataclass(frozen=True, slots=True)
class Reward:
    """What an activity earns: whole grains, and the remainder in fractions of 1 / `REWARD_DIVISOR` grain."""

    grains: int
    remainder: int
    multiplier_bp: int


@dataclass(frozen=True, slots=True)
class Policy:
    """The economy's settings, as exact integers. Defaults are the village's own."""

    supply_grains: int = tokens(1_000_000_000)
    rate_grains_per_hour: int = tokens(10)
    multipliers_bp: Mapping[str, int] = field(
        default_factory=lambda: {
            "harvest_contribution": BASIS,
            "fl_participation": 15_000,
            "service_hosting": BASIS,
        }
    )
    fee_bp: int = 200
    epoch_ms: int = 24 * MS_PER_HOUR
    epoch_budget_grains: int = tokens(100_000)
    rule_version: str = "rewards-1"

    @classmethod
    def of(
        cls,
        *,
        initial_token_supply: int,
        harvest_reward_rate: float,
        fl_participation_bonus: float,
        marketplace_fee_percent: float,
        epoch_hours: int,
        epoch_budget_tokens: int,
    ) -> "Policy":
        """The policy a village is configured with.

        Args:
            initial_token_supply: whole tokens.
            harvest_reward_rate: tokens an hour; rounded to the nearest grain.
            fl_participation_bonus: multiplier of training over harvesting; rounded to the nearest basis point.
            marketplace_fee_percent: of the gross amount; rounded to the nearest basis point.
            epoch_hours: length of a reward epoch.
            epoch_budget_tokens: whole tokens all rewards of one epoch share.
        """
        return cls(
            supply_grains=tokens(initial_token_supply),
            rate_grains_per_hour=_scaled(harvest_reward_rate, GRAINS_PER_TOKEN),
            multipliers_bp={
                "harvest_contribution": BASIS,
                "fl_participation": _scaled(fl_participation_bonus, BASIS),
                "service_hosting": BASIS,
            },
            fee_bp=_scaled(marketplace_fee_percent, 100),
            epoch_ms=epoch_hours * MS_PER_HOUR,
            epoch_budget_grains=tokens(epoch_budget_tokens),
        )


def reward(policy: Policy, activity: Activity, carry: int = 0) -> Reward:
    """What an activity earns: floor((verified_ms x rate x quality x multiplier + carry) / divisor), exactly.

    Because the remainder is carried to the wallet's next reward, splitting an activity changes no payout.

    Args:
        carry: what the wallet is owed below one grain, in units of `REWARD_DIVISOR`.

    Raises:
        UnknownActivity, InvalidActivity, AmountTooLarge.
    """
    if activity.activity_type not in policy.multipliers_bp:
        raise UnknownActivity(repr(activity.activity_type))
    if not 0 <= activity.verified_ms <= MAX_VERIFIED_MS or not 0 <= activity.quality_bp <= MAX_QUALITY_BP:
        raise InvalidActivity(f"{activity.verified_ms} ms at {activity.quality_bp} bp")
    multiplier_bp = policy.multipliers_bp[activity.activity_type]
    earned = activity.verified_ms * policy.rate_grains_per_hour * activity.quality_bp * multiplier_bp
    grains, remainder = divmod(earned + carry, REWARD_DIVISOR)
    if grains > MAX_GRAINS:
        raise AmountTooLarge(f"a reward of {grains} grains")
    return Reward(grains, remainder, multiplier_bp)


def fee(policy: Policy, gross: int) -> int:
    """The village's share of a marketplace payment, in grains, rounded down; the provider gets the rest."""
    return gross * policy.fee_bp // BASIS


def _scaled(value: float, factor: int) -> int:
    """A setting as an exact integer: its shortest decimal form times the factor, rounded half to even."""
    return round(Decimal(str(value)) * factor)
