"""Privacy budgets as they are read, and whose are exhausted."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from msgspec.structs import replace

from domain.kernel.fact import Fact
from domain.privacy.budget import PrivacyBudget
from infrastructure.database import Database

from .rows import Key, ReadModel, Row

OPEN, EXHAUSTED = "open", "exhausted"

_EXHAUSTED = """
SELECT subject_id FROM read.privacy_budgets
WHERE purpose = %s AND (state = 'exhausted' OR remaining_micro < %s) AND subject_id = ANY(%s)
"""


class BudgetRow(Row, frozen=True):
    """A budget in millionths of epsilon at a delta in trillionths; remaining is granted less reserved and spent."""

    budget_id: UUID
    subject_id: UUID
    purpose: str
    delta_pico: int
    granted_micro: int
    reserved_micro: int
    spent_micro: int
    remaining_micro: int
    state: str
    granted_at: datetime
    position: int


class PrivacyBudgets(ReadModel[BudgetRow]):
    """Privacy budgets by id."""

    name = "privacy_budgets"
    table = "read.privacy_budgets"
    row = BudgetRow
    key = ("budget_id",)
    folds_own_stream = True
    listens = (
        PrivacyBudget.Granted,
        PrivacyBudget.Raised,
        PrivacyBudget.Reserved,
        PrivacyBudget.Committed,
        PrivacyBudget.Released,
        PrivacyBudget.Exhausted,
    )
    begins = (PrivacyBudget.Granted,)

    def keys(self, fact: Fact) -> Iterable[Key]:
        return (fact.stream,)

    def evolve(self, row: BudgetRow | None, fact: Fact, key: Key) -> BudgetRow | None:
        made: Any = fact.event
        if isinstance(made, PrivacyBudget.Granted):
            amount = made.epsilon_micro
            return BudgetRow(
                budget_id=key,
                subject_id=made.subject_id,
                purpose=made.purpose,
                delta_pico=made.delta_pico,
                granted_micro=amount,
                reserved_micro=0,
                spent_micro=0,
                remaining_micro=amount,
                state=OPEN,
                granted_at=fact.recorded_at,
                position=fact.position,
            )
        if row is None:
            return None
        match made:
            case PrivacyBudget.Raised(epsilon_micro=amount):
                return _moved(replace(row, state=OPEN), fact, granted=amount)
            case PrivacyBudget.Reserved(epsilon_micro=amount):
                return _moved(row, fact, reserved=amount)
            case PrivacyBudget.Committed(epsilon_micro=amount, released=released):
                return _moved(row, fact, reserved=-amount - released, spent=amount)
            case PrivacyBudget.Released(epsilon_micro=amount):
                return _moved(row, fact, reserved=-amount)
        return replace(row, state=EXHAUSTED, position=fact.position)


class ExhaustedBudgets:
    """Answers who has less than this many millionths left to give for a purpose."""

    def __init__(self, database: Database, epsilon_micro: int = 0) -> None:
        self._database = database
        self._epsilon_micro = epsilon_micro

    def among(self, subject_ids: Sequence[UUID], purpose: str) -> set[UUID]:
        """Those of these devices and people whose budget is exhausted, or does not give so much."""
        asked = (purpose, self._epsilon_micro, list(subject_ids))
        with self._database.reader.connection() as connection:
            return {subject_id for (subject_id,) in connection.execute(_EXHAUSTED, asked)}


def _moved(row: BudgetRow, fact: Fact, *, granted: int = 0, reserved: int = 0, spent: int = 0) -> BudgetRow:
    granted, reserved, spent = row.granted_micro + granted, row.reserved_micro + reserved, row.spent_micro + spent
    return replace(
        row,
        granted_micro=granted,
        reserved_micro=reserved,
        spent_micro=spent,
        remaining_micro=granted - reserved - spent,
        position=fact.position,
    )
