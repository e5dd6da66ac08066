"""Commands on training sessions: start, pause, resume, complete, abandon."""

from uuid import UUID

from domain.kernel import EventLog, Receipt, Refusal, command, derive, scope

from .manifest import (
    Blobs,
    ModelManifest,
    ModelTooLarge,
    check_base_model,
    check_evaluation,
    check_manifest,
)
from .policy import (
    MAX_ROUNDS,
    Limits,
    ParticipantCriteria,
    RoundPolicy,
    TrainingConfig,
    check_criteria,
    check_policy,
    check_privacy,
    check_training,
)
from .round import ABANDONED, TrainingRound
from .session import SessionRoster, TrainingSession, TrainingSessionUnknown

MAX_NAME = 128


class SessionInvalid(Refusal):
    """A session has a name of 1 to 128 characters and runs 1 to 10,000 rounds."""


class Sessions:
    """The part of the service that is about sessions."""

    log: EventLog
    blobs: Blobs | None
    limits: Limits

    @command
    def start_training(
        self,
        *,
        owner_id: UUID,
        name: str,
        manifest: ModelManifest,
        base_model_hash: str,
        evaluation_hash: str | None,
        rounds: int,
        strategy: str,
        round_policy: RoundPolicy,
        training: TrainingConfig,
        criteria: ParticipantCriteria,
        secure_aggregation: bool = True,
        epsilon: float | None = 1.0,
    ) -> Receipt:
        """Create and start a session; its rounds then open by themselves. Both blobs have been uploaded before.

        Raises:
            SecureAggregationUnavailable, DifferentialPrivacyUnavailable: their defaults are on, so say no to both.
            StrategyUnsupported, FrameworkUnsupported, ArchitectureUnsupported, RoundPolicyInvalid, SessionInvalid,
            TrainingConfigInvalid, ParticipantCriteriaInvalid, ManifestInvalid, ModelTooLarge, BaseModelUnfit,
            EvaluationUnfit, TooManySessions, and BlobNotFound of the blob store.
        """
        check_privacy(secure_aggregation=secure_aggregation, epsilon=epsilon)
        if not (1 <= len(name) <= MAX_NAME and 1 <= rounds <= MAX_ROUNDS):
            raise SessionInvalid(f"a name of {len(name)} characters, {rounds} rounds")
        check_training(training, strategy)
        check_policy(round_policy, self.limits)
        check_criteria(criteria)
        self._check_model(manifest, base_model_hash, evaluation_hash)
        session = TrainingSession(
            session_id=derive("federated_learning.TrainingSession", scope().command_id),
            owner_id=owner_id,
            name=name,
            manifest=manifest,
            base_model_hash=base_model_hash,
            evaluation_hash=evaluation_hash,
            strategy=strategy,
            round_policy=round_policy,
            rounds=rounds,
            training=training,
            criteria=criteria,
        )
        session.start()
        roster = self.log.find(SessionRoster, SessionRoster.create_id()) or SessionRoster()
        roster.admit(session.id, self.limits.max_sessions)
        return self.log.record(session, roster)

    @command
    def pause_training(self, *, session_id: UUID) -> Receipt:
        """Open no further rounds until resumed. Raises TrainingSessionUnknown, SessionNotRunning."""
        session = self._session(session_id)
        session.pause()
        return self.log.record(session)

    @command
    def resume_training(self, *, session_id: UUID) -> Receipt:
        """Open rounds again. Raises TrainingSessionUnknown, SessionNotPaused."""
        session = self._session(session_id)
        session.resume()
        return self.log.record(session)

    @command
    def complete_training(self, *, session_id: UUID) -> Receipt:
        """End a session whose rounds are done. Raises TrainingSessionUnknown, SessionEnded, RoundsNotDone."""
        session = self._session(session_id)
        session.complete()
        return self.log.record(session, *self._released(session_id))

    @command
    def abandon_training(self, *, session_id: UUID, reason: str) -> Receipt:
        """End a session, and the round it has open, without a result. Raises TrainingSessionUnknown, SessionEnded."""
        session = self._session(session_id)
        open_round = session.open_round
        session.abandon(reason)
        things: list[TrainingRound] = []
        if open_round is not None:
            ending = self.log.load(TrainingRound, open_round)
            ending.abandon("session_abandoned")
            things.append(ending)
        return self.log.record(session, *things, *self._released(session_id))

    @command
    def leave_training(self, *, device_id: UUID, reason: str, round_id: UUID | None = None) -> Receipt:
        """Take a device out of this round, or of every one that is open."""
        roster = self.log.find(SessionRoster, SessionRoster.create_id())
        changed: list[TrainingRound | TrainingSession] = []
        for session_id in sorted(roster.going) if roster is not None else ():
            session = self._session(session_id)
            if session.open_round is None or round_id not in (None, session.open_round):
                continue
            left = self.log.load(TrainingRound, session.open_round)
            left.leave(device_id, reason)
            changed.append(left)
            if left.state_name == ABANDONED:
                session.lose_round(left.number, left.reason)
                changed.append(session)
        return self.log.record(*changed)

    def owner_of(self, *, session_id: UUID) -> UUID:
        """Whose session it is. Raises TrainingSessionUnknown."""
        return self._session(session_id).owner_id

    def _check_model(self, manifest: ModelManifest, base_model_hash: str, evaluation_hash: str | None) -> None:
        check_manifest(manifest)
        if manifest.bytes > self.limits.max_model_bytes:
            raise ModelTooLarge(f"{manifest.bytes} bytes, at most {self.limits.max_model_bytes}")
        check_base_model(manifest, self._blobs, base_model_hash)
        if evaluation_hash is not None:
            check_evaluation(manifest, self._blobs, evaluation_hash)

    def _released(self, session_id: UUID) -> list[SessionRoster]:
        roster = self.log.load(SessionRoster, SessionRoster.create_id())
        roster.release(session_id)
        return [roster]

    @property
    def _blobs(self) -> Blobs:
        assert self.blobs is not None, "this process was composed without a blob store"
        return self.blobs

    def _session(self, session_id: UUID) -> TrainingSession:
        session = self.log.find(TrainingSession, session_id)
        if session is None:
            raise TrainingSessionUnknown(f"no session {session_id}")
        return session
