"""Jobs over GraphQL, for the parties of their contract and operators."""

from datetime import datetime
from uuid import UUID

import msgspec
import strawberry

from api.edge.graphql import AsOf, Connection, Info, Listing, Milliseconds, Position, equals
from projections.marketplace import JobRow, Jobs

from .parties import parties


@strawberry.type
class JobParameter:
    """A parameter of a job, or the SHA-256 of an input."""

    name: str
    value: str


@strawberry.type
class Job:
    """Work under a contract: open, succeeded, failed or cancelled. Limits and times in ms, memory in MiB."""

    job_id: UUID
    contract_id: UUID
    device_id: UUID
    provider_id: UUID
    customer_id: UUID
    job_type: str
    parameters: list[JobParameter]
    inputs: list[JobParameter]
    cpu_limit_ms: Milliseconds
    wall_limit_ms: Milliseconds
    memory_limit_mb: int
    state: str
    reason: str
    used_ms: Milliseconds
    wall_ms: Milliseconds
    result_hash: str | None
    deadline_at: datetime
    submitted_at: datetime
    ended_at: datetime | None
    position: Position

    @classmethod
    def of(cls, row: JobRow) -> "Job":
        fields = msgspec.structs.asdict(row)
        spec = fields.pop("spec")
        return cls(
            **fields,
            job_type=spec["job_type"],
            parameters=_named(spec["parameters"]),
            inputs=_named(spec["inputs"]),
            cpu_limit_ms=Milliseconds(spec["limits"]["cpu_ms"]),
            wall_limit_ms=Milliseconds(spec["limits"]["wall_ms"]),
            memory_limit_mb=spec["limits"]["memory_mb"],
        )


JOBS = Listing(Jobs(), Job.of, order=("position",), descending=True, shared=True)


@strawberry.type
class JobQuery:
    """Queries of jobs."""

    @strawberry.field
    async def jobs(
        self,
        info: Info,
        first: int,
        after: str | None = None,
        contract_id: UUID | None = None,
        device_id: UUID | None = None,
        state: str | None = None,
        at_least: Position | None = None,
        as_of: AsOf | None = None,
    ) -> Connection[Job]:
        """Jobs from the newest back; members see those they provide or pay."""
        conditions = [
            *parties(info), *equals("contract_id", contract_id), *equals("device_id", device_id),
            *equals("state", state),
        ]  # fmt: skip
        return await JOBS.page(info, first, after, at_least, *conditions, as_of=as_of)

    @strawberry.field
    async def job(
        self, info: Info, job_id: UUID, at_least: Position | None = None, as_of: AsOf | None = None
    ) -> Job | None:
        """A job, as it is or as it was; null when there is none that one is a party of."""
        if as_of is not None:
            return await JOBS.one_at(info, job_id, as_of, *parties(info))
        return await JOBS.one(info, *parties(info), *equals("job_id", job_id), at_least=at_least)


def _named(values: dict[str, object]) -> list[JobParameter]:
    return [JobParameter(name=name, value=str(value)) for name, value in values.items()]
