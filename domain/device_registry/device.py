"""A device: claimed by its owner, enrolled with its keys; then active, suspended or retired, and online or not."""

from datetime import datetime, timedelta
from typing import Self
from uuid import UUID

from domain.kernel import Aggregate, Created, Instant, NotFound, Refusal, event

from .capabilities import Capabilities, check_kind, checked
from .device_facts import DeviceFacts
from .enrolment import ClaimAlreadyUsed, ClaimExpired, ClaimExpiryInvalid, KeyUnchanged, check_keys, check_signing_key
from .evidence import Evidence, check_borne_out, check_evidence_signature, checked_evidence
from .latency import LATENCY_CLASSES_MS, LatencyInvalid
from .status import ACTIVE, REFUSALS, RETIRED, SUSPENDED, DeviceRetired, checked_reason

ONLINE = "online"
DEGRADED = "degraded"
OFFLINE = "offline"

MAX_CLAIM_LIFETIME = timedelta(days=30)


class DeviceUnknown(NotFound):
    """A command about a device names one that has a claim."""


class DeviceNotEnrolled(Refusal):
    """Only an enrolled device takes part."""


class Device(DeviceFacts, Aggregate):
    """One device. Presence facts alternate: what already holds is not recorded again.

    `key_number` says how often it has changed its signing key; `forfeits` that nothing it has earned is paid: it is
    suspended, or was when it retired.
    """

    class ClaimIssued(Created):
        device_id: UUID
        owner_id: UUID
        claim_sha256: str
        expires_at: Instant

    @event(ClaimIssued)
    def __init__(self, device_id: UUID, owner_id: UUID, claim_sha256: str, expires_at: datetime) -> None:
        self.device_id = device_id
        self.owner_id = owner_id
        self.claim_sha256 = claim_sha256
        self.claim_expires_at = expires_at
        self.enrolled_at: datetime | None = None
        self.device_type = ""
        self.region = ""
        self.ed25519_pub = ""
        self.key_number = 0
        self.x25519_pub = ""
        self.capabilities: Capabilities | None = None
        self.evidence: Evidence | None = None
        self.status = ACTIVE
        self.forfeits = False
        self.presence = OFFLINE
        self.seen_at: datetime | None = None
        self.latency_ms: int | None = None

    @staticmethod
    def create_id(device_id: UUID) -> UUID:
        return device_id

    @classmethod
    def claim(cls, *, device_id: UUID, owner_id: UUID, claim_sha256: str, expires_at: datetime, now: datetime) -> Self:
        """A device to be, reserved for its owner under the hash of a claim code.

        Raises:
            ClaimExpiryInvalid.
        """
        if not now < expires_at <= now + MAX_CLAIM_LIFETIME:
            raise ClaimExpiryInvalid(f"now is {now.isoformat()}, the claim would expire at {expires_at.isoformat()}")
        return cls(device_id=device_id, owner_id=owner_id, claim_sha256=claim_sha256, expires_at=expires_at)

    @property
    def enrolled(self) -> bool:
        return self.enrolled_at is not None

    def enrol(
        self,
        *,
        device_type: str,
        region: str,
        ed25519_pub: str,
        x25519_pub: str,
        capabilities: Capabilities,
        now: datetime,
    ) -> None:
        """Use the claim: from now on the holder of the key is this device. The proof was checked before.

        Raises:
            ClaimAlreadyUsed, ClaimExpired, DeviceTypeInvalid, RegionInvalid, PublicKeyMalformed, PublicKeyWeak,
            CapabilitiesInvalid.
        """
        if self.enrolled:
            raise ClaimAlreadyUsed("the claim has enrolled a device")
        if now >= self.claim_expires_at:
            raise ClaimExpired(f"the claim expired at {self.claim_expires_at.isoformat()}")
        check_kind(device_type, region)
        check_keys(ed25519_pub, x25519_pub)
        self._enrolled(
            device_id=self.device_id,
            owner_id=self.owner_id,
            device_type=device_type,
            ed25519_pub=ed25519_pub,
            x25519_pub=x25519_pub,
            region=region,
            capabilities=checked(capabilities),
            enrolled_at=now,
        )

    @event(DeviceFacts.Enrolled)
    def _enrolled(
        self,
        device_id: UUID,
        owner_id: UUID,
        device_type: str,
        ed25519_pub: str,
        x25519_pub: str,
        region: str,
        capabilities: Capabilities,
        enrolled_at: datetime,
    ) -> None:
        self.device_type = device_type
        self.ed25519_pub = ed25519_pub
        self.x25519_pub = x25519_pub
        self.region = region
        self.capabilities = capabilities
        self.enrolled_at = enrolled_at

    def suspend(self, reason: str) -> None:
        """Take no part until reinstated. Raises DeviceNotEnrolled, DeviceRetired, StatusReasonInvalid."""
        self._require_not_retired()
        if self.status != SUSPENDED:
            self._suspended(reason=checked_reason(reason))

    @event(DeviceFacts.Suspended)
    def _suspended(self, reason: str) -> None:
        self.status = SUSPENDED
        self.forfeits = True

    def reinstate(self, reason: str) -> None:
        """Take part again. Raises DeviceNotEnrolled, DeviceRetired, StatusReasonInvalid."""
        self._require_not_retired()
        if self.status != ACTIVE:
            self._reinstated(reason=checked_reason(reason))

    @event(DeviceFacts.Reinstated)
    def _reinstated(self, reason: str) -> None:
        self.status = ACTIVE
        self.forfeits = False

    def retire(self, reason: str) -> None:
        """Take no part ever again. Raises DeviceNotEnrolled, StatusReasonInvalid."""
        self.require_enrolled()
        if self.status != RETIRED:
            self._retired(reason=checked_reason(reason))

    @event(DeviceFacts.Retired)
    def _retired(self, reason: str) -> None:
        self.status = RETIRED

    def rotate_key(self, ed25519_pub: str) -> None:
        """Sign with another key. Raises PublicKeyMalformed, PublicKeyWeak, KeyUnchanged, as `require_active`."""
        self.require_active()
        check_signing_key(ed25519_pub)
        if ed25519_pub == self.ed25519_pub:
            raise KeyUnchanged("the device has this key")
        self._key_rotated(ed25519_pub=ed25519_pub)

    @event(DeviceFacts.KeyRotated)
    def _key_rotated(self, ed25519_pub: str) -> None:
        self.ed25519_pub = ed25519_pub
        self.key_number += 1

    def change_capabilities(self, capabilities: Capabilities) -> None:
        """Record what the device can do now, unless it is what is known.

        Raises:
            CapabilitiesInvalid, CapabilitiesBeyondEvidence, and what `require_active` does.
        """
        self.require_active()
        wanted = checked(capabilities)
        if self.evidence is not None:
            check_borne_out(wanted, self.evidence)
        if wanted != self.capabilities:
            self._capabilities_changed(capabilities=wanted)

    @event(DeviceFacts.CapabilitiesChanged)
    def _capabilities_changed(self, capabilities: Capabilities) -> None:
        self.capabilities = capabilities

    def prove(self, evidence: Evidence, signature: str, now: datetime) -> None:
        """Record what the device has measured of itself.

        Raises:
            MeasurementMethodUnknown, MeasurementImpossible, EvidenceTimeInvalid, EvidenceSignatureInvalid, and what
            `require_active` does.
        """
        self.require_active()
        checked_evidence(evidence, self.evidence, now)
        check_evidence_signature(self.ed25519_pub, self.device_id, evidence, signature)
        self._benchmarked(evidence=evidence, signature=signature)

    @event(DeviceFacts.Benchmarked)
    def _benchmarked(self, evidence: Evidence, signature: str) -> None:
        self.evidence = evidence

    def drop_evidence(self) -> None:
        """Count what the device has measured no more."""
        if self.evidence is not None:
            self._evidence_dropped()

    @event(DeviceFacts.EvidenceDropped)
    def _evidence_dropped(self) -> None:
        self.evidence = None

    def see(self, seen_at: datetime) -> None:
        """The device has sent a heartbeat. Raises what `require_active` does."""
        self.require_active()
        if self.presence != ONLINE:
            self._went_online(seen_at=seen_at)

    @event(DeviceFacts.WentOnline)
    def _went_online(self, seen_at: datetime) -> None:
        self.presence = ONLINE
        self.seen_at = seen_at

    def miss(self, seen_at: datetime) -> None:
        """An online device has been silent for a while, since `seen_at`. Raises DeviceNotEnrolled."""
        self.require_enrolled()
        if self.presence == ONLINE:
            self._went_degraded(seen_at=seen_at)

    @event(DeviceFacts.WentDegraded)
    def _went_degraded(self, seen_at: datetime) -> None:
        self.presence = DEGRADED
        self.seen_at = seen_at

    def lose(self, last_seen_at: datetime) -> None:
        """The device has been silent for long, since `last_seen_at`. Raises DeviceNotEnrolled."""
        self.require_enrolled()
        if self.presence != OFFLINE:
            self._went_offline(last_seen_at=last_seen_at)

    @event(DeviceFacts.WentOffline)
    def _went_offline(self, last_seen_at: datetime) -> None:
        self.presence = OFFLINE
        self.seen_at = last_seen_at

    def measure_latency(self, latency_ms: int) -> None:
        """Record the latency class the device is in now, unless it is the known one.

        Raises:
            LatencyInvalid, and what `require_active` does.
        """
        self.require_active()
        if latency_ms not in LATENCY_CLASSES_MS:
            raise LatencyInvalid(f"{latency_ms} is none of {', '.join(map(str, LATENCY_CLASSES_MS))}")
        if latency_ms != self.latency_ms:
            self._latency_class_changed(latency_ms=latency_ms)

    @event(DeviceFacts.LatencyClassChanged)
    def _latency_class_changed(self, latency_ms: int) -> None:
        self.latency_ms = latency_ms

    def require_enrolled(self) -> None:
        """Raises DeviceNotEnrolled."""
        if not self.enrolled:
            raise DeviceNotEnrolled(f"device {self.device_id} has a claim and has not enrolled")

    def require_active(self) -> None:
        """Raises DeviceNotEnrolled, DeviceSuspended, DeviceRetired."""
        self.require_enrolled()
        if self.status in REFUSALS:
            raise REFUSALS[self.status](f"device {self.device_id} is {self.status}")

    def _require_not_retired(self) -> None:
        self.require_enrolled()
        if self.status == RETIRED:
            raise DeviceRetired(f"device {self.device_id} is retired")
