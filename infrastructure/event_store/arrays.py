"""Values in Postgres's binary form, packed by hand: a third of the driver's cost, and that under the log's lock."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from operator import mul
from struct import Struct
from uuid import UUID

_HEAD = Struct("!iiIii")
_EMPTY = Struct("!iiI")
_LENGTH = Struct("!i")
_BIGINT = Struct("!iq")
_SIXTEEN = _LENGTH.pack(16)
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_BIGINT_OID, _BYTEA_OID, _TEXT_OID, _UUID_OID = 20, 17, 25, 2950

Times = Sequence[int] | None
"""How often each item is repeated; None for once."""


def bigint(number: int) -> bytes:
    """bigint"""
    return number.to_bytes(8, "big", signed=True)


def instant(moment: datetime) -> bytes:
    """timestamptz"""
    return bigint((moment - _EPOCH) // _MICROSECOND)


def bigints(items: Iterable[int], times: Times = None) -> bytes:
    """bigint[]"""
    return _array(_BIGINT_OID, [_BIGINT.pack(8, item) for item in items], times)


def uuids(items: Iterable[UUID], times: Times = None) -> bytes:
    """uuid[]"""
    return _array(_UUID_OID, [_SIXTEEN + item.int.to_bytes(16, "big") for item in items], times)


def uuids_of_bytes(items: Sequence[bytes]) -> bytes:
    """uuid[], of items of 16 bytes"""
    if not items:
        return _EMPTY.pack(0, 0, _UUID_OID)
    return _HEAD.pack(1, 0, _UUID_OID, len(items), 1) + _SIXTEEN + _SIXTEEN.join(items)


def byteas(items: Iterable[bytes], times: Times = None) -> bytes:
    """bytea[]"""
    return _array(_BYTEA_OID, [_LENGTH.pack(len(item)) + item for item in items], times)


def texts(items: Iterable[str], times: Times = None) -> bytes:
    """text[]"""
    return _array(_TEXT_OID, list(map(_text, items)), times)


@lru_cache(4_096)
def _text(item: str) -> bytes:
    encoded = item.encode()
    return _LENGTH.pack(len(encoded)) + encoded


def _array(oid: int, packed: list[bytes], times: Times) -> bytes:
    """backend/utils/adt/arrayfuncs.c, array_recv: one dimension, no nulls."""
    count = len(packed) if times is None else sum(times)
    if not count:
        return _EMPTY.pack(0, 0, oid)
    return _HEAD.pack(1, 0, oid, count, 1) + b"".join(packed if times is None else map(mul, packed, times))
