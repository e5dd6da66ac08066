"""Who is erased, over GraphQL, for operators."""

from datetime import datetime
from uuid import UUID

import strawberry

from api.edge.graphql import AsOf, Connection, Info, Listing, Position, equals, require
from projections.privacy import SubjectRow, Subjects

from .budgets import BudgetQuery


@strawberry.type
class ErasedSubject:
    """A person who was erased: by whom, why and when."""

    subject_id: UUID
    reason: str
    actor: str
    erased_at: datetime
    position: Position

    @classmethod
    def of(cls, row: SubjectRow) -> "ErasedSubject":
        return cls(
            subject_id=row.subject_id,
            reason=row.reason,
            actor=row.actor,
            erased_at=row.erased_at,
            position=Position(row.position),
        )


SUBJECTS = Listing(Subjects(), ErasedSubject.of, order=("position",), descending=True, shared=True)


@strawberry.type
class Query(BudgetQuery):
    """Queries of privacy."""

    @strawberry.field
    async def erased_subjects(
        self,
        info: Info,
        first: int,
        after: str | None = None,
        at_least: Position | None = None,
        as_of: AsOf | None = None,
    ) -> Connection[ErasedSubject]:
        """Erased people, the newest first."""
        require(info, "operator")
        return await SUBJECTS.page(info, first, after, at_least, as_of=as_of)

    @strawberry.field
    async def erased_subject(
        self, info: Info, subject_id: UUID, at_least: Position | None = None, as_of: AsOf | None = None
    ) -> ErasedSubject | None:
        """The erasure of a person, null when there was none (by then)."""
        require(info, "operator")
        if as_of is not None:
            return await SUBJECTS.one_at(info, subject_id, as_of)
        return await SUBJECTS.one(info, *equals("subject_id", subject_id), at_least=at_least)
