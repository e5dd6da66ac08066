"""Commands of the monitoring context: the operator's hand on the read models, audited."""

from collections.abc import Callable, Collection

from domain.kernel import EventLog, NotFound, Receipt, command

from .projection import Projection


class ProjectionUnknown(NotFound):
    """No read model of this village has this name."""


class MonitoringService:
    """Records what operators ask of the read models; the projector follows within a second."""

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

    def _control(self, name: str, decide: Callable[[Projection], None]) -> Receipt:
        if name not in self._projections:
            raise ProjectionUnknown(name)
        projection = self.log.find(Projection, Projection.create_id(name)) or Projection(name=name)
        decide(projection)
        return self.log.record(projection)
