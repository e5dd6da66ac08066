"""What the bodies of the marketplace share."""

from uuid import UUID

from pydantic import BaseModel, ConfigDict

from api.edge.commands import Body
from api.edge.principals import Principal


class Part(BaseModel):
    """A part of a body."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class NamedContract(Body):
    """A contract."""

    contract_id: UUID


class NamedJob(Body):
    """A job."""

    job_id: UUID


def owner_of(caller: Principal) -> UUID | None:
    """Whom a caller acts for; None is an operator, who may act for anybody."""
    return None if caller.role == "operator" else caller.owner
