"""Read model of bursts: the same work on several devices at once."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from domain.kernel.fact import Fact
from domain.marketplace.burst import ALLOCATED, REFUSED, REQUESTED, Burst
from projections.rows import Key, ReadModel, Row


class BurstRow(Row, frozen=True):
    """A burst: requested, allocated on all its devices, or refused; its price in grains is for all of them."""

    burst_id: UUID
    customer_id: UUID
    nodes: list[dict[str, Any]]
    price_grains: int
    state: str
    reason: str
    requested_at: datetime
    decided_at: datetime | None
    position: int


class Bursts(ReadModel[BurstRow]):
    """Bursts by id. `position` is that of the request."""

    name = "bursts"
    table = "read.bursts"
    row = BurstRow
    key = ("burst_id",)
    folds_own_stream = True
    listens = (Burst.Requested, Burst.Allocated, Burst.Refused)
    begins = (Burst.Requested,)

    def keys(self, fact: Fact) -> Iterable[Key]:
        return (fact.stream,)

    def evolve(self, row: BurstRow | None, fact: Fact, key: Key) -> BurstRow | None:
        made: Any = fact.event
        if isinstance(made, Burst.Requested):
            return BurstRow(
                burst_id=made.burst_id,
                customer_id=made.customer_id,
                nodes=msgspec.to_builtins(made.nodes),
                price_grains=sum(node.price_grains for node in made.nodes),
                state=REQUESTED,
                reason="",
                requested_at=fact.recorded_at,
                decided_at=None,
                position=fact.position,
            )
        if row is None:
            return None
        state, reason = (ALLOCATED, "") if isinstance(made, Burst.Allocated) else (REFUSED, made.reason)
        return msgspec.structs.replace(row, state=state, reason=reason, decided_at=fact.recorded_at)
