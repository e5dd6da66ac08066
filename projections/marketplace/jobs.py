"""Read model of jobs: the work under contracts."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from domain.kernel.fact import Fact
from domain.marketplace.job import OPEN, Job
from projections.rows import Key, ReadModel, Row


class JobRow(Row, frozen=True):
    """A job: open, succeeded, failed or cancelled; times in ms. `result_hash` names the blob of its result."""

    job_id: UUID
    contract_id: UUID
    device_id: UUID
    provider_id: UUID
    customer_id: UUID
    spec: dict[str, Any]
    state: str
    reason: str
    used_ms: int
    wall_ms: int
    result_hash: str | None
    deadline_at: datetime
    submitted_at: datetime
    ended_at: datetime | None
    position: int


class Jobs(ReadModel[JobRow]):
    """Jobs by id. `position` is that of the submission."""

    name = "jobs"
    table = "read.jobs"
    row = JobRow
    key = ("job_id",)
    folds_own_stream = True
    listens = (Job.Submitted, Job.Progressed, Job.Ended)
    begins = (Job.Submitted,)

    def keys(self, fact: Fact) -> Iterable[Key]:
        return (fact.stream,)

    def evolve(self, row: JobRow | None, fact: Fact, key: Key) -> JobRow | None:
        made: Any = fact.event
        if isinstance(made, Job.Submitted):
            return _submitted(made, fact)
        if row is None:
            return None
        if isinstance(made, Job.Progressed):
            return msgspec.structs.replace(row, used_ms=made.used_ms)
        return msgspec.structs.replace(
            row,
            state=made.outcome,
            reason=made.reason,
            wall_ms=made.wall_ms,
            result_hash=made.result_hash,
            ended_at=fact.recorded_at,
        )


def _submitted(made: Job.Submitted, fact: Fact) -> JobRow:
    return JobRow(
        job_id=made.job_id,
        contract_id=made.contract_id,
        device_id=made.device_id,
        provider_id=made.provider_id,
        customer_id=made.customer_id,
        spec=msgspec.to_builtins(made.spec),
        state=OPEN,
        reason="",
        used_ms=0,
        wall_ms=0,
        result_hash=None,
        deadline_at=made.deadline_at,
        submitted_at=fact.recorded_at,
        ended_at=None,
        position=fact.position,
    )
