"""The read model of what each device did in a round, and how often it has taken part."""

from collections.abc import Collection, Iterable
from typing import Any
from uuid import UUID

from msgspec.structs import replace

from domain.federated_learning.round import TrainingRound
from domain.kernel.fact import Fact
from infrastructure.database import Database
from projections.rows import Key, ReadModel, Row

SELECTED, ACCEPTED, REJECTED, DROPPED, AGGREGATED = "selected", "accepted", "rejected", "dropped", "aggregated"
LEFT = "left"


class ParticipantRow(Row, frozen=True):
    """A device in a round: selected -> accepted -> aggregated, or rejected, left or dropped. `train_ms` is CPU time."""

    round_id: UUID
    device_id: UUID
    state: str
    examples: int | None
    train_ms: int | None
    norm: float | None
    blob_hash: str | None
    reason: str | None
    position: int


class RoundParticipants(ReadModel[ParticipantRow]):
    """Participants by round and device."""

    name = "round_participants"
    table = "read.round_participants"
    row = ParticipantRow
    key = ("round_id", "device_id")
    listens = (
        TrainingRound.ParticipantsSelected,
        TrainingRound.UpdateAccepted,
        TrainingRound.UpdateRejected,
        TrainingRound.ParticipantLeft,
        TrainingRound.Sealed,
        TrainingRound.Completed,
    )
    begins = (TrainingRound.ParticipantsSelected,)

    def keys(self, fact: Fact) -> Iterable[Key]:
        return [(fact.stream, device_id) for device_id in _devices_of(fact.event)]

    def evolve(self, row: ParticipantRow | None, fact: Fact, key: Key) -> ParticipantRow | None:
        if isinstance(fact.event, TrainingRound.ParticipantsSelected):
            return ParticipantRow(key[0], key[1], SELECTED, None, None, None, None, None, fact.position)
        if row is None or (row.state in (REJECTED, LEFT) and isinstance(fact.event, TrainingRound.Sealed)):
            return row
        return replace(row, position=fact.position, **_participant_changes(fact.event))


def _devices_of(event: Any) -> Iterable[UUID]:
    match event:
        case TrainingRound.ParticipantsSelected(device_ids=device_ids):
            return device_ids
        case TrainingRound.Sealed(dropped=dropped):
            return dropped
        case TrainingRound.Completed(participants=participants):
            return participants
    return (event.device_id,)


def _participant_changes(event: Any) -> dict[str, Any]:
    match event:
        case TrainingRound.UpdateAccepted():
            return {
                "state": ACCEPTED,
                "examples": event.examples,
                "train_ms": event.train_ms,
                "norm": event.norm,
                "blob_hash": event.blob_hash,
            }
        case TrainingRound.UpdateRejected(reason=reason):
            return {"state": REJECTED, "reason": reason}
        case TrainingRound.ParticipantLeft(reason=reason):
            return {"state": LEFT, "reason": reason}
        case TrainingRound.Completed():
            return {"state": AGGREGATED}
        case TrainingRound.Sealed():
            return {"state": DROPPED}
    return {}


class Participations:
    """How often devices have been participants: what selection is fair by."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def counts(self, device_ids: Collection[UUID]) -> dict[UUID, int]:
        """Rounds with an update in the model, by device; devices without any are left out."""
        query = (
            "SELECT device_id, count(*) FROM read.round_participants"
            " WHERE device_id = ANY(%s) AND state = %s GROUP BY device_id"
        )
        with self._database.reader.connection() as connection:
            found = connection.execute(query, (list(device_ids), AGGREGATED)).fetchall()
        return {device_id: int(count) for device_id, count in found}
