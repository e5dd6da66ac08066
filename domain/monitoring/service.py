"""Commands of the monitoring context: the operator's hand on the read models, and incidents; all audited."""

from collections.abc import Callable, Collection
from typing import Protocol
from uuid import UUID

from domain.kernel import EventLog, NotFound, Receipt, command

from .incident import Incident, incident_id_of
from .projection import Projection


class ProjectionUnknown(NotFound):
    """No read model of this village has this name."""


class LetterUnknown(NotFound):
    """No such fact of this row is set aside."""


class SetAside(Protocol):
    """Dead letters: where the facts are that a read model has set aside for one row."""

    def __call__(self, name: str, key: str) -> Collection[int]: ...


class IncidentUnknown(NotFound):
    """No incident has this id."""


class MonitoringService:
    """Records what operators ask of the read models (the projector follows within a second), and incidents."""

    def __init__(self, log: EventLog, projections: Collection[str], letters: SetAside | None = None) -> None:
        self.log = log
        self._letters = letters
        self._projections = frozenset(projections)

    @command
    def pause_projection(self, *, name: str, reason: str) -> Receipt:
        """Stop folding facts into a read model; reads go on with what is there.

        Raises:
            ProjectionUnknown, ProjectionAlreadyPaused, ControlsNotPausable.
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
            ProjectionUnknown, LetterUnknown.
        """

        def decide(projection: Projection) -> None:
            self._check_letter(name, key)
            projection.retry_letter(key, reason)

        return self._control(name, decide)

    @command
    def skip_letter(self, *, name: str, key: str, position: int, reason: str) -> Receipt:
        """Leave one fact out of one row for good (rebuilds too), and fold those behind it.

        Raises:
            ProjectionUnknown, LetterUnknown, LetterAlreadySkipped, TooManySkippedLetters.
        """

        def decide(projection: Projection) -> None:
            projection.skip_letter(key, position, reason)
            self._check_letter(name, key, position)

        return self._control(name, decide)

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

    def _check_letter(self, name: str, key: str, position: int | None = None) -> None:
        found = None if self._letters is None else self._letters(name, key)
        if found is not None and (position not in found if position is not None else not found):
            raise LetterUnknown(f"{name}: row {key}" if position is None else f"{name}: fact {position} of row {key}")

    def _control(self, name: str, decide: Callable[[Projection], None]) -> Receipt:
        if name not in self._projections:
            raise ProjectionUnknown(name)
        projection = self.log.find(Projection, Projection.create_id(name)) or Projection(name=name)
        decide(projection)
        return self.log.record(projection)
