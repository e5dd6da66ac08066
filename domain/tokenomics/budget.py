"""The budget rewards are paid from: the running epoch, opened and closed as time goes on, and what it can pay."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from domain.kernel import EventLog, Refusal
from domain.kernel.unit import Recordable

from .accounts import MINT, TREASURY
from .issuance import ISSUANCE_ID, Issuance
from .pricing import Policy
from .reward_claim import RewardClaim
from .reward_epoch import EpochBudgetExhausted, RewardEpoch, epoch_id_of, epoch_number, epoch_span
from .transfer import Leg, Transfer, transfer_id_of

MAX_EPOCHS_AHEAD = 366


class EpochTooFar(Refusal):
    """An epoch is opened at most 366 epochs ahead."""


class BudgetInvalid(Refusal):
    """The budget of an epoch is 0 to the village's supply."""


@dataclass(frozen=True, slots=True)
class Budget:
    """An epoch, and whatever had to be opened or closed to have it: all to be recorded together."""

    epoch: RewardEpoch
    changed: list[Recordable]


def genesis(policy: Policy) -> list[Recordable]:
    """The village's whole supply, moved from the mint to the treasury once."""
    issued: list[Recordable] = [Issuance(supply=policy.supply_grains)]
    if policy.supply_grains:
        legs = [Leg(MINT, -policy.supply_grains), Leg(TREASURY, policy.supply_grains)]
        issued.append(Transfer.post(transfer_id_of("genesis"), "genesis", legs))
    return issued


def running_number(issuance: Issuance | None, policy: Policy, now: datetime) -> int:
    """The number of the epoch that pays now. It never runs backwards, even where one clock lags behind another."""
    by_clock = epoch_number(now, policy.epoch_ms)
    return by_clock if issuance is None else max(by_clock, issuance.running)


def running_epoch(log: EventLog, policy: Policy, now: datetime) -> Budget:
    """The running epoch; a missing one is opened with the configured budget, or with what the supply has left."""
    issuance = log.find(Issuance, ISSUANCE_ID)
    number = running_number(issuance, policy, now)
    epoch = log.find(RewardEpoch, epoch_id_of(number))
    if epoch is not None:
        return Budget(epoch, [epoch])
    return _opened(log, policy, issuance, number, number, None)


def opened_epoch(log: EventLog, policy: Policy, now: datetime, number: int, budget: int) -> Budget:
    """An epoch of the present or future, with a budget of its own.

    Raises:
        EpochOver, EpochTooFar, BudgetInvalid, SupplyExhausted.
    """
    issuance = log.find(Issuance, ISSUANCE_ID)
    running = running_number(issuance, policy, now)
    if number > running + MAX_EPOCHS_AHEAD:
        raise EpochTooFar(f"epoch {running} is running")
    if not 0 <= budget <= policy.supply_grains:
        raise BudgetInvalid(f"{budget} grains")
    return _opened(log, policy, issuance, running, number, budget)


def _opened(
    log: EventLog, policy: Policy, issuance: Issuance | None, running: int, number: int, budget: int | None
) -> Budget:
    """Epochs that are over close on the way and give back what they did not spend."""
    changed: list[Recordable] = [issuance] if issuance else genesis(policy)
    funds = next(made for made in changed if isinstance(made, Issuance))
    for over in sorted(past for past in funds.unsettled if past < running):
        epoch = log.load(RewardEpoch, epoch_id_of(over))
        funds.settle(over, epoch.unreserved)
        epoch.close()
        changed.append(epoch)
    granted = min(policy.epoch_budget_grains, funds.unallotted) if budget is None else budget
    funds.fund(number, granted, running)
    starts_at, ends_at = epoch_span(number, policy.epoch_ms)
    opened = RewardEpoch(
        epoch_id=epoch_id_of(number), number=number, budget=granted, starts_at=starts_at, ends_at=ends_at
    )
    return Budget(opened, [*changed, opened])


def affordable(claims: Sequence[RewardClaim], budget: int) -> list[RewardClaim]:
    """The claims a budget pays, first come first served; a smaller one may pass a larger one that does not fit.

    Raises:
        EpochBudgetExhausted: not one of them fits.
    """
    left, chosen = budget, []
    for claim in claims:
        if claim.grains <= left:
            left -= claim.grains
            chosen.append(claim)
    if claims and not chosen:
        raise EpochBudgetExhausted(f"{budget} grains left")
    return chosen
