"""Checkpoints: the size and root of the log, signed as a note (C2SP tlog-checkpoint and signed-note)."""

import base64
import re
from hashlib import sha256

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from .merkle import HASH_BYTES

ED25519 = 0x01
"""Algorithm byte of Ed25519 in a signed note's key id."""

_SIGNATURE = re.compile(r"— (\S+) ([A-Za-z0-9+/]+={0,2})")


class CheckpointInvalid(ValueError):
    """A checkpoint is malformed, or no trusted key has signed it."""


class Checkpoint(msgspec.Struct, frozen=True):
    """What was signed: the first `size` facts of the log named `origin` hash to `root` (RFC 6962)."""

    origin: str
    size: int
    root: bytes

    def body(self) -> str:
        """The text that is signed: origin, size in decimal, root in base64, each on a line."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


class Verifier(msgspec.Struct, frozen=True):
    """A public key by the name under which it signs."""

    name: str
    public: bytes

    @property
    def key_id(self) -> bytes:
        """First four bytes of SHA-256(name || newline || algorithm || key), as signed-note says."""
        return sha256(self.name.encode() + b"\n" + bytes([ED25519]) + self.public).digest()[:4]

    def text(self) -> str:
        """The key as a note verifier string: `name+keyid+base64`."""
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(bytes([ED25519]) + self.public).decode()}"

    @classmethod
    def parse(cls, text: str) -> "Verifier":
        """Read a verifier string.

        Raises:
            CheckpointInvalid: it is malformed.
        """
        name, _, rest = text.strip().partition("+")
        key_id, _, encoded = rest.partition("+")
        try:
            key = base64.b64decode(encoded, validate=True)
        except ValueError as error:
            raise CheckpointInvalid("the verifier key is not base64") from error
        found = cls(name, key[1:])
        if len(key) != HASH_BYTES + 1 or key[0] != ED25519 or found.key_id.hex() != key_id:
            raise CheckpointInvalid("the verifier key does not match its id")
        return found


def sign(checkpoint: Checkpoint, name: str, key: Ed25519PrivateKey) -> str:
    """The checkpoint as a signed note."""
    verifier = Verifier(name, key.public_key().public_bytes_raw())
    body = checkpoint.body()
    signature = base64.b64encode(verifier.key_id + key.sign(body.encode())).decode()
    return f"{body}\n— {name} {signature}\n"


def verify(note: str, trusted: list[Verifier]) -> Checkpoint:
    """The checkpoint in a note that one of the trusted keys has signed.

    Raises:
        CheckpointInvalid: it is malformed, or none of them has.
    """
    body, separator, signatures = note.partition("\n\n")
    if not separator:
        raise CheckpointInvalid("a note has a blank line before its signatures")
    signed = (body + "\n").encode()
    for name, encoded in _SIGNATURE.findall(signatures):
        try:
            blob = base64.b64decode(encoded)
        except ValueError:
            continue
        for key in trusted:
            if key.name == name and key.key_id == blob[:4]:
                try:
                    Ed25519PublicKey.from_public_bytes(key.public).verify(blob[4:], signed)
                except InvalidSignature as error:
                    raise CheckpointInvalid(f"the signature of {name} is wrong") from error
                return _parse(body)
    raise CheckpointInvalid("no trusted key has signed this checkpoint")


def _parse(body: str) -> Checkpoint:
    lines = body.split("\n")
    try:
        origin, size, root = lines[0], int(lines[1]), base64.b64decode(lines[2], validate=True)
    except (IndexError, ValueError) as error:
        raise CheckpointInvalid("a checkpoint is origin, size and root") from error
    if size < 0 or str(size) != lines[1] or len(root) != HASH_BYTES:
        raise CheckpointInvalid("a checkpoint's size is decimal and its root has 32 bytes")
    return Checkpoint(origin, size, root)
