"""The device registry over GraphQL: devices by criteria, and why a device does not match. Members see their own."""

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import strawberry

from api.edge.graphql import AsOf, Condition, Connection, Info, Listing, Position, equals
from domain.device_registry.criteria import DeviceCriteria, checked_criteria, mismatches
from domain.device_registry.evidence import METHODS, Evidence
from domain.device_registry.reputation_rule import Standing
from projections.device_criteria import Asked, asked, unmet
from projections.device_health import HEALTH
from projections.device_registry import DeviceRow, Devices


@strawberry.type
class ServiceReputation:
    """How far a device is trusted in one service, in basis points; a newcomer has 2500."""

    service: str
    score_bp: int
    standing: strawberry.Private[Standing]

    @strawberry.field
    def explain(self) -> str:
        """The score reckoned up: the rule, and the decayed sums of good and bad evidence in billionths."""
        return self.standing.reckoning()


@strawberry.type
class Mismatch:
    """One reason why a device does not match: what was asked and what was found."""

    criterion: str
    wanted: str
    found: str


@strawberry.input
class MinReputation:
    """The least reputation in one service, in basis points."""

    service: str
    score_bp: int


@strawberry.input
class DeviceCriteriaInput:
    """What a device has to have; what is left out is not asked. Only devices that are online match, by default."""

    min_ram_mb: int | None = None
    min_cpu_cores: int | None = None
    min_compute_score: int | None = None
    required_capabilities: list[str] = strawberry.field(default_factory=list)
    required_frameworks: list[str] = strawberry.field(default_factory=list)
    min_reputation_score: list[MinReputation] = strawberry.field(default_factory=list)
    max_latency_ms: int | None = None
    geographic_region: str | None = None
    availability_required: bool = True
    min_matrix_mflops: int | None = None
    min_memory_mb_s: int | None = None
    min_disk_mb_s: int | None = None

    def value(self) -> DeviceCriteria:
        """The criteria, within their bounds. Raises CriteriaInvalid."""
        return checked_criteria(
            DeviceCriteria(
                min_ram_mb=self.min_ram_mb,
                min_cpu_cores=self.min_cpu_cores,
                min_compute_score=self.min_compute_score,
                required_capabilities=self.required_capabilities,
                required_frameworks=self.required_frameworks,
                min_reputation_score={asked.service: asked.score_bp for asked in self.min_reputation_score},
                max_latency_ms=self.max_latency_ms,
                geographic_region=self.geographic_region,
                availability_required=self.availability_required,
                min_matrix_mflops=self.min_matrix_mflops,
                min_memory_mb_s=self.min_memory_mb_s,
                min_disk_mb_s=self.min_disk_mb_s,
            )
        )


@strawberry.type
class Measurement:
    """What a benchmark gave, in its unit, and when."""

    quantity: str
    method: str
    version: int
    value: int
    unit: str
    measured_at: datetime


@strawberry.type
class Benchmark:
    """The evidence a device has signed: the cores and the memory in MiB it found, and what it measured with them."""

    cpu_cores: int
    ram_mb: int
    measurements: list[Measurement]
    signature: str

    @classmethod
    def of(cls, told: dict[str, Any]) -> "Benchmark":
        evidence = msgspec.convert({name: told[name] for name in Evidence.__struct_fields__}, Evidence)
        found = [
            Measurement(quantity=how.quantity, unit=how.unit, **msgspec.structs.asdict(one))
            for one in evidence.measurements
            for how in (METHODS[one.method, one.version],)
        ]
        return cls(
            cpu_cores=evidence.cpu_cores, ram_mb=evidence.ram_mb, measurements=found, signature=told["signature"]
        )


@strawberry.type
class Dispute:
    """A quantity of which a device had claimed more than twice what it measured again, in the quantity's unit."""

    quantity: str
    claimed: int
    measured: int


@strawberry.type
class Remeasurement:
    """Until when the device is to measure again, null when it is not asked; and what its last answer refuted."""

    until: datetime | None
    disputes: list[Dispute]


@strawberry.type
class DeviceHealth:
    """How a device is. Percents and degrees Celsius of the newest sample; null is what was not measured.

    `trips` counts the limits that its harvest ran into in the last 30 days.
    """

    status: str
    status_reason: str
    presence: str
    seen_at: datetime | None
    latency_ms: int | None
    session_id: UUID | None
    harvest_state: str | None
    harvest_reason: str | None
    sampled_at: datetime | None
    battery_percent: float | None
    battery_temp: float | None
    skin_temp: float | None
    cpu_temp: float | None
    cpu_percent: float | None
    memory_percent: float | None
    trips: int
    open_incidents: int


