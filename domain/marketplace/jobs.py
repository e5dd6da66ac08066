"""Job commands: submit, report, end and cancel. What a job uses is usage of its contract."""

from uuid import UUID

from domain.kernel import Receipt, command, scope

from . import states
from .contract import Contract
from .contracts import Contracts
from .delivery import deliverable_ms
from .job import Job, JobUnknown
from .work import JobSpec
from .workload import Workload


class Jobs(Contracts):
    """The part of the marketplace service that is about work under a contract."""

    @command
    def submit_job(self, *, job_id: UUID, contract_id: UUID, customer_id: UUID | None, spec: JobSpec) -> Receipt:
        """Give the device of an active contract work. None stands for an operator.

        Raises:
            ContractUnknown, WrongParty, WrongContractState, JobInvalid, JobBeyondContract, AlreadyExists.
        """
        contract = self._of("customer", contract_id, customer_id)
        contract.require_active()
        job = Job.submit(job_id, contract_id, contract.terms, spec)
        workload = self._workload(contract_id) or Workload(contract_id=contract_id)
        workload.admit(job_id, spec.limits.cpu_ms, contract.terms.duration_ms - contract.used_ms)
        return self.log.record(job, workload)

    @command
    def report_job_usage(self, *, job_id: UUID, device_id: UUID, cumulative_ms: int) -> Receipt:
        """What a job has used so far; answers whether it is still wanted. Refusals: JobUnknown, JobReportInvalid."""
        job, contract = self._job_of_device(job_id, device_id)
        self._use(job, contract, cumulative_ms)
        wanted = not job.ended and contract.status == states.ACTIVE
        return self.log.record(job, contract, wanted=wanted)

    @command
    def end_job(
        self,
        *,
        job_id: UUID,
        device_id: UUID,
        outcome: str,
        reason: str,
        cumulative_ms: int,
        wall_ms: int,
        result_hash: str | None,
    ) -> Receipt:
        """How a job ended, and what it has used in all. Refusals: JobUnknown, those of `Job.end`."""
        job, contract = self._job_of_device(job_id, device_id)
        workload = self.log.load(Workload, Workload.create_id(job.contract_id))
        self._use(job, contract, cumulative_ms)
        job.end(outcome, reason, wall_ms, result_hash)
        workload.leave(job_id)
        return self.log.record(job, contract, workload)

    @command
    def cancel_job(self, *, job_id: UUID, customer_id: UUID | None) -> Receipt:
        """Want no more of a job. Refusals: JobUnknown."""
        job = self._job(job_id)
        if customer_id not in (None, job.customer_id):
            raise JobUnknown(f"job {job_id}")
        workload = self.log.load(Workload, Workload.create_id(job.contract_id))
        job.cancel("not_wanted")
        workload.leave(job_id)
        return self.log.record(job, workload)

    @command
    def cancel_jobs(self, *, contract_id: UUID, reason: str) -> Receipt:
        """End every open job of a contract; where there is none it changes nothing."""
        workload = self._workload(contract_id)
        if workload is None:
            return self.log.record()
        jobs = [self._job(job_id) for job_id in workload.open]
        for job in jobs:
            job.cancel(reason)
            workload.leave(job.id)
        return self.log.record(*jobs, workload)

    def job_is_due(self, *, job_id: UUID) -> bool:
        """Whether a job is still to be done, and by a device that may work, by the log. Raises JobUnknown."""
        job = self._job(job_id)
        return not job.ended and not self.device_rests(device_id=job.device_id)

    def _use(self, job: Job, contract: Contract, cumulative_ms: int) -> None:
        """Usage of a job is usage of its contract, as far as so much can have been delivered."""
        used_ms = contract.used_ms + job.progress(cumulative_ms)
        if contract.status in (states.ACTIVE, *states.ENDED):
            now = scope().now
            contract.report_usage(min(used_ms, deliverable_ms(contract, now)), now)

    def _job_of_device(self, job_id: UUID, device_id: UUID) -> tuple[Job, Contract]:
        job = self._job(job_id)
        if job.device_id != device_id:
            raise JobUnknown(f"job {job_id} of device {device_id}")
        return job, self._contract(job.contract_id)

    def _job(self, job_id: UUID) -> Job:
        found = self.log.find(Job, job_id)
        if found is None:
            raise JobUnknown(f"job {job_id}")
        return found

    def _workload(self, contract_id: UUID) -> Workload | None:
        return self.log.find(Workload, Workload.create_id(contract_id))
