"""Suspend a device: what it does for others goes to others or ends, what it offers is sold no more."""

from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

from domain.device_registry.device import Device
from domain.device_registry.status import ACTIVE
from domain.harvest.device import HarvestDevice
from domain.kernel import Conflict, Fact, Refusal
from domain.marketplace import states
from domain.marketplace.contract import Contract
from domain.marketplace.offering import Offering
from domain.tokenomics.reward_claim import RewardClaim
from domain.tokenomics.rewards import FORFEITED as REASON

from .deadline import Deadlines
from .forfeit import forfeits
from .hand_off_contract import move
from .plan import Plan, Step
from .process import Process
from .village import Village

MAX_CONTRACTS = 20
"""Contracts that end in one transaction."""
MAX_CLAIMS = 100
"""Claims that are voided in one transaction."""
MAX_LISTED = 1_000
"""Claims that are looked at in one transaction."""


class OfferingsBehind(Refusal):
    """Offerings are asked of a read model that has come to the fact they are asked at."""

    status = 503


class OfferingsOfDevice(Protocol):
    """Query port: the offerings of a device that are open or reserved, as they were at a position or later."""

    def __call__(self, device_id: UUID, at_least: int) -> Sequence[UUID]:
        """Raises OfferingsBehind."""


class ClaimsBehind(Refusal):
    """Pending claims are asked of a read model that has come to the fact they are asked at."""

    status = 503


class ClaimsOfDevice(Protocol):
    """Query port: the pending claims of a device, oldest first, at a position or later."""

    def __call__(self, device_id: UUID, at_least: int, limit: int) -> Sequence[UUID]:
        """Raises ClaimsBehind."""


class SuspendDevice(Plan):
    """Begins when a device is suspended or retired; it only goes forward, and where it cannot it parks.

    A session or a contract begins only on an active device, and `spend_privacy` sees to rounds that select another, so
    all there is to end was begun before the fact. Where the device is reinstated meanwhile, what it still has goes on.
    A contract goes to an heir, or is breached; its money is moved by `pay_for_service`: the customer pays what was
    delivered, and gets back the rest. What a device that is suspended has earned and was not paid is void, as nobody
    can trust it; one that is retired is paid.
    """

    name = "suspend_device"
    timeout_ms = 24 * 3_600_000
    begins_on = (Device.Suspended, Device.Retired)

    def __init__(self, deadlines: Deadlines, offerings_of: OfferingsOfDevice, claims_of: ClaimsOfDevice) -> None:
        self._offerings_of = offerings_of
        self._claims_of = claims_of
        self.steps = (
            Step("close_session", _close_session, parks=True),
            Step("leave_rounds", _leave_rounds, parks=True),
            Step("withdraw_offerings", self._withdraw_offerings, parks=True, retries=20, first_pause_ms=250),
            Step("end_contracts", self._end_contracts, parks=True, retries=20, first_pause_ms=250),
            Step("void_claims", self._void_claims, parks=True, retries=20, first_pause_ms=250),
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
            _end_contract(process, village, contract_id)
        return len(active) > MAX_CONTRACTS

    def _void_claims(self, process: Process, village: Village) -> bool:
        """Nothing is accrued for a suspended device, so all there is was accrued before."""
        device_id = _device_id(process)
        if not forfeits(village.log, device_id):
            return False
        listed = self._claims_of(device_id, int(process.subject["position"]), MAX_LISTED)
        still = [claim_id for claim_id in listed if village.log.load(RewardClaim, claim_id).open]
        more = len(listed) == MAX_LISTED
        if more and not still:
            raise ClaimsBehind(f"device {device_id}: {len(listed)} claims that are not pending any more")
        village.tokenomics.void_rewards(claim_ids=still[:MAX_CLAIMS], reason=REASON)
        return more or len(still) > MAX_CLAIMS

    def _offerings(self, process: Process, village: Village) -> Sequence[UUID]:
        if not _suspended(process, village):
            return ()
        return self._offerings_of(_device_id(process), int(process.subject["position"]))


def _device_id(process: Process) -> UUID:
    return UUID(process.subject["device_id"])


def _suspended(process: Process, village: Village) -> bool:
    return village.log.load(Device, _device_id(process)).status != ACTIVE


def _end_contract(process: Process, village: Village, contract_id: UUID) -> None:
    """Another device goes on with it; where none can, it is breached."""
    kept_hold_id = process.step_id(f"kept {contract_id}")
    try:
        village.log.tentatively(lambda: move(village, contract_id, kept_hold_id))
    except Conflict:
        raise
    except Refusal:
        village.marketplace.breach_contract(contract_id=contract_id, provider_id=None, reason=REASON)


def _close_session(process: Process, village: Village) -> None:
    """Later samples do not count."""
    device = village.log.find(HarvestDevice, HarvestDevice.create_id(_device_id(process)))
    if device is not None and device.open_session is not None and _suspended(process, village):
        village.harvest.close_session(session_id=device.open_session, reason=REASON)


def _leave_rounds(process: Process, village: Village) -> None:
    if _suspended(process, village):
        village.federated_learning.leave_training(device_id=_device_id(process), reason=REASON)
