"""How a device becomes known to a village, by its claim code and keys, and how it changes its signing key."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

from domain.device_registry.enrolment import claim_sha256, device_id_of, proof_text, rotation_text
from workers.device_agent.client import ApiRefused, VillageClient
from workers.device_agent.state import Capabilities, DeviceState, Identity


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


async def rotate_key(state: DeviceState, identity: Identity, member: VillageClient, renewed: VillageClient) -> None:
    """Put a new signing key in place of the device's. `member` signs with the present key, `renewed` with the next.

    The next key is on disk before it is told, so whatever breaks in between, doing it again ends with a key that the
    village knows: a refused signature is looked into by a heartbeat under the next key. Raises ApiRefused or
    ApiUnavailable; the present key stays then.
    """
    key = f"rotate-{uuid4()}"
    answer = await member.command("/v1/device_registry/request_challenge", {}, f"{key}-challenge")
    challenge, new = str(answer["challenge"]), state.next_signing_key()
    old_pub, new_pub = (_b64(held.public_key().public_bytes_raw()) for held in (state.signing_key, new))
    text = rotation_text(challenge, identity.device_id, old_pub, new_pub)
    body = {
        "challenge": challenge,
        "ed25519_pub": new_pub,
        "signature": _b64(state.signing_key.sign(text)),
        "proof": _b64(new.sign(text)),
    }
    try:
        await member.command("/v1/device_registry/rotate_key", body, key)
    except ApiRefused as refused:
        try:
            await renewed.beat(state.next_sequence(), None)
        except ApiRefused:
            raise refused from None
    state.adopt_next_key()


def _b64(value: bytes) -> str:
    return base64.b64encode(value).decode()
