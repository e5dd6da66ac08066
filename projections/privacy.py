"""Who has been erased, as it is read."""

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from domain.kernel.fact import Fact
from domain.privacy.subject import Subject
from projections.privacy_budgets import PrivacyBudgets
from projections.rows import Key, ReadModel, Row

KEYS_DUE = (
    "FROM read.subjects AS s WHERE NOT EXISTS"
    " (SELECT FROM edge.subject_keys AS k WHERE k.subject = s.subject_id AND k.erased_at IS NOT NULL)"
)
"""Those who are erased and whose keys are not destroyed yet."""


class SubjectRow(Row, frozen=True):
    """A person who was erased: by whom and why."""

    subject_id: UUID
    reason: str
    actor: str
    erased_at: datetime
    position: int


class Subjects(ReadModel[SubjectRow]):
    """Erased subjects by id."""

    name = "subjects"
    table = "read.subjects"
    row = SubjectRow
    key = ("subject_id",)
    listens = (Subject.Erased,)

    def keys(self, fact: Fact) -> Iterable[Key]:
        return (fact.event.subject,)

    def streams_of(self, key: Key) -> tuple[UUID]:
        return (Subject.create_id(key),)

    def evolve(self, row: SubjectRow | None, fact: Fact, key: Key) -> SubjectRow | None:
        return SubjectRow(key, fact.event.reason, fact.actor, fact.recorded_at, fact.position)


READ_MODELS = (Subjects(), PrivacyBudgets())
