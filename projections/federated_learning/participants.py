"""The read model of what each device did in a round, and how often it has taken part."""

from collections.abc import Callable, Collection, Iterable, Mapping
from operator import attrgetter
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
        made, round_id = fact.event, fact.stream
        several = _SEVERAL.get(type(made))
        if several is None:
            return ((round_id, made.device_id),)
        return [(round_id, device_id) for device_id in several(made)]

    def evolve(self, row: ParticipantRow | None, fact: Fact, key: Key) -> ParticipantRow | None:
        made: Any = fact.event
        if type(made) is TrainingRound.ParticipantsSelected:
            return ParticipantRow(key[0], key[1], SELECTED, None, None, None, None, None, fact.position)
        return None if row is None else _CHANGED[type(made)](row, made, fact.position)


def _accepted(row: ParticipantRow, event: TrainingRound.UpdateAccepted, at: int) -> ParticipantRow:
    return replace(
        row,
        position=at,
        state=ACCEPTED,
        examples=event.examples,
        train_ms=event.train_ms,
        norm=event.norm,
        blob_hash=event.blob_hash,
    )


def _dropped(row: ParticipantRow, event: TrainingRound.Sealed, at: int) -> ParticipantRow:
    return row if row.state in (REJECTED, LEFT) else replace(row, position=at, state=DROPPED)


_CHANGED: Mapping[type[Any], Callable[[ParticipantRow, Any, int], ParticipantRow]] = {
    TrainingRound.UpdateAccepted: _accepted,
    TrainingRound.UpdateRejected: lambda row, event, at: replace(row, position=at, state=REJECTED, reason=event.reason),
    TrainingRound.ParticipantLeft: lambda row, event, at: replace(row, position=at, state=LEFT, reason=event.reason),
    TrainingRound.Sealed: _dropped,
    TrainingRound.Completed: lambda row, event, at: replace(row, position=at, state=AGGREGATED),
}
"""The row after an event at a position."""

_SEVERAL: Mapping[type[Any], Callable[[Any], Iterable[UUID]]] = {
    TrainingRound.ParticipantsSelected: attrgetter("device_ids"),
    TrainingRound.Sealed: attrgetter("dropped"),
    TrainingRound.Completed: attrgetter("participants"),
}
"""The devices of an event that is not of one device."""


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
