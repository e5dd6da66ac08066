"""Ports between contexts that may not know each other: answered here from what both offer."""

from uuid import UUID

from domain.device_registry.criteria import DeviceCriteria
from domain.device_registry.device import ONLINE, Device
from domain.device_registry.status import ACTIVE
from domain.federated_learning.policy import ParticipantCriteria
from domain.federated_learning.selection import Candidate, Survey
from domain.kernel import AggregateNotFound, EventLog
from domain.marketplace.dealing import Flows, around
from domain.marketplace.offering import Resources
from domain.sagas import spend_privacy
from domain.tokenomics.accounts import wallet_id_of
from infrastructure.operations import SELECTION_SECONDS
from projections.device_index import DeviceIndex
from projections.federated_learning import Participations
from projections.privacy_budgets import ExhaustedBudgets
from projections.tokenomics.flows import FlowIndex

REPUTATION_SERVICE = "federated_learning"
BUDGET_PURPOSE = spend_privacy.PURPOSE
BUDGET_EXHAUSTED = spend_privacy.REASON
"""Why a device that meets the criteria is not asked: it, or its owner, has no privacy left to give."""


class Participants:
    """Which devices could take part in a round: federated learning's criteria, asked of the device registry."""

    def __init__(self, devices: DeviceIndex, past: Participations, budgets: ExhaustedBudgets) -> None:
        self._devices = devices
        self._past = past
        self._budgets = budgets

    @SELECTION_SECONDS.time()
    def survey(self, criteria: ParticipantCriteria, *, limit: int) -> Survey:
        """At most `limit` devices that are online and meet the criteria, and why the others do not."""
        trust = criteria.min_trust_level
        found = self._devices.survey(
            DeviceCriteria(
                min_ram_mb=criteria.min_memory_mb,
                min_compute_score=criteria.min_compute_capability,
                required_frameworks=criteria.required_frameworks,
                min_reputation_score={} if trust is None else {REPUTATION_SERVICE: trust},
                min_matrix_mflops=criteria.min_matrix_mflops,
                min_memory_mb_s=criteria.min_memory_mb_s,
                min_disk_mb_s=criteria.min_disk_mb_s,
            ),
            limit=limit,
        )
        willing = self._willing(found.device_ids)
        past = self._past.counts(willing)
        candidates = [Candidate(one, past.get(one, 0), one in found.measured) for one in willing]
        spent = len(found.device_ids) - len(willing)
        return Survey(candidates, found.position, found.refused | ({BUDGET_EXHAUSTED: spent} if spent else {}))

    def _willing(self, device_ids: list[UUID]) -> list[UUID]:
        """The devices whose privacy budget is not exhausted, nor that of their owner."""
        owners = self._devices.owners(device_ids)
        exhausted = self._budgets.among([*owners, *set(owners.values())], BUDGET_PURPOSE)
        return [one for one in device_ids if not exhausted & {one, owners.get(one)}]


class DeviceOwners:
    """Whose an active device is, asked of the log by the marketplace."""

    def __init__(self, log: EventLog) -> None:
        self._log = log

    def __call__(self, device_id: UUID) -> UUID | None:
        device = _active(self._log, device_id)
        return None if device is None else device.owner_id


class DeviceResources:
    """What an active device has, asked of the log by the marketplace."""

    def __init__(self, log: EventLog) -> None:
        self._log = log

    def __call__(self, device_id: UUID) -> Resources | None:
        device = _active(self._log, device_id)
        if device is None or device.capabilities is None:
            return None
        has = device.capabilities
        return Resources(has.ram_mb, has.cpu_cores, has.compute_score)


class PresentDevices:
    """Whether a device is active and online, asked of the log by the marketplace."""

    def __init__(self, log: EventLog) -> None:
        self._log = log

    def __call__(self, device_id: UUID) -> bool:
        device = _active(self._log, device_id)
        return device is not None and device.presence == ONLINE


class OwnerFlows:
    """What two owners have paid each other, asked of tokenomics by the marketplace."""

    def __init__(self, flows: FlowIndex) -> None:
        self._index = flows

    def __call__(self, low_id: UUID, high_id: UUID) -> Flows:
        found = self._index.between(wallet_id_of(low_id), wallet_id_of(high_id))
        there, back = around(found.hops)
        return Flows(found.gave, found.got, there, back, found.position)


def _active(log: EventLog, device_id: UUID) -> Device | None:
    try:
        device = log.find(Device, device_id)
    except AggregateNotFound:  # an id of something else
        return None
    return device if device is not None and device.enrolled and device.status == ACTIVE else None
