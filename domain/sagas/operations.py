"""The operator's hand on sagas: a parked process is retried, compensated or abandoned, with a reason."""

from collections.abc import Iterable
from uuid import UUID

from domain.kernel import EventLog, NotFound, Receipt, command

from .plan import Plan
from .process import Process


class PlanUnknown(NotFound):
    """A process is resolved by a village that knows its plan."""


class SagaOperations:
    """Commands of operators over processes of these plans; the saga runner goes on from there."""

    def __init__(self, log: EventLog, plans: Iterable[Plan] = ()) -> None:
        self.log = log
        self.plans = tuple(plans)

    @command
    def resolve_process(self, *, process_id: UUID, action: str, reason: str) -> Receipt:
        """Decide over a parked process.

        Args:
            action: `retry` the step that failed, `compensate` what was done, or `abandon` it as it is.

        Raises:
            AggregateNotFound, PlanUnknown, ProcessNotParked, ActionUnknown, PivotPassed.
        """
        process = self.log.load(Process, process_id)
        plan = next((plan for plan in self.plans if plan.name == process.plan), None)
        if plan is None:
            raise PlanUnknown(process.plan)
        process.resolve(action, reason, pivot_passed=plan.pivot_passed(process))
        return self.log.record(process)
