"""Signatures in the one form that this village's own agents write: written, and read by regular expressions.

To read RFC 9421 in all its forms takes several times as long as to check Ed25519. The plain form is its own canonical
serialization (RFC 8941, section 4.1), so the signature base is cut from its text. Every other form is the library's.
"""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit
from uuid import UUID

_LABEL = "village"
_INPUT = re.compile(
    rf'{_LABEL}=(?P<signed>\("@method" "@path"(?P<query> "@query")?(?P<digest> "content-digest")?\)'
    r';created=(?P<created>[1-9][0-9]{0,9});keyid="(?P<keyid>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"'
    r';alg="ed25519";nonce="(?P<nonce>[A-Za-z0-9_-]{1,64})")'
)
_SIGNATURE = re.compile(rf"{_LABEL}=:([A-Za-z0-9+/]{{86}}==):")
_URL = re.compile(r"https?://[A-Za-z0-9.-]+(?::[0-9]+)?/[A-Za-z0-9._~/-]*(?:\?[A-Za-z0-9._~/=&-]*)?")
_DIGEST = re.compile(r"sha-256=:[A-Za-z0-9+/]{43}=:")


@dataclass(frozen=True, slots=True)
class PlainSignature:
    """A signature as it says of itself; `created` in seconds since 1970. Nothing of it is checked yet."""

    device_id: UUID
    created: int
    nonce: str
    covered: tuple[str, ...]
    signed: str
    signature: bytes
    digest: str | None

    def base(self, method: str, url: str) -> bytes | None:
        """What is signed; None for a url that is not plain."""
        return _base(method, url, self.covered, self.digest, self.signed) if _URL.fullmatch(url) else None


def plain(headers: Mapping[str, str]) -> PlainSignature | None:
    """The one signature of a request when it is in the plain form and no field comes twice, else None."""
    fields = list(headers.items())
    once = dict(fields)
    given = _INPUT.fullmatch(once.get("signature-input", ""))
    signature = _SIGNATURE.fullmatch(once.get("signature", ""))
    if given is None or signature is None or len(once) != len(fields):
        return None
    digest = once.get("content-digest", "") if given["digest"] else None
    if digest is not None and not _DIGEST.fullmatch(digest):
        return None
    further = [name for name in ("@query" if given["query"] else "", "content-digest" if digest else "") if name]
    return PlainSignature(
        UUID(given["keyid"]), int(given["created"]), given["nonce"], ("@method", "@path", *further), given["signed"],
        base64.b64decode(signature[1]), digest,
    )  # fmt: skip


def to_sign(
    method: str, url: str, covered: Sequence[str], digest: str | None, *, device_id: UUID, created: int, nonce: str
) -> tuple[str, bytes]:
    """Signature-Input of a request, and the bytes to sign. `url` is absolute and encoded, as it will be sent."""
    names = " ".join(f'"{name}"' for name in covered)
    signed = f'({names});created={created};keyid="{device_id}";alg="ed25519";nonce="{nonce}"'
    return f"{_LABEL}={signed}", _base(method, url, covered, digest, signed)


def signature_field(signature: bytes) -> str:
    """The Signature field."""
    return f"{_LABEL}=:{base64.b64encode(signature).decode()}:"


def _base(method: str, url: str, covered: Sequence[str], digest: str | None, signed: str) -> bytes:
    """The signature base (RFC 9421, section 2.5)."""
    parts = urlsplit(url)
    values = {
        "@method": method, "@path": parts.path or "/", "@query": f"?{parts.query}", "content-digest": digest,
    }  # fmt: skip
    lines = [f'"{name}": {values[name]}' for name in covered]
    return "\n".join([*lines, f'"@signature-params": {signed}']).encode("ascii")
