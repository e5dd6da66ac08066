"""A training session: what is trained, under which rules, and how far it has come."""

from typing import Any
from uuid import UUID

from domain import kernel
from domain.kernel import Aggregate, Created, NotFound, Refusal, derive, event

from .manifest import ModelManifest
from .policy import ParticipantCriteria, RoundPolicy, TrainingConfig

CREATED, RUNNING, PAUSED, COMPLETED, ABANDONED = "created", "running", "paused", "completed", "abandoned"
MAX_REASON = 200


class TrainingSessionUnknown(NotFound):
    """A session has been started before anything else is asked of it."""


class SessionNotRunning(Refusal):
    """Only a running session opens rounds or pauses."""


class SessionNotPaused(Refusal):
    """Only a paused session is resumed."""


class SessionEnded(Refusal):
    """A completed or abandoned session never changes again."""


class RoundAlreadyOpen(Refusal):
    """A session has one round at a time."""

    status = 409


class AllRoundsDone(Refusal):
    """A session runs as many rounds as it was started with."""


class RoundsNotDone(Refusal):
    """A session is complete when all of its rounds are, and not before."""


class TooManySessions(Refusal):
    """A village runs a bounded number of sessions at once (10 by default)."""


class TrainingSession(Aggregate):
    """Running <-> Paused -> Completed | Abandoned. It is the consistency boundary of the sequence of its rounds."""

    class Created(kernel.Created):
        class_version = 2

        session_id: UUID
        owner_id: UUID
        name: str
        manifest: ModelManifest
        base_model_hash: str
        evaluation_hash: str | None
        strategy: str
        round_policy: RoundPolicy
        rounds: int
        training: TrainingConfig
        criteria: ParticipantCriteria

        @staticmethod
        def upcast_v1_v2(state: dict[str, Any]) -> None:
            """What devices have measured was not asked before."""
            state["criteria"] |= dict.fromkeys(("min_matrix_mflops", "min_memory_mb_s", "min_disk_mb_s"))

    class Started(Aggregate.Event):
        pass

    class RoundBegun(Aggregate.Event):
        """Round `number` is open; nothing else opens until it has ended."""

        round_id: UUID
        number: int

    class ModelAdvanced(Aggregate.Event):
        """Round `number` has ended with a new model."""

        number: int
        model_hash: str

    class RoundLost(Aggregate.Event):
        """Round `number` has ended without a model."""

        number: int
        reason: str

    class Paused(Aggregate.Event):
        pass

    class Resumed(Aggregate.Event):
        pass

    class Completed(Aggregate.Event):
        closes = True
        model_hash: str

    class Abandoned(Aggregate.Event):
        closes = True
        reason: str

    @event(Created)
    def __init__(
        self,
        session_id: UUID,
        owner_id: UUID,
        name: str,
        manifest: ModelManifest,
        base_model_hash: str,
        evaluation_hash: str | None,
        strategy: str,
        round_policy: RoundPolicy,
        rounds: int,
        training: TrainingConfig,
        criteria: ParticipantCriteria,
    ) -> None:
        self.session_id = session_id
        self.owner_id = owner_id
        self.name = name
        self.manifest = manifest
        self.model_hash = base_model_hash
        self.evaluation_hash = evaluation_hash
        self.strategy = strategy
        self.policy = round_policy
        self.rounds = rounds
        self.training = training
        self.criteria = criteria
        self.state_name = CREATED
        self.rounds_begun = 0
        self.rounds_completed = 0
        self.open_round: UUID | None = None

    @staticmethod
    def create_id(session_id: UUID) -> UUID:
        return session_id

    @property
    def ended(self) -> bool:
        """Whether the session never changes again."""
        return self.state_name in (COMPLETED, ABANDONED)

    def start(self) -> None:
        """Let rounds begin; the last step of creation."""
        self._started()

    def begin_round(self) -> tuple[UUID, int]:
        """The id and number of the next round. A lost round's number is not used again.

        Raises:
            SessionNotRunning, RoundAlreadyOpen, AllRoundsDone.
        """
        if self.state_name != RUNNING:
            raise SessionNotRunning(f"the session is {self.state_name}")
        if self.open_round is not None:
            raise RoundAlreadyOpen(f"round {self.rounds_begun}")
        if self.rounds_completed >= self.rounds:
            raise AllRoundsDone(f"{self.rounds} rounds")
        number = self.rounds_begun + 1
        round_id = derive("federated_learning.TrainingRound", self.session_id, number)
        self._round_begun(round_id=round_id, number=number)
        return round_id, number

    def advance(self, number: int, model_hash: str) -> None:
        """Take over the model of the open round. A session that has ended keeps the model it ended with."""
        if not self.ended and self.open_round is not None and number == self.rounds_begun:
            self._model_advanced(number=number, model_hash=model_hash)

    def lose_round(self, number: int, reason: str) -> None:
        """Note that the open round ended without a model."""
        if not self.ended and self.open_round is not None and number == self.rounds_begun:
            self._round_lost(number=number, reason=reason[:MAX_REASON])

    def pause(self) -> None:
        """Open no further rounds; one that is open goes on to its end. Raises SessionNotRunning."""
        if self.state_name != RUNNING:
            raise SessionNotRunning(f"the session is {self.state_name}")
        self._paused()

    def resume(self) -> None:
        """Open rounds again. Raises SessionNotPaused."""
        if self.state_name != PAUSED:
            raise SessionNotPaused(f"the session is {self.state_name}")
        self._resumed()

    def complete(self) -> None:
        """End with the model of the last round. Raises SessionEnded, RoundsNotDone."""
        self._require_going()
        if self.rounds_completed < self.rounds:
            raise RoundsNotDone(f"{self.rounds_completed} of {self.rounds}")
        self._completed(model_hash=self.model_hash)

    def abandon(self, reason: str) -> None:
        """End without having run all rounds. Raises SessionEnded."""
        self._require_going()
        self._abandoned(reason=reason[:MAX_REASON])

    def _require_going(self) -> None:
        if self.ended:
            raise SessionEnded(f"the session is {self.state_name}")

    @event(Started)
    def _started(self) -> None:
        self.state_name = RUNNING

    @event(RoundBegun)
    def _round_begun(self, round_id: UUID, number: int) -> None:
        self.open_round = round_id
        self.rounds_begun = number

    @event(ModelAdvanced)
    def _model_advanced(self, number: int, model_hash: str) -> None:
        self.open_round = None
        self.rounds_completed += 1
        self.model_hash = model_hash

    @event(RoundLost)
    def _round_lost(self, number: int, reason: str) -> None:
        self.open_round = None

    @event(Paused)
    def _paused(self) -> None:
        self.state_name = PAUSED

    @event(Resumed)
    def _resumed(self) -> None:
        self.state_name = RUNNING

    @event(Completed)
    def _completed(self, model_hash: str) -> None:
        self.state_name = COMPLETED

    @event(Abandoned)
    def _abandoned(self, reason: str) -> None:
        self.state_name = ABANDONED
        self.open_round = None


class SessionRoster(Aggregate):
    """The sessions of the village that have not ended: one stream, so that their bound holds under any race."""

    class Opened(Created):
        pass

    class Admitted(Aggregate.Event):
        session_id: UUID

    class Released(Aggregate.Event):
        session_id: UUID

    @event(Opened)
    def __init__(self) -> None:
        self.going: set[UUID] = set()

    @staticmethod
    def create_id() -> UUID:
        return derive("federated_learning.SessionRoster")

    def admit(self, session_id: UUID, most: int) -> None:
        """Make room for one more session. Raises TooManySessions."""
        if len(self.going) >= most:
            raise TooManySessions(f"{most} sessions are running or paused")
        self._admitted(session_id=session_id)

    def release(self, session_id: UUID) -> None:
        """A session has ended."""
        if session_id in self.going:
            self._released(session_id=session_id)

    @event(Admitted)
    def _admitted(self, session_id: UUID) -> None:
        self.going.add(session_id)

    @event(Released)
    def _released(self, session_id: UUID) -> None:
        self.going.discard(session_id)
