"""Reward a training round: a claim for every device whose update counted, then one batch that pays them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Self
from uuid import UUID

from domain.device_registry.device import Device
from domain.federated_learning.round import TrainingRound
from domain.kernel import Conflict, Created, Fact, Instant, Refusal, Saga, derive, event
from domain.tokenomics.pricing import BASIS, MAX_VERIFIED_MS, Activity
from domain.tokenomics.reward_epoch import EpochBudgetExhausted
from domain.tokenomics.rewards import MAX_BATCH

from .deadline import Deadline
from .process import ABANDON, COMPENSATE, RETRY, ActionUnknown, PivotPassed, ProcessNotParked
from .village import Village

QUALITY_RULE = "fl-quality-1"
MAX_ACCRUALS = 250
"""Devices rewarded in one transaction: at most five facts each."""
MAX_POSTPONEMENTS = 30
"""Epochs that may pass without a budget for this round before an operator is wanted."""
SERVICE = "federated_learning"
POSTING = "post_rewards"


class DeviceMissing(Refusal):
    """A device that took part in a round is in the registry."""


class RewardTraining(Saga):
    """Started -> accrued -> posted -> Completed; waits for a later epoch when the budget is used up.

    A fact of its own is acted on only while it is the newest step, so that one delivered again changes nothing.
    Claims outlive the saga: even where it parks, what is accrued stays pending and can be posted. An operator has it
    go on from where it parked, or abandons it; what was claimed is not taken back.
    """

    class Started(Created):
        saga_id: UUID
        round_id: UUID
        quality_rule: str
        cause_event_id: UUID

    class RewardsAccrued(Saga.Event):
        """`remaining` devices of the round are still to be rewarded."""

        step: int
        claim_ids: list[UUID]
        remaining: int

    class RewardsPosted(Saga.Event):
        """A batch of `claims` was handled: `posted` of them are paid, those `left` found no budget."""

        step: int
        transfer_id: UUID
        claims: int
        posted: int
        left: list[UUID]

    class Postponed(Saga.Event):
        """Nothing more can be paid before the next epoch."""

        step: int
        token: UUID
        until: Instant

    class Completed(Saga.Event):
        closes = True
        step: int
        claims: int

    class Parked(Saga.Event):
        """An operator is wanted; `reason` is the code of a refusal."""

        step: int
        reason: str

    class Resolved(Saga.Event):
        """An operator's decision over it."""

        step: int
        action: str
        reason: str

    @event(Started)
    def __init__(self, saga_id: UUID, round_id: UUID, quality_rule: str, cause_event_id: UUID) -> None:
        self.round_id = round_id
        self.cause_event_id = cause_event_id
        self.step = 0
        self.accruals = 0
        self.claims = 0
        self.remaining = 0
        self.pending: list[UUID] = []
        self.postponements = 0
        self.waits_for: UUID | None = None
        self.ended = False
        self.parked = False

    @staticmethod
    def create_id(saga_id: UUID) -> UUID:
        return saga_id

    @classmethod
    def route(cls, fact: Fact) -> UUID | None:
        match fact.event:
            case TrainingRound.Completed():
                return saga_id_of(fact.stream)
            case Deadline.Elapsed(saga_id=saga_id, kind=kind):
                return UUID(str(saga_id)) if kind == POSTING else None
        return fact.stream

    @classmethod
    def start(cls, fact: Fact) -> Self | None:
        if not isinstance(fact.event, TrainingRound.Completed):
            return None
        return cls(
            saga_id=saga_id_of(fact.stream),
            round_id=fact.stream,
            quality_rule=QUALITY_RULE,
            cause_event_id=fact.event_id,
        )

    def on(self, fact: Fact, village: Village) -> None:
        if self.ended:
            return
        try:
            self._advance(fact, village)
        except Conflict:
            raise
        except Refusal as refusal:
            self._parked(step=self.step + 1, reason=refusal.code)

    def resolve(self, action: str, reason: str) -> None:
        """An operator's decision, once it is parked. Raises ProcessNotParked, ActionUnknown, PivotPassed."""
        if not self.parked:
            raise ProcessNotParked(f"saga {self.id}")
        if action not in (RETRY, COMPENSATE, ABANDON):
            raise ActionUnknown(repr(action))
        if action == COMPENSATE:
            raise PivotPassed(f"saga {self.id}")
        self._resolved(step=self.step + 1, action=action, reason=reason)

    def _advance(self, fact: Fact, village: Village) -> None:
        match fact.event:
            case TrainingRound.Completed() if self.step == 0:
                self._accrue(village)
            case RewardTraining.RewardsAccrued(step=self.step) if self.remaining:
                self._accrue(village)
            case RewardTraining.Resolved(step=self.step) if self.remaining or not self.accruals:
                self._accrue(village)
            case (
                RewardTraining.RewardsAccrued(step=self.step)
                | RewardTraining.RewardsPosted(step=self.step)
                | RewardTraining.Resolved(step=self.step)
            ):
                self._post(village, fact.recorded_at)
            case Deadline.Elapsed(token=self.waits_for):
                self._post(village, fact.recorded_at)

    def _accrue(self, village: Village) -> None:
        """Claims for those whose updates are in the model, but for the suspended; evidence for all, and against whose
        update was refused.
        """
        done = village.log.load(TrainingRound, self.round_id)
        answered = sorted({*done.survivors, *done.rejected})
        start = self.accruals * MAX_ACCRUALS
        chunk = answered[start : start + MAX_ACCRUALS]
        survivors = set(done.survivors)
        # All that may be refused comes before the first claim.
        typical = median([done.updates[device_id].examples for device_id in survivors])
        work = [self._activity(village, done, device_id, typical) for device_id in chunk if device_id in survivors]
        claim_ids = []
        for activity in filter(None, work):
            receipt = village.tokenomics.accrue_reward(activity=activity, cause_event_id=self.cause_event_id)
            assert receipt.id is not None
            claim_ids.append(receipt.id)
        for device_id in chunk:
            self._testify(village, device_id, good=device_id in survivors)
        remaining = max(0, len(answered) - start - len(chunk))
        self._rewards_accrued(step=self.step + 1, claim_ids=claim_ids, remaining=remaining)

    def _activity(self, village: Village, done: TrainingRound, device_id: UUID, typical: int) -> Activity | None:
        device = village.log.find(Device, device_id)
        if device is None:
            raise DeviceMissing(f"device {device_id}")
        if device.forfeits:
            return None
        update = done.updates[device_id]
        return Activity(
            activity_type="fl_participation",
            activity_id=self.round_id,
            device_id=device_id,
            owner_id=device.owner_id,
            verified_ms=max(0, min(update.train_ms, done.answered_ms[device_id], MAX_VERIFIED_MS)),
            quality_bp=quality_bp(update.examples, typical),
        )

    def _testify(self, village: Village, device_id: UUID, *, good: bool) -> None:
        try:
            village.device_registry.update_reputation(
                device_id=device_id, service=SERVICE, good=good, weight_bp=BASIS, cause_event_id=self.cause_event_id
            )
        except Conflict:
            raise
        except Refusal:
            # A device that has left the registry since is paid all the same; it has no reputation to keep.
            return

    def _post(self, village: Village, now: datetime) -> None:
        batch = self.pending[:MAX_BATCH]
        try:
            receipt = village.tokenomics.distribute_rewards(
                batch_id=derive("sagas.RewardTraining.batch", self.id, self.step + 1), claim_ids=batch
            )
        except EpochBudgetExhausted as exhausted:
            self._postpone(village, now, exhausted)
            return
        assert receipt.id is not None
        left = [UUID(claim_id) for claim_id in receipt.extra["left"]]
        self._rewards_posted(
            step=self.step + 1,
            transfer_id=receipt.id,
            claims=len(batch),
            posted=receipt.extra["posted"],
            left=left,
        )
        if left:
            self._postpone(village, now, EpochBudgetExhausted(f"{len(left)} claims left"))
        elif not self.pending:
            self._completed(step=self.step + 1, claims=self.claims)

    def _postpone(self, village: Village, now: datetime, exhausted: EpochBudgetExhausted) -> None:
        if self.postponements >= MAX_POSTPONEMENTS:
            raise exhausted
        step = self.step + 1
        token = derive("sagas.RewardTraining.deadline", self.id, step)
        until = village.tokenomics.epoch_ends_at(now)
        village.deadlines.set_deadline(token=token, saga_id=self.id, kind=POSTING, due_at=until)
        self._postponed(step=step, token=token, until=until)

    @event(RewardsAccrued)
    def _rewards_accrued(self, step: int, claim_ids: list[UUID], remaining: int) -> None:
        self.step = step
        self.accruals += 1
        self.claims += len(claim_ids)
        self.remaining = remaining
        self.pending = [*self.pending, *claim_ids]

    @event(RewardsPosted)
    def _rewards_posted(self, step: int, transfer_id: UUID, claims: int, posted: int, left: list[UUID]) -> None:
        self.step = step
        self.pending = [*left, *self.pending[claims:]]

    @event(Postponed)
    def _postponed(self, step: int, token: UUID, until: datetime) -> None:
        self.step = step
        self.postponements += 1
        self.waits_for = token

    @event(Completed)
    def _completed(self, step: int, claims: int) -> None:
        self.step = step
        self.ended = True

    @event(Parked)
    def _parked(self, step: int, reason: str) -> None:
        self.step = step
        self.ended = self.parked = True

    @event(Resolved)
    def _resolved(self, step: int, action: str, reason: str) -> None:
        self.step = step
        self.parked = False
        self.ended = action == ABANDON
        self.postponements = 0
        self.waits_for = None


# Here, because the library replaces the event classes of a body when the class is made.
RewardTraining.listens = (
    TrainingRound.Completed,
    RewardTraining.RewardsAccrued,
    RewardTraining.RewardsPosted,
    RewardTraining.Resolved,
    Deadline.Elapsed,
)


def saga_id_of(round_id: UUID) -> UUID:
    """The id of the saga that rewards this round."""
    return derive("sagas.RewardTraining", round_id)


def median(examples: Sequence[int]) -> int:
    """The lower median."""
    return sorted(examples)[(len(examples) - 1) // 2]


def quality_bp(examples: int, typical: int) -> int:
    """Rule fl-quality-1, in basis points: half for taking part, half for data, in full from the round's median on.

    Nobody gains by a claim of countless examples: what counts is capped by what others bring.
    """
    return BASIS // 2 + BASIS // 2 * min(examples, typical) // typical
