"""Arrays for Postgres packed by hand: a third of the driver's cost, and that under the log's lock."""

from collections.abc import Iterable
from itertools import chain
from struct import Struct
from typing import Any, ClassVar
from uuid import UUID

import psycopg
from psycopg.adapt import Dumper
from psycopg.pq import Format

_HEAD = Struct("!iiIii")
_LENGTH = Struct("!i")
_BIGINT = Struct("!iq")
_SIXTEEN = _LENGTH.pack(16)


class Packed:
    """An array in Postgres's binary form (backend/utils/adt/arrayfuncs.c, array_recv): one dimension, no nulls."""

    __slots__ = ("data",)
    element_oid: ClassVar[int]
    array_oid: ClassVar[int]

    def __init__(self, count: int, body: bytes) -> None:
        head = _HEAD.pack(1, 0, self.element_oid, count, 1) if count else _HEAD.pack(0, 0, self.element_oid, 0, 1)[:12]
        self.data = head + body


class Uuids(Packed):
    """uuid[]"""

    element_oid, array_oid = 2950, 2951

    def __init__(self, items: Iterable[UUID]) -> None:
        packed = [_SIXTEEN + item.int.to_bytes(16, "big") for item in items]
        super().__init__(len(packed), b"".join(packed))


class Bigints(Packed):
    """bigint[]"""

    element_oid, array_oid = 20, 1016

    def __init__(self, items: Iterable[int]) -> None:
        packed = [_BIGINT.pack(8, item) for item in items]
        super().__init__(len(packed), b"".join(packed))


class Byteas(Packed):
    """bytea[]"""

    element_oid, array_oid = 17, 1001

    def __init__(self, items: Iterable[bytes]) -> None:
        packed = list(items)
        super().__init__(
            len(packed), b"".join(chain.from_iterable(zip(map(_LENGTH.pack, map(len, packed)), packed, strict=True)))
        )


class Texts(Byteas):
    """text[]"""

    element_oid, array_oid = 25, 1009

    def __init__(self, items: Iterable[str]) -> None:
        super().__init__(map(str.encode, items))


class _PackedDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: Any) -> bytes:
        return bytes(obj.data)


for _kind in (Uuids, Bigints, Byteas, Texts):
    psycopg.adapters.register_dumper(_kind, type(f"{_kind.__name__}Dumper", (_PackedDumper,), {"oid": _kind.array_oid}))
