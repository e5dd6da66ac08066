"""What runs where, and how this process is, over GraphQL. For operators."""

import msgspec
import strawberry

from api.edge.graphql import Info, require
from api.edge.health import checks
from domain.kernel import Refusal
from infrastructure.discovery import Instance, asked


class BusUnreachable(Refusal):
    """Services are found over the bus, and it does not answer."""

    status = 503


@strawberry.type
class Service:
    """One process that answers on the bus: `startedAt` is RFC 3339, `url` where it serves."""

    service: str
    id: str
    version: str
    host: str
    pid: int
    started_at: str
    url: str

    @classmethod
    def of(cls, found: Instance) -> "Service":
        return cls(**msgspec.structs.asdict(found))


@strawberry.type
class HealthCheck:
    """Something the API needs, whether it is well, and how long the look took."""

    name: str
    ok: bool
    ms: float


@strawberry.type
class ServiceQuery:
    """Queries of services."""

    @strawberry.field
    async def services(self, info: Info) -> list[Service]:
        """Every process that answers on the bus within half a second; none where there is no bus."""
        require(info, "operator")
        bus = info.context.ctx.settings.nats_url
        if bus is None:
            return []
        try:
            return [Service.of(found) for found in await asked(bus.get_secret_value())]
        except ConnectionError as error:
            raise BusUnreachable(str(error)) from error

    @strawberry.field
    async def health(self, info: Info) -> list[HealthCheck]:
        """What `/readyz` looks at."""
        require(info, "operator")
        return [HealthCheck(name=one["name"], ok=one["ok"], ms=one["ms"]) for one in await checks(info.context.ctx)]
