"""Identifiers: name-based UUIDs (RFC 9562, version 5) in one namespace per kind of thing, and random ones."""

import os
from functools import cache
from hashlib import sha1
from uuid import UUID, SafeUUID

_ROOT = UUID("5ad1a6c4-2c57-5c0b-9d0f-6f1b7d0c6a11")

_UNKNOWN = SafeUUID.unknown
_VERSION_OFF = ~(0xF000 << 64 | 0xC000 << 48)
_VERSION_4 = 4 << 76 | 0x8000 << 48
_VERSION_5 = 5 << 76 | 0x8000 << 48
_DRAWN_AT_ONCE = 256
_set = object.__setattr__


@cache
def namespace(kind: str) -> UUID:
    """The namespace of one kind of thing, for example `tokenomics.Wallet`."""
    return named(_ROOT, kind)


def named(space: UUID, name: str) -> UUID:
    """`uuid5(space, name)`, made at a third of its cost."""
    digest = sha1(space.int.to_bytes(16, "big") + name.encode(), usedforsecurity=False).digest()
    return _uuid(int.from_bytes(digest[:16], "big") & _VERSION_OFF | _VERSION_5)


def event_id(command_id: UUID, index: int) -> UUID:
    """The id of a command's n-th event: the command's own, with n + 1 in its last bits.

    Ids of commands are random in all of 122 bits, so that those of their events differ too; those of one command are
    neighbours in an index, which a hash of each would not be.
    """
    return UUID(bytes=event_id_bytes(command_id.int, index))


def event_id_bytes(command: int, index: int) -> bytes:
    """The 16 bytes of `event_id`, from the number of the command's id."""
    return (command ^ index + 1).to_bytes(16, "big")


def derive(kind: str, *parts: object) -> UUID:
    """The id of the thing of this kind with this business key; the same key always gives the same id."""
    return named(namespace(kind), "|".join(map(str, parts)))


def random_id() -> UUID:
    """`uuid4()`, out of a store: each look at the system's randomness gives the interpreter away to other threads."""
    while True:
        try:
            return _uuid(_drawn.pop() & _VERSION_OFF | _VERSION_4)
        except IndexError:
            drawn = os.urandom(16 * _DRAWN_AT_ONCE)
            _drawn.extend(int.from_bytes(drawn[at : at + 16], "big") for at in range(0, len(drawn), 16))


_drawn: list[int] = []
os.register_at_fork(after_in_child=_drawn.clear)  # two processes never give the same id


def _uuid(number: int) -> UUID:
    """`UUID(int=number)`, without its checks."""
    made = object.__new__(UUID)
    _set(made, "int", number)
    _set(made, "is_safe", _UNKNOWN)
    return made
