"""The federated learning service: sessions, rounds and updates, one command a record."""

import threading
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from domain.kernel import EventLog, Receipt, command, scope

from .manifest import Blobs
from .policy import Limits
from .round import ABANDONED, RoundUnknown, TrainingRound
from .selection import MAX_CANDIDATES, ParticipantDirectory, seed_of, select
from .sessions import Sessions
from .update import Inspections, Update, check_announced

_TURNS = 64


class FederatedLearningService(Sessions):
    """Training sessions from their start to the last model.

    A process that takes no models and updates needs no `blobs`, one that opens no rounds no `directory`.
    """

    def __init__(
        self,
        log: EventLog,
        blobs: Blobs | None = None,
        directory: ParticipantDirectory | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.log = log
        self.blobs = blobs
        self.directory = directory
        self.limits = limits or Limits()
        self._inspections = Inspections()
        # Twenty devices answer one round at once: in one process they take turns instead of conflicting.
        self._turns = [threading.Lock() for _ in range(_TURNS)]

    @command
    def coordinate_training_round(self, *, session_id: UUID) -> Receipt:
        """Open the next round of a session: select participants and ask them.

        Raises:
            TrainingSessionUnknown, SessionNotRunning, RoundAlreadyOpen, AllRoundsDone, TooFewParticipants.
        """
        assert self.directory is not None, "this process was composed without a participant directory"
        session, now = self._session(session_id), scope().now
        round_id, number = session.begin_round()
        policy, criteria, seed = session.policy, session.criteria, seed_of(session_id, number)
        selection = select(self.directory.survey(criteria, limit=MAX_CANDIDATES), criteria, policy, seed)
        opened = TrainingRound(
            round_id=round_id,
            session_id=session_id,
            owner_id=session.owner_id,
            number=number,
            model_hash=session.model_hash,
            policy=policy,
            deadline_at=now + timedelta(milliseconds=policy.timeout_ms),
            seed=seed,
            opened_at=now,
        )
        opened.select(selection)
        return self.log.record(session, opened, id=round_id, number=number, selected=len(selection.device_ids))

    def get_selected_participants(self, *, round_id: UUID) -> Sequence[UUID]:
        """The devices asked in a round, by rising id. Raises RoundUnknown."""
        return sorted(self._round(round_id).selected)

    @command
    def submit_update(
        self,
        *,
        device_id: UUID,
        round_id: UUID,
        blob_hash: str,
        bytes: int,
        examples: int,
        train_ms: int,
        norm: float,
        signature: str = "",
    ) -> Receipt:
        """Send a device's update (its trained weights minus the round's model) that lies in the blob store.

        `bytes` is the length of the blob, `train_ms` CPU time in ms, `norm` the Euclidean norm of the update,
        `signature` the device's over `statement`, checked at the edge. The last update a round waits for also seals it.

        Raises:
            RoundUnknown, NotAParticipant, UpdateAlreadySubmitted, RoundNotAccepting, UpdateLate, UpdateNotSafetensors,
            UpdateTensorsMismatch, UpdateShapeMismatch, UpdateDtypeMismatch, UpdateSizeMismatch, UpdateTooLarge,
            UpdateNotFinite, UpdateNormMismatch, UpdateFiguresInvalid, and BlobNotFound of the blob store.
        """
        asked = self._round(round_id)
        asked.require_accepting(device_id, scope().now)  # before its blob is read
        total, measured = self._inspections.of(self._session(asked.session_id).manifest, self._blobs, blob_hash)
        check_announced(size=bytes, found_size=total, norm=norm, found_norm=measured)
        update = Update(blob_hash=blob_hash, bytes=total, examples=examples, train_ms=train_ms, norm=norm)
        with self._turns[round_id.int % _TURNS]:
            answered = self._round(round_id)
            answered.accept(device_id, update, signature, scope().now)
            return self._record(answered)

    @command
    def reject_update(self, *, round_id: UUID, device_id: UUID, reason: str) -> Receipt:
        """Take out an accepted update that cannot be aggregated; `reason` is a refusal's code. Raises RoundUnknown."""
        (harmed := self._round(round_id)).reject(device_id, reason)
        return self._record(harmed)

    @command
    def close_training_round(self, *, round_id: UUID) -> Receipt:
        """The deadline has come: seal with what is there, or abandon. Raises RoundUnknown."""
        (due := self._round(round_id)).close()
        return self._record(due)

    @command
    def complete_training_round(
        self, *, round_id: UUID, model_hash: str, accumulator_hash: str, clipped: int, metrics: dict[str, float]
    ) -> Receipt:
        """Record the model a sealed round has given. Repeating it changes nothing.

        Raises:
            RoundUnknown, RoundNotSealed, RoundOutcomeDiffers.
        """
        done = self._round(round_id)
        done.complete(model_hash, accumulator_hash, clipped, metrics, scope().now)
        session = self._session(done.session_id)
        session.advance(done.number, model_hash)
        return self.log.record(done, session)

    @command
    def abandon_training_round(self, *, round_id: UUID, reason: str) -> Receipt:
        """End a round without a model. Raises RoundUnknown."""
        (lost := self._round(round_id)).abandon(reason)
        return self._record(lost)

    def _record(self, changed: TrainingRound) -> Receipt:
        if changed.state_name != ABANDONED:
            return self.log.record(changed, number=changed.number)
        session = self._session(changed.session_id)
        session.lose_round(changed.number, changed.reason)
        return self.log.record(changed, session, number=changed.number)

    def _round(self, round_id: UUID) -> TrainingRound:
        found = self.log.find(TrainingRound, round_id)
        if found is None:
            raise RoundUnknown(f"no round {round_id}")
        return found
