"""The device registry's commands and its one question; status, keys and capabilities are in lifecycle.py."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol
from uuid import UUID

from domain.kernel import EventLog, Receipt, command, scope

from . import enrolment
from .capabilities import Capabilities
from .criteria import Candidate, DeviceCriteria, checked_criteria
from .device import Device
from .lifecycle import Lifecycle
from .reputation import check_evidence, testimony


class DeviceDirectory(Protocol):
    """The port that answers which devices match; the read side implements it."""

    def eligible_devices(self, criteria: DeviceCriteria) -> tuple[Sequence[Candidate], int]:
        """The matching devices by rising id, and the position of the log they were known at."""


class DeviceRegistryService(Lifecycle):
    """Devices by claim and proof. A command that changes nothing records nothing and answers the log's position."""

    def __init__(self, log: EventLog, directory: DeviceDirectory | None = None) -> None:
        self.log = log
        self.directory = directory

    @command
    def issue_claim(self, *, owner_id: UUID, claim_sha256: str, expires_at: datetime) -> Receipt:
        """Reserve a device for an owner; whoever has the code with this hash may enrol it once.

        Raises:
            ClaimExpiryInvalid, AlreadyExists.
        """
        device_id = enrolment.device_id_of(claim_sha256)
        claimed = Device.claim(
            device_id=device_id, owner_id=owner_id, claim_sha256=claim_sha256, expires_at=expires_at, now=scope().now
        )
        return self.log.record(claimed)

    @command
    def register_device(
        self,
        *,
        claim_code: str,
        challenge: str,
        proof: str,
        device_type: str,
        region: str,
        ed25519_pub: str,
        x25519_pub: str,
        capabilities: Capabilities,
    ) -> Receipt:
        """Enrol the device a claim code stands for. The edge has checked that the challenge is its own and fresh.

        Raises:
            ClaimUnknown, ClaimAlreadyUsed, ClaimExpired, EnrolmentProofInvalid, PublicKeyMalformed, PublicKeyWeak,
            CapabilitiesInvalid, DeviceTypeInvalid, RegionInvalid.
        """
        device = self.log.find(Device, enrolment.device_id_of(enrolment.claim_sha256(claim_code)))
        if device is None:
            raise enrolment.ClaimUnknown("no such claim")
        device.enrol(
            device_type=device_type,
            region=region,
            ed25519_pub=ed25519_pub,
            x25519_pub=x25519_pub,
            capabilities=capabilities,
            now=scope().now,
        )
        enrolment.check_proof(
            challenge=challenge, code=claim_code, ed25519_pub=ed25519_pub, x25519_pub=x25519_pub, proof=proof
        )
        return self.log.record(device)

    @command
    def device_went_online(self, *, device_id: UUID, seen_at: datetime) -> Receipt:
        """A device has sent a heartbeat. Raises DeviceUnknown and what `require_active` does."""
        device = self._device(device_id)
        device.see(seen_at)
        return self.log.record(device)

    @command
    def device_went_degraded(self, *, device_id: UUID, seen_at: datetime) -> Receipt:
        """An online device misses heartbeats. Raises DeviceUnknown, DeviceNotEnrolled."""
        device = self._device(device_id)
        device.miss(seen_at)
        return self.log.record(device)

    @command
    def device_went_offline(self, *, device_id: UUID, last_seen_at: datetime) -> Receipt:
        """A device has been silent for long. Raises DeviceUnknown, DeviceNotEnrolled."""
        device = self._device(device_id)
        device.lose(last_seen_at)
        return self.log.record(device)

    @command
    def record_latency_class(self, *, device_id: UUID, latency_ms: int) -> Receipt:
        """Record the latency class of a device, in ms. Raises DeviceUnknown, LatencyInvalid, as `require_active`."""
        device = self._device(device_id)
        device.measure_latency(latency_ms)
        return self.log.record(device)

    @command
    def update_reputation(
        self, *, device_id: UUID, service: str, good: bool, weight_bp: int, cause_event_id: UUID
    ) -> Receipt:
        """Add evidence of settled work to a device's reputation in one service; never conflicts.

        Raises:
            DeviceUnknown, DeviceNotEnrolled, ReputationServiceUnknown, EvidenceWeightInvalid.
        """
        check_evidence(service, weight_bp)
        self._device(device_id).require_enrolled()
        facts = testimony(device_id, service, good=good, weight_bp=weight_bp, cause_event_id=cause_event_id)
        return self.log.record(*facts, id=device_id)

    def presence_of(self, device_id: UUID) -> str:
        """Whether a device is online, degraded or offline, as the log says. Raises DeviceUnknown."""
        return self._device(device_id).presence

    def query_devices(self, criteria: DeviceCriteria) -> tuple[Sequence[Candidate], int]:
        """The devices that match, by rising id, and the position they were known at. Raises CriteriaInvalid."""
        assert self.directory is not None, "this process was composed without a device directory"
        return self.directory.eligible_devices(checked_criteria(criteria))
