"""Read model of the operators' controls, which the projector itself obeys."""

from collections.abc import Iterable

import msgspec

from domain.kernel.fact import Fact
from domain.monitoring.projection import Projection

from .rows import Key, ReadModel, Row


class ControlRow(Row, frozen=True):
    """What is asked of one read model. Positions are those of the requests."""

    projection: str
    paused: bool
    rebuild_at: int
    retried_at: dict[str, int]
    skipped: list[tuple[int, str]]


class Controls(ReadModel[ControlRow]):
    """The controls of every read model that was ever touched."""

    name = "projection_controls"
    table = "read.projection_controls"
    row = ControlRow
    key = ("projection",)
    listens = (
        Projection.Registered,
        Projection.Paused,
        Projection.Resumed,
        Projection.RebuildRequested,
        Projection.LetterRetried,
        Projection.LetterSkipped,
    )

    def keys(self, fact: Fact) -> Iterable[Key]:
        return (fact.event.name,)

    def evolve(self, row: ControlRow | None, fact: Fact, key: Key) -> ControlRow | None:
        row = row or ControlRow(key, paused=False, rebuild_at=0, retried_at={}, skipped=[])
        match fact.event:
            case Projection.Paused():
                return msgspec.structs.replace(row, paused=True)
            case Projection.Resumed():
                return msgspec.structs.replace(row, paused=False)
            case Projection.RebuildRequested():
                return msgspec.structs.replace(row, rebuild_at=fact.position)
            case Projection.LetterRetried(key=letter):
                return msgspec.structs.replace(row, retried_at=row.retried_at | {letter: fact.position})
            case Projection.LetterSkipped(key=letter, position=position):
                return msgspec.structs.replace(
                    row,
                    retried_at=row.retried_at | {letter: fact.position},
                    skipped=[*row.skipped, (position, letter)],
                )
        return row


READ_MODELS = (Controls(),)
