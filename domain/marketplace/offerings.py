"""Offering commands: publish and withdraw, and reserve and release what contracts are over."""

from datetime import datetime
from typing import Protocol
from uuid import UUID

from domain.kernel import EventLog, Forbidden, Receipt, Refusal, command, scope

from .contract import Contract
from .offering import Offering, OfferingUnknown, Resources
from .sla import SlaTerms
from .states import ContractUnknown


class DeviceNotOfProvider(Forbidden):
    """A provider offers active devices that it owns."""


class ResourcesBeyondDevice(Refusal):
    """A unit of an offering is at most what its device has."""


class DeviceOwners(Protocol):
    """Query port: the owner of an active device, None where there is none."""

    def __call__(self, device_id: UUID) -> UUID | None: ...


class DeviceResources(Protocol):
    """Query port: what an active device has, None where nothing is known of it."""

    def __call__(self, device_id: UUID) -> Resources | None: ...


class Offerings:
    """The part of the marketplace service that says what is sold, and finds what the other part needs."""

    log: EventLog
    _owner_of: DeviceOwners | None
    _resources_of: DeviceResources | None

    @command
    def create_service_offering(
        self,
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
    ) -> Receipt:
        """Offer `capacity` units of a device; with `harvest_policy` its rest by that policy is no failure.

        Raises:
            DeviceNotOfProvider, ResourcesBeyondDevice, those of `Offering.publish`.
        """
        assert self._owner_of is not None, "this process was composed without the owners of devices"
        if self._owner_of(device_id) != provider_id:
            raise DeviceNotOfProvider(f"device {device_id}")
        self._check_resources(device_id, resources)
        return self.log.record(
            Offering.publish(
                offering_id=offering_id,
                provider_id=provider_id,
                device_id=device_id,
                service_type=service_type,
                resources=resources,
                region=region,
                capacity=capacity,
                price_grains_per_hour=price_grains_per_hour,
                sla=sla,
                valid_until=valid_until,
                harvest_policy=harvest_policy,
                now=scope().now,
            )
        )

    @command
    def withdraw_offering(self, *, offering_id: UUID, provider_id: UUID | None) -> Receipt:
        """Sell no more of an offering; contracts over it go on. Refusals: OfferingUnknown."""
        offering = self._offering(offering_id)
        if provider_id not in (None, offering.provider_id):
            raise OfferingUnknown(f"offering {offering_id} of owner {provider_id}")
        offering.withdraw()
        return self.log.record(offering)

    @command
    def reserve_capacity(self, *, contract_id: UUID) -> Receipt:
        """Keep what a contract is over. Refusals: ContractUnknown, those of `Offering.reserve`."""
        terms = self._contract(contract_id).terms
        offering = self._offering(terms.offering_id)
        offering.reserve(contract_id, terms.units, scope().now)
        return self.log.record(offering)

    @command
    def release_capacity(self, *, contract_id: UUID) -> Receipt:
        """Give back what a contract has reserved; again changes nothing. Refusals: ContractUnknown."""
        offering = self._offering(self._contract(contract_id).terms.offering_id)
        offering.release(contract_id)
        return self.log.record(offering)

    def _check_resources(self, device_id: UUID, asked: Resources) -> None:
        has = None if self._resources_of is None else self._resources_of(device_id)
        if has is None:
            return
        for name in Resources.__struct_fields__:
            if getattr(asked, name) > getattr(has, name):
                raise ResourcesBeyondDevice(f"{name} {getattr(asked, name)}, the device has {getattr(has, name)}")

    def _contract(self, contract_id: UUID) -> Contract:
        found = self.log.find(Contract, contract_id)
        if found is None:
            raise ContractUnknown(f"contract {contract_id}")
        return found

    def _offering(self, offering_id: UUID) -> Offering:
        found = self.log.find(Offering, offering_id)
        if found is None:
            raise OfferingUnknown(f"offering {offering_id}")
        return found
