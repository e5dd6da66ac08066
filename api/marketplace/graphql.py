"""The marketplace over GraphQL: offerings for everybody, contracts for their parties and operators."""

from datetime import datetime
from uuid import UUID

import msgspec
import strawberry

from api.edge.graphql import (
    AsOf,
    Connection,
    Grains,
    Info,
    Listing,
    Milliseconds,
    Position,
    equals,
)
from projections.marketplace import ContractRow, Contracts, OfferingRow, Offerings

from .bursts_graphql import BurstQuery
from .jobs_graphql import JobQuery
from .matches_graphql import MatchQuery
from .parties import parties


@strawberry.type
class Sla:
    """What is promised; times in ms, shares in basis points."""

    uptime_bp: int
    p95_ms: Milliseconds
    max_interrupts_per_h: int
    window_ms: Milliseconds
    penalty_bp: int

    @classmethod
    def of(cls, sla: dict[str, int]) -> "Sla":
        return cls(
            uptime_bp=sla["uptime_bp"],
            p95_ms=Milliseconds(sla["p95_ms"]),
            max_interrupts_per_h=sla["max_interrupts_per_h"],
            window_ms=Milliseconds(sla["window_ms"]),
            penalty_bp=sla["penalty_bp"],
        )


@strawberry.type
class Offering:
    """What a provider sells of a device: `reserved` of `capacity` units are taken. Open or withdrawn.

    With `harvestPolicy` the device rests when its harvest policy says so, and that time is no failure.
    """

    offering_id: UUID
    provider_id: UUID
    device_id: UUID
    service_type: str
    region: str
    ram_mb: int
    cpu_cores: int
    compute_score: int
    capacity: int
    reserved: int
    price_grains_per_hour: Grains
    sla: Sla
    state: str
    valid_until: datetime
    published_at: datetime
    position: Position
    harvest_policy: bool

    @classmethod
    def of(cls, row: OfferingRow) -> "Offering":
        return cls(**msgspec.structs.asdict(row) | {"sla": Sla.of(row.sla)})


@strawberry.type
class Contract:
    """A contract: proposed, reserved, active, completed, breached, cancelled, expired, handed_off, settled.

    Amounts in grains. `handedTo` is the contract that goes on with it.
    """

    contract_id: UUID
    offering_id: UUID
    device_id: UUID
    service_type: str
    provider_id: UUID
    customer_id: UUID
    units: int
    duration_ms: Milliseconds
    price_grains_per_hour: Grains
    agreed_price: Grains
    sla: Sla
    state: str
    outcome: str | None
    reason: str
    disputed: bool
    used_ms: Milliseconds
    windows: int
    credit_grains: Grains
    charged_grains: Grains
    fee_grains: Grains
    penalty_grains: Grains
    provider_grains: Grains
    released_grains: Grains
    hold_id: UUID | None
    transfer_id: UUID | None
    proposed_at: datetime
    deadline_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    settled_at: datetime | None
    position: Position
    request_id: UUID | None
    handed_to: UUID | None

    @classmethod
    def of(cls, row: ContractRow) -> "Contract":
        return cls(**msgspec.structs.asdict(row) | {"sla": Sla.of(row.sla)})


OFFERINGS = Listing(Offerings(), Offering.of, order=("position",), descending=True, shared=True)
CONTRACTS = Listing(Contracts(), Contract.of, order=("position",), descending=True, shared=True)
"""Shared, because two columns say whose it is: `parties` is a condition of every query."""


@strawberry.type
class Query(JobQuery, BurstQuery, MatchQuery):
    """Queries of the marketplace."""

    @strawberry.field
    async def offerings(
        self,
        info: Info,
        first: int,
        after: str | None = None,
        service_type: str | None = None,
        region: str | None = None,
        provider_id: UUID | None = None,
        state: str | None = None,
        at_least: Position | None = None,
        as_of: AsOf | None = None,
    ) -> Connection[Offering]:
        """Offerings from the newest back, of a service, in a region, of a provider, open or withdrawn."""
        conditions = [
            *equals("service_type", service_type), *equals("region", region), *equals("provider_id", provider_id),
            *equals("state", state),
        ]  # fmt: skip
        return await OFFERINGS.page(info, first, after, at_least, *conditions, as_of=as_of)

    @strawberry.field
    async def offering(
        self, info: Info, offering_id: UUID, at_least: Position | None = None, as_of: AsOf | None = None
    ) -> Offering | None:
        """An offering, as it is or as it was."""
        if as_of is not None:
            return await OFFERINGS.one_at(info, offering_id, as_of)
        return await OFFERINGS.one(info, *equals("offering_id", offering_id), at_least=at_least)

    @strawberry.field
    async def contracts(
        self,
        info: Info,
        first: int,
        after: str | None = None,
        offering_id: UUID | None = None,
        provider_id: UUID | None = None,
        customer_id: UUID | None = None,
        state: str | None = None,
        at_least: Position | None = None,
        as_of: AsOf | None = None,
    ) -> Connection[Contract]:
        """Contracts from the newest back; members see those they provide or pay."""
        conditions = [
            *parties(info), *equals("offering_id", offering_id), *equals("provider_id", provider_id),
            *equals("customer_id", customer_id), *equals("state", state),
        ]  # fmt: skip
        return await CONTRACTS.page(info, first, after, at_least, *conditions, as_of=as_of)

    @strawberry.field
    async def contract(
        self, info: Info, contract_id: UUID, at_least: Position | None = None, as_of: AsOf | None = None
    ) -> Contract | None:
        """A contract, as it is or as it was; null when there is none that one is a party of."""
        seen = parties(info)
        if as_of is None:
            return await CONTRACTS.one(info, *seen, *equals("contract_id", contract_id), at_least=at_least)
        return await CONTRACTS.one_at(info, contract_id, as_of, *seen)
