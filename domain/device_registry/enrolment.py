"""Enrolment: claim codes, challenges, and the proof that a device holds the key it shows. Pure computation."""

import base64
import binascii
import hashlib
import hmac
from datetime import UTC, datetime
from uuid import UUID

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from domain.kernel import Refusal, derive

CLAIM_CODE_BYTES = 20
"""160 bits: nobody guesses a claim code."""

MAX_CLAIM_CODE = 128
MAX_CHALLENGE = 128
CHALLENGE_LIFETIME_MS = 300_000
KEY_LENGTH = 44
PROOF_LENGTH = 88
_PROOF_HEADER = b"aivillage-enrol-v1"
_ROTATION_HEADER = b"aivillage-rotate-key-v1"
_NONCE_BYTES = 16

_P = 2**255 - 19
_ORDER_8_Y = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
# The y coordinates of the eight points of small order: for such a key anybody can make a signature.
_SMALL_ORDER_Y = frozenset({0, 1, _P - 1, _ORDER_8_Y, _P - _ORDER_8_Y})
_PROBE = X25519PrivateKey.from_private_bytes(bytes(range(32)))


class ClaimUnknown(Refusal):
    """A device enrols with a claim code that was issued."""


class ClaimExpired(Refusal):
    """A claim code is used before it expires."""


class ClaimAlreadyUsed(Refusal):
    """A claim code enrols one device."""

    status = 409


class ClaimExpiryInvalid(Refusal):
    """A claim expires in the future, within 30 days."""


class ChallengeInvalid(Refusal):
    """The challenge is one this village has made."""


class ChallengeExpired(Refusal):
    """A challenge is answered within five minutes."""


class PublicKeyMalformed(Refusal):
    """A public key is 32 bytes in canonical base64."""


class PublicKeyWeak(Refusal):
    """A public key is not a point of small order, for which anybody could sign or agree."""


class EnrolmentProofInvalid(Refusal):
    """A device proves its key by signing the challenge, the claim and both its public keys."""


class KeyUnchanged(Refusal):
    """A device rotates to a key that is not the present one."""


class RotationSignatureInvalid(Refusal):
    """The present key of a device signs the challenge, the device and both keys."""


class RotationProofInvalid(Refusal):
    """A new key proves itself by signing the challenge, the device and both keys."""


def claim_code(secret: bytes, seed: bytes) -> str:
    """The claim code that a secret key makes of a seed: 160 bits in base32. The same seed gives the same code."""
    return base64.b32encode(hmac.digest(secret, b"claim\n" + seed, "sha256")[:CLAIM_CODE_BYTES]).decode().lower()


def claim_sha256(code: str) -> str:
    """The hash under which a claim code is recorded, in hexadecimal."""
    return hashlib.sha256(code.encode()).hexdigest()


def device_id_of(sha256_hex: str) -> UUID:
    """The id of the device that will enrol with the claim code of this hash."""
    return derive("device_registry.Device", sha256_hex)


def challenge(secret: bytes, nonce: bytes, expires_at: datetime) -> str:
    """A challenge to be signed. It carries its own expiry and authenticator, so none has to be stored."""
    body = int(expires_at.timestamp() * 1_000).to_bytes(8) + nonce[:_NONCE_BYTES]
    return base64.urlsafe_b64encode(body + _authenticator(secret, body)).decode().rstrip("=")


def check_challenge(secret: bytes, given: str, now: datetime) -> None:
    """Accept a challenge that this secret has made and that has not expired.

    Raises:
        ChallengeInvalid, ChallengeExpired.
    """
    try:
        raw = base64.b64decode(given + "=" * (-len(given) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise ChallengeInvalid("not base64") from error
    body, authenticator = raw[:-32], raw[-32:]
    if len(body) != 8 + _NONCE_BYTES or not hmac.compare_digest(authenticator, _authenticator(secret, body)):
        raise ChallengeInvalid("not made by this village")
    expires_at = datetime.fromtimestamp(int.from_bytes(body[:8]) / 1_000, UTC)
    if now >= expires_at:
        raise ChallengeExpired(f"expired at {expires_at.isoformat()}")


def proof_text(challenge: str, code: str, ed25519_pub: str, x25519_pub: str) -> bytes:
    """What a device signs to enrol: the strings as sent, one a line."""
    lines = (challenge, claim_sha256(code), ed25519_pub, x25519_pub)
    return b"\n".join((_PROOF_HEADER, *(line.encode() for line in lines)))


def rotation_text(challenge: str, device_id: UUID, old: str, new: str) -> bytes:
    """What both keys of a device sign to rotate from the old one to the new one: one a line."""
    return b"\n".join((_ROTATION_HEADER, *(line.encode() for line in (challenge, str(device_id), old, new))))


def check_keys(ed25519_pub: str, x25519_pub: str) -> None:
    """Accept two public keys that are safe to trust.

    Raises:
        PublicKeyMalformed, PublicKeyWeak.
    """
    check_signing_key(ed25519_pub)
    try:
        _PROBE.exchange(X25519PublicKey.from_public_bytes(_key("x25519_pub", x25519_pub)))
    except ValueError as error:
        raise PublicKeyWeak("x25519_pub") from error


def check_signing_key(ed25519_pub: str) -> None:
    """Accept an Ed25519 key for which nobody signs without its private key.

    Raises:
        PublicKeyMalformed, PublicKeyWeak.
    """
    y = int.from_bytes(_key("ed25519_pub", ed25519_pub), "little") & (2**255 - 1)
    if y >= _P:
        raise PublicKeyMalformed("ed25519_pub is not a canonical point")
    if y in _SMALL_ORDER_Y:
        raise PublicKeyWeak("ed25519_pub")


def check_proof(*, challenge: str, code: str, ed25519_pub: str, x25519_pub: str, proof: str) -> None:
    """Accept a proof by the Ed25519 key it is about.

    Raises:
        EnrolmentProofInvalid, PublicKeyMalformed.
    """
    if not is_signed(ed25519_pub, proof, proof_text(challenge, code, ed25519_pub, x25519_pub)):
        raise EnrolmentProofInvalid("the proof does not verify with ed25519_pub")


def check_rotation(*, challenge: str, device_id: UUID, old: str, new: str, signature: str, proof: str) -> None:
    """Accept a new key that the old one has signed and that has signed itself.

    Raises:
        RotationSignatureInvalid, RotationProofInvalid, PublicKeyMalformed.
    """
    text = rotation_text(challenge, device_id, old, new)
    if not is_signed(old, signature, text):
        raise RotationSignatureInvalid("the signature does not verify with the present key")
    if not is_signed(new, proof, text):
        raise RotationProofInvalid("the proof does not verify with ed25519_pub")


def is_signed(ed25519_pub: str, signature: str, text: bytes) -> bool:
    """Whether a signature in base64 is by this key over this text. Raises PublicKeyMalformed."""
    key = Ed25519PublicKey.from_public_bytes(_key("ed25519_pub", ed25519_pub))
    try:
        key.verify(base64.b64decode(signature, validate=True), text)
    except (binascii.Error, ValueError, InvalidSignature):
        return False
    return True


def _authenticator(secret: bytes, body: bytes) -> bytes:
    return hmac.digest(secret, b"challenge\n" + body, "sha256")


def _key(field: str, text: str) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise PublicKeyMalformed(f"{field} is not base64") from error
    if len(raw) != 32 or base64.b64encode(raw).decode() != text:
        raise PublicKeyMalformed(f"{field} is not 32 bytes in canonical base64")
    return raw
