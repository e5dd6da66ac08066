"""Commands of the monitoring context: the operator's hand on the read models, and incidents; all audited."""

from collections.abc import Callable, Collection
from uuid import UUID

from domain.kernel import EventLog, NotFound, Receipt, command

from .incident import Incident, incident_id_of
from .projection import Projection


class ProjectionUnknown(NotFound):
    """No read model of this village has this name."""


class IncidentUnknown(NotFound):
    """No incident has this id."""


class MonitoringService:
    """Records what operators ask of the read models (the projector follows within a second), and incidents."""

    def __init__(self, log: EventLog, projections: Collection[str]) -> None:
        self.log = log
        self._projections = frozenset(projections)

    @command
    def pause_projection(self, *, name: str, reason: str) -> Receipt:
        """Stop folding facts into a read model; reads go on with what is there.

        Raises:
            ProjectionUnknown, ProjectionAlreadyPaused.
        """
        return self._control(name, lambda projection: projection.pause(reason))

    @command
    def resume_projection(self, *, name: str, reason: str) -> Receipt:
        """Go on folding.

        Raises:
            ProjectionUnknown, ProjectionNotPaused.
        """
        return self._control(name, lambda projection: projection.resume(reason))

    @command
    def rebuild_projection(self, *, name: str, reason: str) -> Receipt:
        """Fold a read model anew beside the live one and swap them when it has caught up.

        Raises:
            ProjectionUnknown.
        """
        return self._control(name, lambda projection: projection.request_rebuild(reason))

    @command
    def retry_letter(self, *, name: str, key: str, reason: str) -> Receipt:
        """Fold the held-back facts of one row again, the failed one first.

        Raises:
            ProjectionUnknown.
        """
        return self._control(name, lambda projection: projection.retry_letter(key, reason))

    @command
    def skip_letter(self, *, name: str, key: str, position: int, reason: str) -> Receipt:
        """Leave one fact out of one row for good (rebuilds too), and fold those behind it.

        Raises:
            ProjectionUnknown, LetterAlreadySkipped, TooManySkippedLetters.
        """
        return self._control(name, lambda projection: projection.skip_letter(key, position, reason))

    @command
    def open_incident(
        self, *, rule: str, subject: str, number: int, severity: str, summary: str, value: float, limit: float
    ) -> Receipt:
        """Open the `number`th incident of a subject by a rule; opening it again changes nothing.

        Raises:
            AlreadyExists: only when two writers race for it; it is open.
        """
        incident_id = incident_id_of(rule, subject, number)
        if (held := self.log.find(Incident, incident_id)) is not None:
            return self.log.record(held)
        opened = Incident(
            incident_id=incident_id,
            rule=rule,
            subject=subject,
            number=number,
            severity=severity,
            summary=summary,
            value=value,
            limit=limit,
        )
        return self.log.record(opened)

    @command
    def acknowledge_incident(self, *, incident_id: UUID, note: str) -> Receipt:
        """Say that somebody looks after it.

        Raises:
            IncidentUnknown, IncidentAlreadyAcknowledged, IncidentResolved.
        """
        return self._of_incident(incident_id, lambda incident: incident.acknowledge(note))

    @command
    def resolve_incident(self, *, incident_id: UUID, reason: str) -> Receipt:
        """Say that it is over, and why. While its cause stands, its rule opens the next one.

        Raises:
            IncidentUnknown, IncidentResolved.
        """
        return self._of_incident(incident_id, lambda incident: incident.resolve(reason))

    def _of_incident(self, incident_id: UUID, decide: Callable[[Incident], None]) -> Receipt:
        incident = self.log.find(Incident, incident_id)
        if incident is None:
            raise IncidentUnknown(str(incident_id))
        decide(incident)
        return self.log.record(incident)

    def _control(self, name: str, decide: Callable[[Projection], None]) -> Receipt:
        if name not in self._projections:
            raise ProjectionUnknown(name)
        projection = self.log.find(Projection, Projection.create_id(name)) or Projection(name=name)
        decide(projection)
        return self.log.record(projection)
