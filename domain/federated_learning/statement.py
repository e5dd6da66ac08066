"""What a device signs of an update: with the log and the device's key anyone can check who sent it, for ever."""

import base64
from uuid import UUID

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from domain.kernel import Refusal


class UpdateSignatureInvalid(Refusal):
    """An update carries the signature of its device over the round, the blob and the figures it announces."""


def statement(*, round_id: UUID, device_id: UUID, blob_hash: str, bytes: int, examples: int, train_ms: int) -> bytes:
    """The bytes that are signed. The norm is not among them: it follows from the blob."""
    lines = ("ai-village update v1", round_id, device_id, blob_hash, bytes, examples, train_ms)
    return "".join(f"{line}\n" for line in lines).encode()


def sign(key: Ed25519PrivateKey, stated: bytes) -> str:
    """A device's signature over its statement (Ed25519, base64)."""
    return base64.b64encode(key.sign(stated)).decode()


def check_signature(key: Ed25519PublicKey, signature: str, stated: bytes) -> None:
    """Raises UpdateSignatureInvalid."""
    try:
        key.verify(base64.b64decode(signature, validate=True), stated)
    except (InvalidSignature, ValueError) as error:
        raise UpdateSignatureInvalid("the signature is not this device's over this update") from error
