"""Commands on privacy budgets: grant, reserve, commit, release, exhaust."""

from uuid import UUID

from domain.kernel import EventLog, Receipt, command

from .budget import BudgetReservation, BudgetReservationEnded, PrivacyBudget, PrivacyBudgetUnknown


class Budgets:
    """The part of the privacy service that keeps budgets. Amounts are millionths of epsilon."""

    log: EventLog

    @command
    def grant_budget(self, *, subject_id: UUID, purpose: str, epsilon_micro: int, delta_pico: int) -> Receipt:
        """Give a device or a person a budget for a purpose, or raise the one it has.

        Raises:
            EpsilonInvalid, DeltaInvalid, DeltaDiffers.
        """
        budget = self.log.find(PrivacyBudget, PrivacyBudget.create_id(subject_id, purpose))
        if budget is None:
            budget = PrivacyBudget.grant(
                subject_id=subject_id, purpose=purpose, epsilon_micro=epsilon_micro, delta_pico=delta_pico
            )
        else:
            budget.raise_by(epsilon_micro, delta_pico)
        return self.log.record(budget)

    @command
    def reserve_budget(self, *, subject_id: UUID, purpose: str, reservation_id: UUID, epsilon_micro: int) -> Receipt:
        """Keep an amount back, before anything is released. Raises what `PrivacyBudget.reserve` does, and
        PrivacyBudgetUnknown."""
        budget = self._budget(subject_id, purpose)
        budget.reserve(reservation_id, epsilon_micro)
        name = BudgetReservation(budget_id=budget.id, reservation_id=reservation_id)
        if self.log.find(BudgetReservation, name.id, new=True) is not None:
            raise BudgetReservationEnded(f"reservation {reservation_id}")
        return self.log.record(budget, name, remaining_micro=budget.remaining)

    @command
    def commit_budget(self, *, subject_id: UUID, purpose: str, reservation_id: UUID, epsilon_micro: int) -> Receipt:
        """Spend of a reservation, for good. Raises what `PrivacyBudget.commit` does, and PrivacyBudgetUnknown."""
        budget = self._budget(subject_id, purpose)
        budget.commit(reservation_id, epsilon_micro)
        return self.log.record(budget, remaining_micro=budget.remaining)

    @command
    def release_budget(self, *, subject_id: UUID, purpose: str, reservation_id: UUID) -> Receipt:
        """End a reservation of which nothing was spent.

        Raises:
            PrivacyBudgetUnknown, BudgetReservationUnknown, BudgetReservationEnded.
        """
        budget = self._budget(subject_id, purpose)
        budget.release(reservation_id)
        return self.log.record(budget, remaining_micro=budget.remaining)

    @command
    def exhaust_budget(self, *, subject_id: UUID, purpose: str) -> Receipt:
        """Give up what remains: the subject takes part no more, until more is granted. Raises PrivacyBudgetUnknown."""
        budget = self._budget(subject_id, purpose)
        budget.exhaust()
        return self.log.record(budget)

    def _budget(self, subject_id: UUID, purpose: str) -> PrivacyBudget:
        budget = self.log.find(PrivacyBudget, PrivacyBudget.create_id(subject_id, purpose))
        if budget is None:
            raise PrivacyBudgetUnknown(f"{subject_id} has no budget for {purpose[:40]!r}")
        return budget