@strawberry.type
class Device:
    """An enrolled device: active, suspended or retired. Memory in MiB, compute score in milli-units, latency in ms."""

    device_id: UUID
    owner_id: UUID
    device_type: str
    region: str
    presence: str
    seen_at: datetime | None
    latency_ms: int | None
    ram_mb: int
    cpu_cores: int
    compute_score: int
    frameworks: list[str]
    capabilities: list[str]
    benchmark_id: str
    enrolled_at: datetime
    status: str
    status_reason: str
    position: Position
    row: strawberry.Private[DeviceRow]

    @strawberry.field
    def benchmark(self) -> Benchmark | None:
        """What the device has measured of itself; null when it brought no evidence."""
        return Benchmark.of(self.row.benchmark) if self.row.benchmark else None

    @strawberry.field
    def remeasurement(self) -> Remeasurement:
        """What the village has asked the device to measure again, and what came of it."""
        found = [Dispute(**one) for one in self.row.disputes]
        return Remeasurement(until=self.row.remeasure_until, disputes=found)

    @strawberry.field
    def reputation(self) -> list[ServiceReputation]:
        """By service; without evidence there is none."""
        return [
            ServiceReputation(service=name, score_bp=score, standing=Standing(*self.row.evidence[name]))
            for name, score in sorted(self.row.reputation.items())
        ]

    @strawberry.field
    def mismatches(self, criteria: DeviceCriteriaInput) -> list[Mismatch]:
        """Every reason why the device does not match; none when it does."""
        found = mismatches(criteria.value(), self.row)
        return [Mismatch(criterion=why.criterion, wanted=why.wanted, found=why.found) for why in found]

    @strawberry.field
    async def health(self, info: Info) -> DeviceHealth | None:
        """How the device is now, also where the device itself is asked as it was."""
        rows = await info.context.ctx.rows(HEALTH, {"device_id": self.device_id})
        return DeviceHealth(**rows[0]) if rows else None

    @classmethod
    def of(cls, row: DeviceRow) -> "Device":
        return cls(
            device_id=row.device_id,
            owner_id=row.owner_id,
            device_type=row.device_type,
            region=row.region,
            presence=row.presence,
            seen_at=row.seen_at,
            latency_ms=row.latency_ms,
            ram_mb=row.ram_mb,
            cpu_cores=row.cpu_cores,
            compute_score=row.compute_score,
            frameworks=row.frameworks,
            capabilities=row.capabilities,
            benchmark_id=row.benchmark_id,
            enrolled_at=row.enrolled_at,
            status=row.status,
            status_reason=row.status_reason,
            position=Position(row.position),
            row=row,
        )


DEVICES = Listing(Devices(), Device.of, order=("device_id",), owner="owner_id", device="device_id")


@strawberry.type
class Query:
    """Queries of the device registry."""

    @strawberry.field
    async def devices(
        self,
        info: Info,
        first: int,
        after: str | None = None,
        criteria: DeviceCriteriaInput | None = None,
        at_least: Position | None = None,
        as_of: AsOf | None = None,
    ) -> Connection[Device]:
        """Enrolled devices by id, all or those that meet criteria, as they are or as they were."""
        return await DEVICES.page(info, first, after, at_least, *_conditions(criteria), as_of=as_of)

    @strawberry.field
    async def unmatched_devices(
        self,
        info: Info,
        first: int,
        criteria: DeviceCriteriaInput,
        after: str | None = None,
        at_least: Position | None = None,
        as_of: AsOf | None = None,
    ) -> Connection[Device]:
        """Enrolled devices by id that do not meet criteria; `mismatches` of each says why."""
        value = criteria.value()
        one = unmet(value)
        condition = Condition(one.text, one.parameters, lambda row: bool(mismatches(value, row)))
        return await DEVICES.page(info, first, after, at_least, condition, as_of=as_of)

    @strawberry.field
    async def device(
        self, info: Info, device_id: UUID, at_least: Position | None = None, as_of: AsOf | None = None
    ) -> Device | None:
        """One device, as it is or as it was."""
        if as_of is not None:
            return await DEVICES.one_at(info, device_id, as_of)
        return await DEVICES.one(info, *equals("device_id", device_id), at_least=at_least)


def _conditions(criteria: DeviceCriteriaInput | None) -> list[Condition]:
    if criteria is None:
        return []
    value = criteria.value()
    return [_condition(one, value) for one in asked(value)]


def _condition(one: Asked, criteria: DeviceCriteria) -> Condition:
    def holds(row: DeviceRow) -> bool:
        return one.criterion not in {why.criterion for why in mismatches(criteria, row)}

    return Condition(one.text, one.parameters, holds)
