"""The workload of a contract: its jobs that are open, and how much of what was bought they may still use."""

from uuid import UUID

from domain.kernel import Aggregate, Created, Refusal, derive, event

MAX_OPEN, MAX_JOBS = 16, 1_000


class JobBeyondContract(Refusal):
    """All open jobs of a contract together may use what is left of it; at most 16 are open, and 1,000 in all."""


class Workload(Aggregate):
    """Admits jobs while what they may use fits into what is left of the contract."""

    class Opened(Created):
        contract_id: UUID

    class JobAdmitted(Aggregate.Event):
        job_id: UUID
        cpu_ms: int

    class JobLeft(Aggregate.Event):
        job_id: UUID

    @event(Opened)
    def __init__(self, contract_id: UUID) -> None:
        self.contract_id = contract_id
        self.open: dict[UUID, int] = {}
        self.jobs = 0

    @staticmethod
    def create_id(contract_id: UUID) -> UUID:
        return derive("marketplace.Workload", contract_id)

    def admit(self, job_id: UUID, cpu_ms: int, left_ms: int) -> None:
        """Take a job that may use `cpu_ms` of what is left of the contract. Raises JobBeyondContract."""
        promised = sum(self.open.values())
        if cpu_ms + promised > left_ms:
            raise JobBeyondContract(f"{cpu_ms} ms asked, {max(0, left_ms - promised)} left")
        if len(self.open) >= MAX_OPEN or self.jobs >= MAX_JOBS:
            raise JobBeyondContract(f"{len(self.open)} jobs are open, {self.jobs} were admitted")
        self._admitted(job_id=job_id, cpu_ms=cpu_ms)

    def leave(self, job_id: UUID) -> None:
        """A job is over; again changes nothing."""
        if job_id in self.open:
            self._left(job_id=job_id)

    @event(JobAdmitted)
    def _admitted(self, job_id: UUID, cpu_ms: int) -> None:
        self.open[job_id] = cpu_ms
        self.jobs += 1

    @event(JobLeft)
    def _left(self, job_id: UUID) -> None:
        del self.open[job_id]
