"""How a device becomes known to a village: its claim code, its new keys, and a signed challenge."""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from domain.device_registry.device import device_id_of
from workers.device_agent.client import ApiRefused, VillageClient
from workers.device_agent.state import Capabilities, DeviceState

PROOF_CONTEXT = b"aivillage-enrol-v1"


@dataclass(frozen=True)
class Applicant:
    """What the owner says of the device. `claim_code` is a secret; `repr` does not show it."""

    claim_code: str
    device_type: str
    region: str

    def __repr__(self) -> str:
        return f"Applicant({self.device_type!r}, {self.region!r})"

    @property
    def device_id(self) -> UUID:
        """The id this claim code gives its device."""
        return device_id_of(self._claim_sha256)

    @property
    def _claim_sha256(self) -> str:
        return hashlib.sha256(self.claim_code.encode()).hexdigest()

    def request(self, state: DeviceState, challenge: str, capabilities: Capabilities) -> Mapping[str, Any]:
        """The body of `register_device`, with the proof that this device holds the keys it names."""
        ed25519_pub = _b64(state.signing_key.public_key().public_bytes_raw())
        x25519_pub = _b64(state.agreement_key.public_key().public_bytes_raw())
        return {
            "claim_code": self.claim_code,
            "challenge": challenge,
            "device_type": self.device_type,
            "region": self.region,
            "ed25519_pub": ed25519_pub,
            "x25519_pub": x25519_pub,
            "capabilities": capabilities,
            "proof": prove(state.signing_key, challenge, self._claim_sha256, ed25519_pub, x25519_pub),
        }


def prove(key: Ed25519PrivateKey, challenge: str, claim_sha256: str, ed25519_pub: str, x25519_pub: str) -> str:
    """The signature (base64) over the challenge, the claim and both public keys as they are sent."""
    lines = [challenge, claim_sha256, ed25519_pub, x25519_pub]
    return _b64(key.sign(b"\n".join([PROOF_CONTEXT, *(line.encode() for line in lines)])))


async def enrol(
    applicant: Applicant, state: DeviceState, stranger: VillageClient, member: VillageClient, capabilities: Capabilities
) -> UUID:
    """Register the device; answers its id. `stranger` signs nothing, `member` signs as the id the claim gives.

    A device killed after the village had registered it, before it knew, asks again: the claim is used then, and a
    signed heartbeat shows that it was used by these very keys. Raises ApiRefused or ApiUnavailable.
    """
    key = f"enrol-{uuid4()}"
    answer = await stranger.command("/v1/device_registry/request_challenge", {}, f"{key}-challenge")
    body = applicant.request(state, str(answer["challenge"]), capabilities)
    try:
        await stranger.command("/v1/device_registry/register_device", body, key)
    except ApiRefused as refused:
        try:
            await member.beat(state.next_sequence(), None)
        except ApiRefused:
            raise refused from None
    return applicant.device_id


def _b64(value: bytes) -> str:
    return base64.b64encode(value).decode()
