"""Devices for tests: keys, claims and enrolments, made by the village's own commands."""

import base64
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from api.edge.principals import EnrolledDevice
from domain.device_registry import enrolment
from domain.device_registry.capabilities import Capabilities
from domain.device_registry.device import Device
from domain.device_registry.evidence import Evidence, Measurement, evidence_text
from domain.device_registry.service import DeviceRegistryService
from domain.kernel import new_scope, within
from domain.kernel.time import utc
from projections.device_registry import DeviceRow

NOW = utc(2026, 1, 1)
CLAIM_EXPIRES_AT = NOW + timedelta(hours=1)


def some_capabilities(**changes: Any) -> Capabilities:
    """What an ordinary device can do, with changes."""
    usual: dict[str, Any] = {
        "ram_mb": 4_096,
        "cpu_cores": 4,
        "compute_score": 12_000,
        "frameworks": ["pytorch"],
        "capabilities": ["federated_learning"],
        "benchmark_id": "matmul-f32-v1",
    }
    return Capabilities(**usual | changes)


class Directory(dict[UUID, EnrolledDevice]):
    """The devices an edge knows, for tests that are not about the registry."""

    def __call__(self, device_id: UUID, /) -> EnrolledDevice | None:
        return self.get(device_id)

    look_again = __call__


@dataclass
class Applicant:
    """Somebody with a claim code and two key pairs who may become a device."""

    code: str = field(default_factory=lambda: enrolment.claim_code(b"test", secrets.token_bytes(16)))
    challenge: str = "a-challenge"
    signing: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    agreement: X25519PrivateKey = field(default_factory=X25519PrivateKey.generate)

    @property
    def claim_sha256(self) -> str:
        return enrolment.claim_sha256(self.code)

    @property
    def device_id(self) -> UUID:
        return enrolment.device_id_of(self.claim_sha256)

    @property
    def ed25519_pub(self) -> str:
        return base64.b64encode(self.signing.public_key().public_bytes_raw()).decode()

    @property
    def x25519_pub(self) -> str:
        return base64.b64encode(self.agreement.public_key().public_bytes_raw()).decode()

    def proof(self) -> str:
        """The signature over challenge, claim and keys."""
        text = enrolment.proof_text(self.challenge, self.code, self.ed25519_pub, self.x25519_pub)
        return base64.b64encode(self.signing.sign(text)).decode()

    def signed(self, evidence: Evidence) -> str:
        """The signature over evidence of what this device has measured."""
        return base64.b64encode(self.signing.sign(evidence_text(self.device_id, evidence))).decode()

    def evidence(self, results: Sequence[tuple[str, int, int]], at: datetime | None = None) -> dict[str, Any]:
        """Signed evidence of methods, versions and values, as a request tells it, on a machine of 4 cores and 4 GiB."""
        measured_at = at or datetime.now(UTC)
        told = Evidence(4, 4_096, [Measurement(*result, measured_at) for result in results])
        body: dict[str, Any] = msgspec.to_builtins(told)
        return body | {"signature": self.signed(told)}

    def rotation(self, new: Ed25519PrivateKey, challenge: str | None = None) -> dict[str, Any]:
        """The arguments of `rotate_key` but the device."""
        challenge = challenge or self.challenge
        public = base64.b64encode(new.public_key().public_bytes_raw()).decode()
        text = enrolment.rotation_text(challenge, self.device_id, self.ed25519_pub, public)
        signature, proof = (base64.b64encode(key.sign(text)).decode() for key in (self.signing, new))
        return {"challenge": challenge, "ed25519_pub": public, "signature": signature, "proof": proof}

    def application(self, **changes: Any) -> dict[str, Any]:
        """The arguments of `register_device`, with changes."""
        return {
            "claim_code": self.code,
            "challenge": self.challenge,
            "proof": self.proof(),
            "device_type": "smartphone",
            "region": "eu-west",
            "ed25519_pub": self.ed25519_pub,
            "x25519_pub": self.x25519_pub,
            "capabilities": some_capabilities(),
        } | changes


def claimed_device(applicant: Applicant | None = None, owner_id: UUID | None = None) -> Device:
    """A device with a claim, not recorded."""
    applicant = applicant or Applicant()
    return Device.claim(
        device_id=applicant.device_id,
        owner_id=owner_id or uuid4(),
        claim_sha256=applicant.claim_sha256,
        expires_at=CLAIM_EXPIRES_AT,
        now=NOW,
    )


def enrolled_device(applicant: Applicant | None = None, **changes: Any) -> Device:
    """A device that has enrolled, not recorded."""
    applicant = applicant or Applicant()
    device = claimed_device(applicant)
    application = applicant.application(**changes)
    for checked_elsewhere in ("claim_code", "challenge", "proof"):
        del application[checked_elsewhere]
    device.enrol(now=NOW, **application)
    return device


def enrol(
    service: DeviceRegistryService,
    applicant: Applicant | None = None,
    *,
    owner_id: UUID | None = None,
    now: datetime = NOW,
    **changes: Any,
) -> UUID:
    """Issue a claim and enrol a device with it, in the log; answers the device's id."""
    applicant = applicant or Applicant()
    with within(new_scope("test", now=now)):
        service.issue_claim(
            owner_id=owner_id or uuid4(), claim_sha256=applicant.claim_sha256, expires_at=now + timedelta(hours=1)
        )
    with within(new_scope("test", now=now)):
        service.register_device(**applicant.application(**changes))
    return applicant.device_id


def device_row(**changes: Any) -> DeviceRow:
    """The read model's row of an ordinary device that is online, with changes."""
    usual: dict[str, Any] = {
        "device_id": UUID(int=0),
        "owner_id": UUID(int=0),
        "device_type": "smartphone",
        "region": "eu-west",
        "ed25519_pub": "key",
        "x25519_pub": "key",
        **msgspec.structs.asdict(some_capabilities()),
        "presence": "online",
        "seen_at": NOW,
        "latency_ms": None,
        "reputation": {},
        "evidence": {},
        "enrolled_at": NOW,
        "position": 1,
        "status": "active",
        "status_reason": "",
        "benchmark": {},
        "matrix_mflops": None,
        "memory_mb_s": None,
        "disk_mb_s": None,
        "remeasure_until": None,
        "remeasure_seed": "",
        "disputes": [],
    }
    return DeviceRow(**usual | changes)
