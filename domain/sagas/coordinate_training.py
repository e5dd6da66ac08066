"""Coordinate a training session: open its rounds one after the other, and see each of them to its end."""

import hashlib
from datetime import timedelta
from typing import Self
from uuid import UUID

from domain.federated_learning.round import TrainingRound
from domain.federated_learning.selection import TooFewParticipants
from domain.federated_learning.session import RUNNING, TrainingSession
from domain.kernel import Created, Fact, Saga, derive, event

from .deadline import Deadline
from .village import Village

ROUND, DEVICES = "training_round", "training_devices"
MAX_ATTEMPTS = 12
"""How often a session with too few devices looks for them in a row, over about ten minutes."""
MAX_LOST_ROUNDS = 3
"""Rounds lost in a row after which a session is given up."""
AGGREGATION_MS = 21_600_000
"""How long after its deadline a round may stay without a model: six hours, in which an aggregator can be repaired."""
FIRST_PAUSE_MS, LAST_PAUSE_MS = 1_000, 120_000


class CoordinateTraining(Saga):
    """Session started -> round 1 -> ... -> session completed; gives up when devices stay away or rounds are lost.

    A round has a deadline for its updates and, AGGREGATION_MS after that has come, one for its model.
    A paused session waits: nothing is opened until it resumes, and a round that is open ends as any other.
    """

    class Started(Created):
        saga_id: UUID
        session_id: UUID

    class RoundAwaited(Saga.Event):
        """A round is open until its deadline, then it is to be aggregated until another; `token` names the deadline."""

        round_id: UUID
        number: int
        token: UUID

    class RoundEnded(Saga.Event):
        """A round has ended, with a model or without one."""

        round_id: UUID
        lost: bool

    class DevicesAwaited(Saga.Event):
        """Too few devices meet the criteria; looked for again at the deadline `token` names."""

        attempt: int
        token: UUID

    class Ended(Saga.Event):
        closes = True

    listens = (
        TrainingSession.Started,
        TrainingSession.Resumed,
        TrainingSession.Completed,
        TrainingSession.Abandoned,
        TrainingRound.Opened,
        TrainingRound.Completed,
        TrainingRound.Abandoned,
        Deadline.Elapsed,
    )

    @event(Started)
    def __init__(self, saga_id: UUID, session_id: UUID) -> None:
        self.session_id = session_id
        self.attempt = 0
        self.lost_rounds = 0
        self.number = 0
        self.round_id: UUID | None = None
        self.waits_for: UUID | None = None
        self.ended = False

    @staticmethod
    def create_id(saga_id: UUID) -> UUID:
        return saga_id

    @classmethod
    def route(cls, fact: Fact) -> UUID | None:
        match fact.event:
            case Deadline.Elapsed(saga_id=saga_id, kind=kind):
                return UUID(str(saga_id)) if kind in (ROUND, DEVICES) else None
            case TrainingRound.Opened() | TrainingRound.Completed() | TrainingRound.Abandoned():
                return saga_id_of(fact.event.session_id)
        return saga_id_of(fact.stream)

    @classmethod
    def start(cls, fact: Fact) -> Self | None:
        if not isinstance(fact.event, TrainingSession.Started):
            return None
        return cls(saga_id=saga_id_of(fact.stream), session_id=fact.stream)

    def on(self, fact: Fact, village: Village) -> None:
        if self.ended:
            return
        match fact.event:
            case TrainingSession.Started() | TrainingSession.Resumed():
                self._go_on(fact, village)
            case TrainingSession.Completed() | TrainingSession.Abandoned():
                self._ended()
            case TrainingRound.Opened(deadline_at=deadline_at, number=number) if number > self.number:
                token = derive("sagas.CoordinateTraining.round", fact.stream)
                village.deadlines.set_deadline(token=token, saga_id=self.id, kind=ROUND, due_at=deadline_at)
                self._round_awaited(round_id=fact.stream, number=number, token=token)
            case TrainingRound.Completed() | TrainingRound.Abandoned() if fact.stream == self.round_id:
                self._round_ended(round_id=fact.stream, lost=isinstance(fact.event, TrainingRound.Abandoned))
                self._go_on(fact, village)
            case Deadline.Elapsed(token=token) if token == self.waits_for:
                self._elapsed(fact, village)

    def _elapsed(self, fact: Fact, village: Village) -> None:
        if self.round_id is None:
            self._go_on(fact, village)
            return
        training, last = village.federated_learning, derive("sagas.CoordinateTraining.aggregation", self.round_id)
        if self.waits_for == last:
            training.abandon_training_round(round_id=self.round_id, reason="aggregation_timed_out")
            return
        training.close_training_round(round_id=self.round_id)
        due_at = fact.recorded_at + timedelta(milliseconds=AGGREGATION_MS)
        village.deadlines.set_deadline(token=last, saga_id=self.id, kind=ROUND, due_at=due_at)
        self._round_awaited(round_id=self.round_id, number=self.number, token=last)

    def _go_on(self, fact: Fact, village: Village) -> None:
        """Take the session one step further: the next round, or its end."""
        # Other processes change sessions too. A stale copy would not be noticed where nothing is recorded.
        village.log.cache.drop(self.session_id)
        session = village.log.load(TrainingSession, self.session_id)
        training = village.federated_learning
        if session.state_name != RUNNING or session.open_round is not None:
            return
        if self.round_id is not None or self.number < session.rounds_begun:
            return  # facts of a round are still to come, and it goes on from there
        if session.rounds_completed >= session.rounds:
            training.complete_training(session_id=self.session_id)
        elif self.lost_rounds >= MAX_LOST_ROUNDS:
            training.abandon_training(session_id=self.session_id, reason="rounds_lost")
        else:
            try:
                training.coordinate_training_round(session_id=self.session_id)
            except TooFewParticipants:
                self._look_again(fact, village)

    def _look_again(self, fact: Fact, village: Village) -> None:
        attempt = self.attempt + 1
        if attempt > MAX_ATTEMPTS:
            village.federated_learning.abandon_training(session_id=self.session_id, reason="too_few_participants")
            return
        token = derive("sagas.CoordinateTraining.devices", self.id, fact.event_id)
        due_at = fact.recorded_at + timedelta(milliseconds=pause_ms(self.id, attempt))
        village.deadlines.set_deadline(token=token, saga_id=self.id, kind=DEVICES, due_at=due_at)
        self._devices_awaited(attempt=attempt, token=token)

    @event(RoundAwaited)
    def _round_awaited(self, round_id: UUID, number: int, token: UUID) -> None:
        self.round_id = round_id
        self.number = number
        self.waits_for = token
        self.attempt = 0

    @event(RoundEnded)
    def _round_ended(self, round_id: UUID, lost: bool) -> None:
        self.round_id = None
        self.waits_for = None
        self.lost_rounds = self.lost_rounds + 1 if lost else 0

    @event(DevicesAwaited)
    def _devices_awaited(self, attempt: int, token: UUID) -> None:
        self.attempt = attempt
        self.waits_for = token

    @event(Ended)
    def _ended(self) -> None:
        self.ended = True


def saga_id_of(session_id: UUID) -> UUID:
    """The id of the saga that coordinates this session."""
    return derive("sagas.CoordinateTraining", session_id)


def pause_ms(saga_id: UUID, attempt: int) -> int:
    """How long to wait before looking for devices again, in ms: doubling, bounded, with a jitter that replays."""
    whole = min(LAST_PAUSE_MS, FIRST_PAUSE_MS << (attempt - 1))
    share = int.from_bytes(hashlib.sha256(f"{saga_id}|{attempt}".encode()).digest()[:2])
    return whole // 2 + whole * share // 2**17
