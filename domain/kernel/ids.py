"""Deterministic identifiers: name-based UUIDs (RFC 9562, version 5) in one namespace per kind of thing."""

from functools import cache
from uuid import UUID, uuid5

_ROOT = UUID("5ad1a6c4-2c57-5c0b-9d0f-6f1b7d0c6a11")


@cache
def namespace(kind: str) -> UUID:
    """The namespace of one kind of thing, for example `tokenomics.Wallet`."""
    return uuid5(_ROOT, kind)


def derive(kind: str, *parts: object) -> UUID:
    """The id of the thing of this kind with this business key; the same key always gives the same id."""
    return uuid5(namespace(kind), "|".join(map(str, parts)))
