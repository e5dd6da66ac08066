"""Bursts over GraphQL, for their customer and operators."""

from datetime import datetime
from uuid import UUID

import msgspec
import strawberry

from api.edge.graphql import AsOf, Condition, Connection, Grains, Info, Listing, Position, equals, require
from projections.marketplace import BurstRow, Bursts


@strawberry.type
class BurstNode:
    """One device of a burst and the contract over it; its price in grains."""

    contract_id: UUID
    offering_id: UUID
    device_id: UUID
    provider_id: UUID
    price_grains: Grains


@strawberry.type
class Burst:
    """The same work on several devices: requested, allocated on all of them, or refused for a reason."""

    burst_id: UUID
    customer_id: UUID
    nodes: list[BurstNode]
    price_grains: Grains
    state: str
    reason: str
    requested_at: datetime
    decided_at: datetime | None
    position: Position

    @classmethod
    def of(cls, row: BurstRow) -> "Burst":
        return cls(**msgspec.structs.asdict(row) | {"nodes": [_node(node) for node in row.nodes]})


def _node(node: dict[str, object]) -> BurstNode:
    ids = {name: UUID(str(value)) for name, value in node.items() if name.endswith("_id")}
    return BurstNode(**ids, price_grains=Grains(int(str(node["price_grains"]))))


BURSTS = Listing(Bursts(), Burst.of, order=("position",), descending=True, shared=True)


@strawberry.type
class BurstQuery:
    """Queries of bursts."""

    @strawberry.field
    async def bursts(
        self,
        info: Info,
        first: int,
        after: str | None = None,
        state: str | None = None,
        at_least: Position | None = None,
        as_of: AsOf | None = None,
    ) -> Connection[Burst]:
        """Bursts from the newest back; members see their own."""
        return await BURSTS.page(info, first, after, at_least, *_own(info), *equals("state", state), as_of=as_of)

    @strawberry.field
    async def burst(
        self, info: Info, burst_id: UUID, at_least: Position | None = None, as_of: AsOf | None = None
    ) -> Burst | None:
        """A burst, as it is or as it was; null when there is none of one's own."""
        if as_of is not None:
            return await BURSTS.one_at(info, burst_id, as_of, *_own(info))
        return await BURSTS.one(info, *_own(info), *equals("burst_id", burst_id), at_least=at_least)


def _own(info: Info) -> list[Condition]:
    principal = require(info, "operator", "member")
    return [] if principal.role == "operator" else equals("customer_id", principal.owner)
