"""What operators did to a read model, with the reason: paused, rebuilt, retried, skipped."""

from uuid import UUID

from domain.kernel import Aggregate, Created, Refusal, derive, event

MAX_SKIPPED = 10_000
CONTROLS = "projection_controls"
"""The read model of these controls: through it the projector learns of all that operators ask."""


class ProjectionAlreadyPaused(Refusal):
    """A projection that is paused cannot be paused again."""


class ControlsNotPausable(Refusal):
    """The read model of the controls is never paused: nothing would resume it."""


class ProjectionNotPaused(Refusal):
    """Only a paused projection can be resumed."""


class LetterAlreadySkipped(Refusal):
    """A fact is left out of a row once and for good."""


class TooManySkippedLetters(Refusal):
    """So many skipped facts are a fault of the projection: correct it and rebuild."""


class Projection(Aggregate):
    """The controls of one read model. The projector obeys them; the log keeps who asked and why."""

    class Registered(Created):
        name: str

    class Paused(Aggregate.Event):
        name: str
        reason: str

    class Resumed(Aggregate.Event):
        name: str
        reason: str

    class RebuildRequested(Aggregate.Event):
        name: str
        reason: str

    class LetterRetried(Aggregate.Event):
        name: str
        key: str
        reason: str

    class LetterSkipped(Aggregate.Event):
        name: str
        key: str
        position: int
        reason: str

    @event(Registered)
    def __init__(self, name: str) -> None:
        self.name = name
        self.paused = False
        self.skipped: set[tuple[int, str]] = set()

    @staticmethod
    def create_id(name: str) -> UUID:
        return derive("monitoring.Projection", name)

    def pause(self, reason: str) -> None:
        if self.name == CONTROLS:
            raise ControlsNotPausable(self.name)
        if self.paused:
            raise ProjectionAlreadyPaused(self.name)
        self._paused(name=self.name, reason=reason)

    def resume(self, reason: str) -> None:
        if not self.paused:
            raise ProjectionNotPaused(self.name)
        self._resumed(name=self.name, reason=reason)

    def request_rebuild(self, reason: str) -> None:
        self._rebuild_requested(name=self.name, reason=reason)

    def retry_letter(self, key: str, reason: str) -> None:
        self._letter_retried(name=self.name, key=key, reason=reason)

    def skip_letter(self, key: str, position: int, reason: str) -> None:
        if (position, key) in self.skipped:
            raise LetterAlreadySkipped(f"{self.name}: fact {position} of row {key}")
        if len(self.skipped) >= MAX_SKIPPED:
            raise TooManySkippedLetters(f"{self.name}: {len(self.skipped)}")
        self._letter_skipped(name=self.name, key=key, position=position, reason=reason)

    @event(Paused)
    def _paused(self, name: str, reason: str) -> None:
        self.paused = True

    @event(Resumed)
    def _resumed(self, name: str, reason: str) -> None:
        self.paused = False

    @event(RebuildRequested)
    def _rebuild_requested(self, name: str, reason: str) -> None:
        """The projector does it."""

    @event(LetterRetried)
    def _letter_retried(self, name: str, key: str, reason: str) -> None:
        """The projector does it."""

    @event(LetterSkipped)
    def _letter_skipped(self, name: str, key: str, position: int, reason: str) -> None:
        self.skipped.add((position, key))
