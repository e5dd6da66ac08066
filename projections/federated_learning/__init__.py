"""Read models of federated learning: sessions, rounds, and what each device did in a round."""

from .participants import (
    ACCEPTED,
    REJECTED,
    SELECTED,
    ParticipantRow,
    Participations,
    RoundParticipants,
)
from .rounds import RoundRow, TrainingRounds
from .sessions import SessionRow, TrainingSessions

READ_MODELS = (TrainingSessions(), TrainingRounds(), RoundParticipants())

__all__ = [
    "ACCEPTED", "READ_MODELS", "REJECTED", "SELECTED", "ParticipantRow", "Participations", "RoundParticipants",
    "RoundRow", "SessionRow", "TrainingRounds", "TrainingSessions",
]  # fmt: skip
