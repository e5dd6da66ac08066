"""A training round: who is asked, whose update counts, and what became of it."""

import math
from datetime import datetime
from uuid import UUID

from domain.kernel import Aggregate, Created, Instant, NotFound, Refusal, event
from domain.kernel.time import milliseconds

from .policy import RoundPolicy
from .round_facts import RoundFacts
from .selection import Selection
from .update import NotAParticipant, RoundNotAccepting, Update, UpdateAlreadySubmitted, UpdateLate, check_figures

OPEN, SEALED, COMPLETED, ABANDONED = "open", "sealed", "completed", "abandoned"
TOO_FEW = "too_few_updates"


class RoundUnknown(NotFound):
    """An update names a round that was opened."""


class RoundNotSealed(Refusal):
    """Only a sealed round is aggregated."""


class RoundOutcomeDiffers(Refusal):
    """A round has one outcome: completing it again with another model is refused."""

    status = 409


class TrainingRound(RoundFacts, Aggregate):
    """Open -> Sealed -> Completed | Abandoned. What it is sealed with is what is aggregated."""

    class Opened(Created):
        round_id: UUID
        session_id: UUID
        owner_id: UUID
        number: int
        model_hash: str
        policy: RoundPolicy
        deadline_at: Instant
        seed: int
        opened_at: Instant

    @event(Opened)
    def __init__(
        self,
        round_id: UUID,
        session_id: UUID,
        owner_id: UUID,
        number: int,
        model_hash: str,
        policy: RoundPolicy,
        deadline_at: datetime,
        seed: int,
        opened_at: datetime,
    ) -> None:
        self.round_id = round_id
        self.session_id = session_id
        self.owner_id = owner_id
        self.number = number
        self.model_hash = model_hash
        self.policy = policy
        self.deadline_at = deadline_at
        self.seed = seed
        self.opened_at = opened_at
        self.state_name = OPEN
        self.selected: set[UUID] = set()
        self.updates: dict[UUID, Update] = {}
        self.answered_ms: dict[UUID, int] = {}
        self.rejected: set[UUID] = set()
        self.left: set[UUID] = set()
        self.survivors: list[UUID] = []
        self.new_model_hash: str | None = None
        self.reason = ""

    @staticmethod
    def create_id(round_id: UUID) -> UUID:
        return round_id

    @property
    def ended(self) -> bool:
        """Whether the round never changes again."""
        return self.state_name in (COMPLETED, ABANDONED)

    def select(self, selection: Selection) -> None:
        """Ask the selected devices."""
        self._participants_selected(
            device_ids=selection.device_ids,
            snapshot_position=selection.snapshot_position,
            ruleset_hash=selection.ruleset_hash,
            refused=selection.refused,
        )

    def require_accepting(self, device_id: UUID, now: datetime) -> None:
        """Raises UpdateAlreadySubmitted, RoundNotAccepting, UpdateLate, NotAParticipant."""
        if device_id not in self.selected or device_id in self.left:
            raise NotAParticipant(f"round {self.number}")
        if device_id in self.updates or device_id in self.rejected:
            raise UpdateAlreadySubmitted(f"round {self.number}")
        if self.state_name != OPEN:
            raise RoundNotAccepting(f"round {self.number} is {self.state_name}")
        if now >= self.deadline_at:
            raise UpdateLate(f"round {self.number} ended at {self.deadline_at.isoformat()}")

    def accept(self, device_id: UUID, update: Update, signature: str, now: datetime) -> None:
        """Take one update, and seal the round when it was the last one it waits for.

        Raises:
            UpdateFiguresInvalid and the refusals of `require_accepting`.
        """
        self.require_accepting(device_id, now)
        check_figures(update, signature)
        self._update_accepted(
            device_id=device_id,
            blob_hash=update.blob_hash,
            bytes=update.bytes,
            examples=update.examples,
            train_ms=update.train_ms,
            norm=update.norm,
            signature=signature,
            accepted_at=now,
        )
        if len(self.updates) >= self.policy.goal or self._all_answered():
            self.close()

    def reject(self, device_id: UUID, reason: str) -> None:
        """Take an accepted update out again; a sealed round with too few left is abandoned.

        Rejecting what is not there, or was rejected before, changes nothing.
        """
        if self.ended or device_id not in self.updates:
            return
        self._update_rejected(device_id=device_id, reason=reason)
        if self.state_name == SEALED and len(self.survivors) < self.policy.min_participants:
            self.abandon(TOO_FEW)
        elif self.state_name == OPEN and self._all_answered():
            self.close()

    def leave(self, device_id: UUID, reason: str) -> None:
        """Do without a device, and close the round if it waits for nobody else.

        In a round that is no longer open, or that has not asked it, this changes nothing.
        """
        if self.state_name != OPEN or device_id not in self.selected - self.left:
            return
        self._participant_left(device_id=device_id, reason=reason)
        if self._all_answered():
            self.close()

    def close(self) -> None:
        """Seal an open round if it has enough updates, else abandon it; a round that is closed stays as it is."""
        if self.state_name != OPEN:
            return
        if len(self.updates) < self.policy.min_participants:
            self.abandon(TOO_FEW)
        else:
            self._sealed(survivors=sorted(self.updates), dropped=sorted(self.selected - self.updates.keys()))

    def complete(
        self, model_hash: str, accumulator_hash: str, clipped: int, metrics: dict[str, float], now: datetime
    ) -> None:
        """Record the new model. Completing with the same model again changes nothing.

        Raises:
            RoundNotSealed, RoundOutcomeDiffers.
        """
        if self.state_name == COMPLETED:
            if model_hash != self.new_model_hash:
                raise RoundOutcomeDiffers(f"round {self.number}")
            return
        if self.state_name != SEALED:
            raise RoundNotSealed(f"round {self.number} is {self.state_name}")
        self._aggregated(model_hash=model_hash, accumulator_hash=accumulator_hash, clipped=clipped)
        self._completed(
            session_id=self.session_id,
            number=self.number,
            participants=list(self.survivors),
            model_metrics={name: value for name, value in sorted(metrics.items()) if math.isfinite(value)},
            privacy_budget_consumed=0.0,
            duration_ms=max(0, milliseconds(self.opened_at, now)),
        )

    def abandon(self, reason: str) -> None:
        """End without a model; a round that has ended stays as it is."""
        if not self.ended:
            self._abandoned(session_id=self.session_id, number=self.number, reason=reason)

    def _all_answered(self) -> bool:
        return self.selected <= self.updates.keys() | self.rejected | self.left

    @event(RoundFacts.ParticipantsSelected)
    def _participants_selected(
        self, device_ids: list[UUID], snapshot_position: int, ruleset_hash: str, refused: dict[str, int]
    ) -> None:
        self.selected = set(device_ids)

    @event(RoundFacts.UpdateAccepted)
    def _update_accepted(
        self,
        device_id: UUID,
        blob_hash: str,
        bytes: int,
        examples: int,
        train_ms: int,
        norm: float,
        signature: str,
        accepted_at: datetime,
    ) -> None:
        self.updates[device_id] = Update(
            blob_hash=blob_hash, bytes=bytes, examples=examples, train_ms=train_ms, norm=norm
        )
        self.answered_ms[device_id] = milliseconds(self.opened_at, accepted_at)

    @event(RoundFacts.UpdateRejected)
    def _update_rejected(self, device_id: UUID, reason: str) -> None:
        del self.updates[device_id]
        self.rejected.add(device_id)
        self.survivors = [survivor for survivor in self.survivors if survivor != device_id]

    @event(RoundFacts.ParticipantLeft)
    def _participant_left(self, device_id: UUID, reason: str) -> None:
        self.updates.pop(device_id, None)
        self.left.add(device_id)

    @event(RoundFacts.Sealed)
    def _sealed(self, survivors: list[UUID], dropped: list[UUID]) -> None:
        self.state_name = SEALED
        self.survivors = list(survivors)

    @event(RoundFacts.Aggregated)
    def _aggregated(self, model_hash: str, accumulator_hash: str, clipped: int) -> None:
        self.new_model_hash = model_hash

    @event(RoundFacts.Completed)
    def _completed(
        self,
        session_id: UUID,
        number: int,
        participants: list[UUID],
        model_metrics: dict[str, float],
        privacy_budget_consumed: float,
        duration_ms: int,
    ) -> None:
        self.state_name = COMPLETED

    @event(RoundFacts.Abandoned)
    def _abandoned(self, session_id: UUID, number: int, reason: str) -> None:
        self.state_name = ABANDONED
        self.reason = reason
