"""Commands of the privacy context."""

from uuid import UUID

from domain.kernel import EventLog, Receipt, command

from .budgets import Budgets
from .subject import Subject


class PrivacyService(Budgets):
    """Keeps privacy budgets, and records that people are erased; the key of each is destroyed within seconds."""

    def __init__(self, log: EventLog) -> None:
        self.log = log

    @command
    def erase_subject(self, *, subject_id: UUID, reason: str) -> Receipt:
        """Erase a person: what is sealed under their key is never read again. Erasing again changes nothing.

        Args:
            reason: why, without personal data: it stays in the log.
        """
        erased = self.log.find(Subject, Subject.create_id(subject_id))
        return self.log.record(erased or Subject(subject=subject_id, reason=reason), id=subject_id)
