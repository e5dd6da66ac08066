"""Read models of monitoring: the operators' controls, which the projector itself obeys, and incidents."""

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

import msgspec

from domain.kernel.fact import Fact
from domain.monitoring import incident as states
from domain.monitoring.incident import Incident
from domain.monitoring.projection import CONTROLS, Projection

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

    name = CONTROLS
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


class IncidentRow(Row, frozen=True):
    """An incident: opened, acknowledged or resolved; by whom and why is empty until it is so."""

    incident_id: UUID
    rule: str
    subject: str
    number: int
    severity: str
    state: str
    summary: str
    value: float
    limit_value: float
    opened_at: datetime
    acknowledged_at: datetime | None
    acknowledged_by: str
    note: str
    resolved_at: datetime | None
    resolved_by: str
    reason: str
    position: int


class Incidents(ReadModel[IncidentRow]):
    """Incidents by id. `position` is that of the opening."""

    name = "incidents"
    table = "read.incidents"
    row = IncidentRow
    key = ("incident_id",)
    folds_own_stream = True
    listens = (Incident.Opened, Incident.Acknowledged, Incident.Resolved)
    begins = (Incident.Opened,)

    def keys(self, fact: Fact) -> Iterable[Key]:
        return (fact.stream,)

    def evolve(self, row: IncidentRow | None, fact: Fact, key: Key) -> IncidentRow | None:
        if isinstance(fact.event, Incident.Opened):
            return _opened(fact.event, fact)
        if row is None:
            return None
        if isinstance(fact.event, Incident.Acknowledged):
            return msgspec.structs.replace(
                row,
                state=states.ACKNOWLEDGED,
                acknowledged_at=fact.recorded_at,
                acknowledged_by=fact.actor,
                note=fact.event.note,
            )
        return msgspec.structs.replace(
            row,
            state=states.RESOLVED,
            resolved_at=fact.recorded_at,
            resolved_by=fact.actor,
            reason=fact.event.reason,
        )


def _opened(opened: Incident.Opened, fact: Fact) -> IncidentRow:
    return IncidentRow(
        incident_id=opened.incident_id,
        rule=opened.rule,
        subject=opened.subject,
        number=opened.number,
        severity=opened.severity,
        state=states.OPENED,
        summary=opened.summary,
        value=opened.value,
        limit_value=opened.limit,
        opened_at=fact.recorded_at,
        acknowledged_at=None,
        acknowledged_by="",
        note="",
        resolved_at=None,
        resolved_by="",
        reason="",
        position=fact.position,
    )


READ_MODELS = (Controls(), Incidents())
