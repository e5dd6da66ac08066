"""Suspend a device: what it does for others ends with its status, and what it offers is sold no more."""

from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

from domain.device_registry.device import Device
from domain.device_registry.status import ACTIVE
from domain.harvest.device import HarvestDevice
from domain.kernel import Fact, Refusal
from domain.marketplace import states
from domain.marketplace.contract import Contract
from domain.marketplace.offering import Offering

from .deadline import Deadlines
from .plan import Plan, Step
from .process import Process
from .village import Village

REASON = "device_suspended"
MAX_CONTRACTS = 100
"""Contracts that end in one transaction."""


class OfferingsBehind(Refusal):
    """Offerings are asked of a read model that has come to the fact they are asked at."""

    status = 503


class OfferingsOfDevice(Protocol):
    """Query port: the offerings of a device that are open or reserved, as they were at a position or later."""

    def __call__(self, device_id: UUID, at_least: int) -> Sequence[UUID]:
        """Raises OfferingsBehind."""


class SuspendDevice(Plan):
    """Begins when a device is suspended or retired; it only goes forward, and where it cannot it parks.

    A session or a contract begins only on an active device, so all there is to end was begun before the fact. Where the
    device is reinstated meanwhile, what it still has goes on. The money of a contract is moved by `pay_for_service`,
    which finds it breached: the customer pays what was delivered, and gets back the rest.
    """

    name = "suspend_device"
    timeout_ms = 24 * 3_600_000
    begins_on = (Device.Suspended, Device.Retired)

    def __init__(self, deadlines: Deadlines, offerings_of: OfferingsOfDevice) -> None:
        self._offerings_of = offerings_of
        self.steps = (
            Step("close_session", _close_session, parks=True),
            Step("leave_rounds", _leave_rounds, parks=True),
            Step("withdraw_offerings", self._withdraw_offerings, parks=True, retries=20, first_pause_ms=250),
            Step("end_contracts", self._end_contracts, parks=True, retries=20, first_pause_ms=250),
        )
        super().__init__(deadlines)

    def subject_of(self, fact: Fact) -> dict[str, str] | None:
        return {"device_id": str(fact.stream), "position": str(fact.position)}

    def _withdraw_offerings(self, process: Process, village: Village) -> None:
        for offering_id in self._offerings(process, village):
            village.marketplace.withdraw_offering(offering_id=offering_id, provider_id=None)

    def _end_contracts(self, process: Process, village: Village) -> bool:
        """What is reserved and not yet active ends by itself: it does not start on a device that is suspended."""
        active = [
            contract_id
            for offering_id in self._offerings(process, village)
            for contract_id in sorted(village.log.load(Offering, offering_id).reserved)
            if (contract := village.log.find(Contract, contract_id)) is not None and contract.status == states.ACTIVE
        ]
        for contract_id in active[:MAX_CONTRACTS]:
            village.marketplace.breach_contract(contract_id=contract_id, provider_id=None, reason=REASON)
        return len(active) > MAX_CONTRACTS

    def _offerings(self, process: Process, village: Village) -> Sequence[UUID]:
        if not _suspended(process, village):
            return ()
        return self._offerings_of(_device_id(process), int(process.subject["position"]))


def _device_id(process: Process) -> UUID:
    return UUID(process.subject["device_id"])


def _suspended(process: Process, village: Village) -> bool:
    return village.log.load(Device, _device_id(process)).status != ACTIVE


def _close_session(process: Process, village: Village) -> None:
    """What its last segment has recorded is rewarded; later samples do not count."""
    device = village.log.find(HarvestDevice, HarvestDevice.create_id(_device_id(process)))
    if device is not None and device.open_session is not None and _suspended(process, village):
        village.harvest.close_session(session_id=device.open_session, reason=REASON)


def _leave_rounds(process: Process, village: Village) -> None:
    if _suspended(process, village):
        village.federated_learning.leave_training(device_id=_device_id(process), reason=REASON)
