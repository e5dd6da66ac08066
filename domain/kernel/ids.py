"""Deterministic identifiers: name-based UUIDs (RFC 9562, version 5) in one namespace per kind of thing."""

from functools import cache
from hashlib import sha1
from uuid import UUID, SafeUUID, uuid5

_ROOT = UUID("5ad1a6c4-2c57-5c0b-9d0f-6f1b7d0c6a11")

_UNKNOWN = SafeUUID.unknown
_VERSION_OFF = ~(0xF000 << 64 | 0xC000 << 48)
_VERSION_5 = 5 << 76 | 0x8000 << 48


@cache
def namespace(kind: str) -> UUID:
    """The namespace of one kind of thing, for example `tokenomics.Wallet`."""
    return uuid5(_ROOT, kind)


def event_id(command_id: UUID, index: int) -> UUID:
    """The id of a command's n-th event: `uuid5(command_id, str(index))`, made at a third of its cost."""
    digest = sha1(command_id.int.to_bytes(16, "big") + b"%d" % index, usedforsecurity=False).digest()
    made = object.__new__(UUID)
    object.__setattr__(made, "int", int.from_bytes(digest[:16], "big") & _VERSION_OFF | _VERSION_5)
    object.__setattr__(made, "is_safe", _UNKNOWN)
    return made


def derive(kind: str, *parts: object) -> UUID:
    """The id of the thing of this kind with this business key; the same key always gives the same id."""
    return uuid5(namespace(kind), "|".join(map(str, parts)))
