"""Read models of the marketplace: what is offered, and how every contract stands."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from domain.kernel.fact import Fact
from domain.marketplace import states
from domain.marketplace.contract import Contract
from domain.marketplace.offering import Offering
from projections.rows import Key, ReadModel, Row

OPEN, WITHDRAWN = "open", "withdrawn"


class OfferingRow(Row, frozen=True):
    """An offering: `reserved` of its `capacity` units are taken; `price_grains_per_hour` is for one unit."""

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
    price_grains_per_hour: int
    sla: dict[str, int]
    state: str
    valid_until: datetime
    published_at: datetime
    position: int
    harvest_policy: bool


class Offerings(ReadModel[OfferingRow]):
    """Offerings by id. `position` is that of the publication."""

    name = "offerings"
    table = "read.offerings"
    row = OfferingRow
    key = ("offering_id",)
    folds_own_stream = True
    listens = (Offering.Published, Offering.Withdrawn, Offering.CapacityReserved, Offering.CapacityReleased)
    begins = (Offering.Published,)

    def keys(self, fact: Fact) -> Iterable[Key]:
        return (fact.stream,)

    def evolve(self, row: OfferingRow | None, fact: Fact, key: Key) -> OfferingRow | None:
        if isinstance(fact.event, Offering.Published):
            return _offered(fact.event, fact)
        if row is None:
            return None
        match fact.event:
            case Offering.CapacityReserved(units=units):
                return msgspec.structs.replace(row, reserved=row.reserved + units)
            case Offering.CapacityReleased(units=units):
                return msgspec.structs.replace(row, reserved=row.reserved - units)
        return msgspec.structs.replace(row, state=WITHDRAWN)


class ContractRow(Row, frozen=True):
    """A contract: what was agreed, how it stands, and what was paid; all amounts in grains.

    `outcome` is completed, breached, cancelled, expired or handed_off. `credit_grains` is what the windows have earned
    the customer so far, and once it is settled what was given.
    """

    contract_id: UUID
    offering_id: UUID
    device_id: UUID
    service_type: str
    provider_id: UUID
    customer_id: UUID
    units: int
    duration_ms: int
    price_grains_per_hour: int
    agreed_price: int
    sla: dict[str, int]
    state: str
    outcome: str | None
    reason: str
    disputed: bool
    used_ms: int
    windows: int
    credit_grains: int
    charged_grains: int
    fee_grains: int
    penalty_grains: int
    provider_grains: int
    released_grains: int
    hold_id: UUID | None
    transfer_id: UUID | None
    proposed_at: datetime
    deadline_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    settled_at: datetime | None
    position: int
    request_id: UUID | None
    handed_to: UUID | None


class Contracts(ReadModel[ContractRow]):
    """Contracts by id. `position` is that of the proposal."""

    name = "contracts"
    table = "read.contracts"
    row = ContractRow
    key = ("contract_id",)
    folds_own_stream = True
    listens = (
        Contract.ServiceContractCreated,
        Contract.Reserved,
        Contract.Activated,
        Contract.UsageReported,
        Contract.SlaWindowEvaluated,
        Contract.Completed,
        Contract.Breached,
        Contract.Cancelled,
        Contract.Expired,
        Contract.HandedOff,
        Contract.Disputed,
        Contract.DisputeDecided,
        Contract.Settled,
    )
    begins = (Contract.ServiceContractCreated,)

    def keys(self, fact: Fact) -> Iterable[Key]:
        return (fact.stream,)

    def evolve(self, row: ContractRow | None, fact: Fact, key: Key) -> ContractRow | None:
        if isinstance(fact.event, Contract.ServiceContractCreated):
            return _proposed(fact.event, fact)
        return None if row is None else msgspec.structs.replace(row, **_changes(row, fact))


_ENDS = {
    Contract.Completed: states.COMPLETED,
    Contract.Breached: states.BREACHED,
    Contract.Cancelled: states.CANCELLED,
    Contract.Expired: states.EXPIRED,
}


def _offered(made: Offering.Published, fact: Fact) -> OfferingRow:
    return OfferingRow(
        offering_id=made.offering_id,
        provider_id=made.provider_id,
        device_id=made.device_id,
        service_type=made.service_type,
        region=made.region,
        **msgspec.structs.asdict(made.resources),
        capacity=made.capacity,
        reserved=0,
        price_grains_per_hour=made.price_grains_per_hour,
        sla=msgspec.structs.asdict(made.sla),
        state=OPEN,
        valid_until=made.valid_until,
        published_at=fact.recorded_at,
        position=fact.position,
        harvest_policy=made.harvest_policy,
    )


def _proposed(made: Contract.ServiceContractCreated, fact: Fact) -> ContractRow:
    return ContractRow(
        contract_id=made.contract_id,
        offering_id=made.offering_id,
        device_id=made.device_id,
        service_type=made.service_type,
        provider_id=made.provider_id,
        customer_id=made.customer_id,
        units=made.units,
        duration_ms=made.duration_ms,
        price_grains_per_hour=made.price_grains_per_hour,
        agreed_price=made.agreed_price,
        sla=msgspec.structs.asdict(made.sla_terms),
        state=states.PROPOSED,
        outcome=None,
        reason="",
        disputed=False,
        used_ms=0,
        windows=0,
        credit_grains=0,
        charged_grains=0,
        fee_grains=0,
        penalty_grains=0,
        provider_grains=0,
        released_grains=0,
        hold_id=None,
        transfer_id=None,
        proposed_at=fact.recorded_at,
        deadline_at=made.deadline_at,
        started_at=None,
        ended_at=None,
        settled_at=None,
        position=fact.position,
        request_id=made.request_id,
        handed_to=None,
    )


def _changes(row: ContractRow, fact: Fact) -> dict[str, Any]:
    made: Any = fact.event
    match made:
        case Contract.Reserved():
            return {"state": states.RESERVED, "hold_id": made.hold_id}
        case Contract.Activated():
            return {"state": states.ACTIVE, "started_at": made.started_at}
        case Contract.UsageReported():
            return {"used_ms": made.cumulative_ms}
        case Contract.SlaWindowEvaluated():
            return {"windows": made.window + 1, "credit_grains": row.credit_grains + made.credit_grains}
        case Contract.HandedOff():
            ended = {"state": states.HANDED_OFF, "outcome": states.HANDED_OFF, "ended_at": made.ended_at}
            return ended | {"hold_id": made.hold_id, "handed_to": made.to_contract_id}
        case Contract.Disputed():
            return {"disputed": True}
        case Contract.DisputeDecided():
            return {"disputed": False}
        case Contract.Settled():
            paid = ("credit", "charged", "fee", "penalty", "provider", "released")
            amounts = {f"{name}_grains": getattr(made, f"{name}_grains") for name in paid}
            return amounts | {
                "state": states.SETTLED, "transfer_id": made.transfer_id, "settled_at": fact.recorded_at
            }  # fmt: skip
    outcome = _ENDS[type(made)]
    return {"state": outcome, "outcome": outcome, "ended_at": made.ended_at, "reason": getattr(made, "reason", "")}
