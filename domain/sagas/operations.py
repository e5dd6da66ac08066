"""The operator's hand on sagas: a parked process is retried, compensated or abandoned, with a reason."""

from collections.abc import Iterable
from uuid import UUID

from domain.kernel import Aggregate, AggregateNotFound, EventLog, NotFound, Receipt, command

from .plan import Plan
from .process import Process
from .reward_training import RewardTraining


class PlanUnknown(NotFound):
    """A process is resolved by a village that knows its plan."""


class SagaOperations:
    """Commands of operators over processes of these plans and over rewards of rounds; the saga runner goes on then."""

    def __init__(self, log: EventLog, plans: Iterable[Plan] = ()) -> None:
        self.log = log
        self.plans = tuple(plans)

    @command
    def resolve_process(self, *, process_id: UUID, action: str, reason: str) -> Receipt:
        """Decide over a parked process.

        Args:
            action: `retry` the step that failed, `compensate` what was done, `skip` the step that cannot be taken back,
                or `abandon` it as it is.

        Raises:
            AggregateNotFound, PlanUnknown, ProcessNotParked, ActionUnknown, NothingToSkip, PivotPassed.
        """
        found = self.log.load(Aggregate, process_id)
        match found:
            case Process():
                found.resolve(action, reason, pivot_passed=self._plan(found.plan).pivot_passed(found))
            case RewardTraining():
                found.resolve(action, reason)
            case _:
                raise AggregateNotFound(f"no process {process_id}")
        return self.log.record(found)

    def _plan(self, name: str) -> Plan:
        for plan in self.plans:
            if plan.name == name:
                return plan
        raise PlanUnknown(name)
