"""A subject: a person whom personal text is about. Its stream begins, and ends, with its erasure."""

from uuid import UUID

from domain.kernel import Aggregate, Created, derive, event


class Subject(Aggregate):
    """Erased for good. The key is not here: who reads this fact destroys it (workers/subject_eraser.py)."""

    class Erased(Created):
        subject: UUID
        reason: str

    @event(Erased)
    def __init__(self, subject: UUID, reason: str) -> None:
        self.subject = subject
        self.reason = reason

    @staticmethod
    def create_id(subject: UUID) -> UUID:
        return derive("privacy.Subject", subject)
