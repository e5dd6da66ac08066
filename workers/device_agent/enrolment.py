"""How a device becomes known to a village: its claim code, its new keys, and a signed challenge."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

from domain.device_registry.enrolment import claim_sha256, device_id_of, proof_text
from workers.device_agent.client import ApiRefused, VillageClient
from workers.device_agent.state import Capabilities, DeviceState


@dataclass(frozen=True)
class Applicant:
    """What the owner says of the device. The claim code is a secret until it is used."""

    claim_code: str = field(repr=False)
    device_type: str
    region: str

    @property
    def device_id(self) -> UUID:
        """The id this claim code gives its device."""
        return device_id_of(claim_sha256(self.claim_code))

    def request(self, state: DeviceState, challenge: str, capabilities: Capabilities) -> Mapping[str, Any]:
        """The body of `register_device`, with the proof that this device holds the keys it names."""
        ed25519_pub = _b64(state.signing_key.public_key().public_bytes_raw())
        x25519_pub = _b64(state.agreement_key.public_key().public_bytes_raw())
        text = proof_text(challenge, self.claim_code, ed25519_pub, x25519_pub)
        return {
            "claim_code": self.claim_code,
            "challenge": challenge,
            "device_type": self.device_type,
            "region": self.region,
            "ed25519_pub": ed25519_pub,
            "x25519_pub": x25519_pub,
            "capabilities": capabilities,
            "proof": _b64(state.signing_key.sign(text)),
        }


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
