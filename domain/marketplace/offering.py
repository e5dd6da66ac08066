"""An offering: what a provider sells of one device, how much of it there is, and how much of that is reserved."""

import re
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from domain.kernel import Aggregate, Created, Instant, NotFound, Refusal, Snapshot, SnapshotPolicy, Value, event
from domain.kernel.tokens import positive

from .sla import SlaTerms, checked_terms

SERVICE_TYPES = ("compute_burst", "fl_participation", "hidden_service")
MAX_CAPACITY = 10_000
MAX_LIFETIME = timedelta(days=366)
_REGION = re.compile(r"[a-z0-9][a-z0-9_.+-]{0,31}")


class OfferingUnknown(NotFound):
    """A command about an offering names one that was published."""


class OfferingInvalid(Refusal):
    """An offering is of a known service, of 1 to 10,000 units within bounds, and ends within 366 days."""


class OfferingWithdrawn(Refusal):
    """What is withdrawn, or no longer valid, is not sold."""


class CapacityExhausted(Refusal):
    """All contracts together reserve at most the capacity of an offering."""


class UnitsInvalid(Refusal):
    """A contract is over at least one unit and at most the whole capacity."""


class Resources(Value, frozen=True):
    """What one unit of an offering is: memory in MiB, cores, and compute score in milli-units."""

    ram_mb: int
    cpu_cores: int
    compute_score: int


class OfferingSnapshot(Snapshot, frozen=True):
    """An offering's attributes."""

    provider_id: UUID
    device_id: UUID
    service_type: str
    region: str
    capacity: int
    price_grains_per_hour: int
    sla: SlaTerms
    valid_until: datetime
    reserved: dict[UUID, int]
    withdrawn: bool
    harvest_policy: bool


class Offering(Aggregate):
    """Capacity is reserved and released by contracts; the sum of what is reserved never exceeds it."""

    snapshots = SnapshotPolicy(OfferingSnapshot, every=100, version=2)

    class Published(Created):
        """`price_grains_per_hour` is for one unit. With `harvest_policy` the device rests when that says so."""

        class_version = 2
        offering_id: UUID
        provider_id: UUID
        device_id: UUID
        service_type: str
        resources: Resources
        region: str
        capacity: int
        price_grains_per_hour: int
        sla: SlaTerms
        valid_until: Instant
        harvest_policy: bool

        @staticmethod
        def upcast_v1_v2(state: dict[str, Any]) -> None:
            state["harvest_policy"] = False

    class Withdrawn(Aggregate.Event):
        pass

    class CapacityReserved(Aggregate.Event):
        contract_id: UUID
        units: int

    class CapacityReleased(Aggregate.Event):
        contract_id: UUID
        units: int

    @event(Published)
    def __init__(
        self,
        offering_id: UUID,
        provider_id: UUID,
        device_id: UUID,
        service_type: str,
        resources: Resources,
        region: str,
        capacity: int,
        price_grains_per_hour: int,
        sla: SlaTerms,
        valid_until: datetime,
        harvest_policy: bool,
    ) -> None:
        self.provider_id = provider_id
        self.device_id = device_id
        self.service_type = service_type
        self.region = region
        self.capacity = capacity
        self.price_grains_per_hour = price_grains_per_hour
        self.sla = sla
        self.valid_until = valid_until
        self.reserved: dict[UUID, int] = {}
        self.withdrawn = False
        self.harvest_policy = harvest_policy

    @staticmethod
    def create_id(offering_id: UUID) -> UUID:
        return offering_id

    @classmethod
    def publish(
        cls,
        *,
        offering_id: UUID,
        provider_id: UUID,
        device_id: UUID,
        service_type: str,
        resources: Resources,
        region: str,
        capacity: int,
        price_grains_per_hour: int,
        sla: SlaTerms,
        valid_until: datetime,
        harvest_policy: bool = False,
        now: datetime,
    ) -> "Offering":
        """A new offering.

        Raises:
            OfferingInvalid, SlaInvalid, AmountNotPositive, AmountTooLarge.
        """
        if service_type not in SERVICE_TYPES:
            raise OfferingInvalid(f"service_type is one of {', '.join(SERVICE_TYPES)}")
        if not 1 <= capacity <= MAX_CAPACITY:
            raise OfferingInvalid(f"{capacity} units")
        if not _REGION.fullmatch(region):
            raise OfferingInvalid("a region is 1 to 32 lower-case letters, digits and _.+-")
        if min(resources.ram_mb, resources.cpu_cores, resources.compute_score) < 0 or resources.cpu_cores < 1:
            raise OfferingInvalid("resources are of at least one core, and nothing is negative")
        if not now < valid_until <= now + MAX_LIFETIME:
            raise OfferingInvalid(f"valid until {valid_until.isoformat()}")
        return cls(
            offering_id=offering_id,
            provider_id=provider_id,
            device_id=device_id,
            service_type=service_type,
            resources=resources,
            region=region,
            capacity=capacity,
            price_grains_per_hour=positive(price_grains_per_hour),
            sla=checked_terms(sla),
            valid_until=valid_until,
            harvest_policy=harvest_policy,
        )

    @property
    def free(self) -> int:
        """Units that no contract has reserved."""
        return self.capacity - sum(self.reserved.values())

    def withdraw(self) -> None:
        """Sell no more of it; contracts that run go on. Again changes nothing."""
        if not self.withdrawn:
            self._withdrawn()

    def check_sold(self, units: int, now: datetime) -> None:
        """Pass when so much of it may be asked for now.

        Raises:
            OfferingWithdrawn, UnitsInvalid.
        """
        if self.withdrawn or now >= self.valid_until:
            raise OfferingWithdrawn(f"offering {self.id}")
        if not 1 <= units <= self.capacity:
            raise UnitsInvalid(f"{units} of {self.capacity} units")

    def reserve(self, contract_id: UUID, units: int, now: datetime) -> None:
        """Keep units for a contract; again changes nothing.

        Raises:
            OfferingWithdrawn, UnitsInvalid, CapacityExhausted.
        """
        if contract_id in self.reserved:
            return
        self.check_sold(units, now)
        if units > self.free:
            raise CapacityExhausted(f"{units} units asked, {self.free} of {self.capacity} free")
        self._reserved(contract_id=contract_id, units=units)

    def release(self, contract_id: UUID) -> None:
        """Give back what a contract has reserved, if it has."""
        if (units := self.reserved.get(contract_id)) is not None:
            self._released(contract_id=contract_id, units=units)

    @event(Withdrawn)
    def _withdrawn(self) -> None:
        self.withdrawn = True

    @event(CapacityReserved)
    def _reserved(self, contract_id: UUID, units: int) -> None:
        self.reserved[contract_id] = units

    @event(CapacityReleased)
    def _released(self, contract_id: UUID, units: int) -> None:
        del self.reserved[contract_id]
