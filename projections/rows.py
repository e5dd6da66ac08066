"""The one way to write a read model: a frozen row, the keys a fact touches, and a pure evolve."""

import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property
from operator import attrgetter
from types import NoneType, UnionType
from typing import Any, ClassVar, Generic, TypeVar
from uuid import UUID
from zlib import crc32

import msgspec
from psycopg import sql

from domain.kernel.fact import Fact

Key = Any
"""A row's key: the value of its key column, or a tuple when it has several."""


class Row(msgspec.Struct, frozen=True, gc=False):
    """One row of a read model. Its fields are the table's columns, in order; lists and dicts become jsonb."""


R = TypeVar("R", bound=Row)

_COLUMN_TYPES = {
    int: "bigint",
    str: "text",
    bool: "boolean",
    float: "double precision",
    UUID: "uuid",
    datetime: "timestamptz",
}
_COPIED_AS = {"uuid": "bytea", "jsonb": "bytea", "timestamptz": "bigint"}
_POSTGRES_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_JSONB_1 = b"\x01"
"""The version before the text of a jsonb in the binary form."""


class ReadModel(ABC, Generic[R]):
    """A table folded from facts. The same `evolve` serves live batches, rebuilds, as-of views and tests.

    Subclasses name the table (created by a migration), its row type, its key columns and the events they listen
    to. Raise `version` when `evolve` or `keys` changes meaning: the table is then rebuilt. `partitions` is how many
    workers may fold it at once, each the rows whose keys hash to its part.
    """

    name: ClassVar[str]
    table: ClassVar[str]
    row: ClassVar[type[Row]]
    key: ClassVar[tuple[str, ...]]
    version: ClassVar[int] = 1
    partitions: ClassVar[int] = 1
    folds_own_stream: ClassVar[bool] = False
    listens: ClassVar[tuple[type[Any], ...]]
    begins: ClassVar[tuple[type[Any], ...]] = ()
    """The events no row is looked for before: they open the stream that the row is of, or their fold does not ask
    what was there."""

    @abstractmethod
    def keys(self, fact: Fact) -> Iterable[Key]:
        """The keys of the rows this fact may change."""

    @abstractmethod
    def evolve(self, row: R | None, fact: Fact, key: Key) -> R | None:
        """The row after the fact; None deletes it (or leaves it absent). Pure."""

    @cached_property
    def topics(self) -> frozenset[str]:
        """The stored topics of the events listened to."""
        return frozenset(event.TOPIC for event in self.listens)

    @cached_property
    def beginnings(self) -> frozenset[str]:
        """The stored topics of the events that begin a row."""
        return frozenset(event.TOPIC for event in self.begins)

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Column names in row order."""
        return self.row.__struct_fields__

    @cached_property
    def _hints(self) -> tuple[Any, ...]:
        hints = typing.get_type_hints(self.row)
        return tuple(hints[name] for name in self.columns)

    @cached_property
    def types(self) -> tuple[str, ...]:
        """Postgres types in row order."""
        return tuple(map(_column_type, self._hints))

    @cached_property
    def single_key(self) -> bool:
        return len(self.key) == 1

    @cached_property
    def handle(self) -> Callable[[Key], Hashable]:
        """What a key is looked up by in memory: a UUID hashes and compares in Python, its number does not."""
        kinds = [self._hints[self.columns.index(name)] for name in self.key]
        match [kind is UUID for kind in kinds]:
            case [True]:
                return attrgetter("int")
            case [True, True]:
                return lambda key: (key[0].int, key[1].int)
            case [True, False]:
                return lambda key: (key[0].int, key[1])
        return lambda key: key

    def key_of(self, row: R) -> Key:
        """The key of a row."""
        values = tuple(getattr(row, name) for name in self.key)
        return values[0] if self.single_key else values

    def streams_of(self, key: Key) -> Sequence[UUID] | None:
        """The streams whose facts make this row, where they can be told from its key; None for any stream.

        By default a row keyed by an id is made from the stream of that id, if `folds_own_stream` says so.
        """
        return (key,) if self.folds_own_stream else None

    def partition_of(self, key: Key) -> int:
        """Which part of the read model a row belongs to; the same on every machine."""
        return crc32(str(key).encode()) % self.partitions if self.partitions > 1 else 0

    def key_text(self, key: Key) -> str:
        """A key as JSON, for tables that hold keys of any read model."""
        return msgspec.json.encode(key).decode()

    def key_from(self, text: str) -> Key:
        """The key that `key_text` wrote."""
        kinds = [self._hints[self.columns.index(name)] for name in self.key]
        kind = kinds[0] if self.single_key else tuple[tuple(kinds)]  # type: ignore[misc]
        return msgspec.json.decode(text, type=kind)

    @cached_property
    def _json_columns(self) -> tuple[tuple[int, Any], ...]:
        """Where in a record JSON comes that has to become what the row declares."""
        return tuple((index, self._hints[index]) for index, kind in enumerate(self.types) if kind == "jsonb")

    def read(self, record: Sequence[Any]) -> R:
        """A row from a database record in column order."""
        values = list(record)
        for index, hint in self._json_columns:
            values[index] = msgspec.convert(values[index], hint)
        return typing.cast(R, self.row(*values))

    # SQL, composed once per table. `into` lets a rebuild write the same rows to a shadow table.

    def select(self, from_table: str | None = None) -> sql.Composed:
        """SELECT of all columns, without a WHERE."""
        return sql.SQL("SELECT {columns} FROM {table}").format(
            columns=_names(self.columns), table=_table(from_table or self.table)
        )

    def select_by_keys(self, from_table: str | None = None) -> sql.Composed:
        """SELECT of the rows whose keys are given as one array per key column."""
        arrays = sql.SQL(", ").join(sql.SQL("%b::{}[]").format(sql.SQL(self._type_of(name))) for name in self.key)
        return sql.SQL("{select} WHERE ({key}) IN (SELECT * FROM unnest({arrays}))").format(
            select=self.select(from_table), key=_names(self.key), arrays=arrays
        )

    def upsert(self, into: str | None = None) -> sql.Composed:
        """INSERT ... ON CONFLICT of many rows, given as one array per column."""
        arrays = sql.SQL(", ").join(
            sql.SQL("%b::{}[]").format(sql.SQL("text" if kind == "jsonb" else kind)) for kind in self.types
        )
        chosen = sql.SQL(", ").join(
            sql.SQL("c{}::jsonb" if kind == "jsonb" else "c{}").format(sql.SQL(str(index)))
            for index, kind in enumerate(self.types)
        )
        aliases = sql.SQL(", ").join(sql.SQL(f"c{index}") for index in range(len(self.columns)))
        others = [name for name in self.columns if name not in self.key]
        update = sql.SQL(", ").join(
            sql.SQL("{name} = excluded.{name}").format(name=sql.Identifier(name)) for name in others
        )
        return sql.SQL(
            "INSERT INTO {table} ({columns}) SELECT {chosen} FROM unnest({arrays}) AS given ({aliases}) "
            "ON CONFLICT ({key}) DO {action}"
        ).format(
            table=_table(into or self.table),
            columns=_names(self.columns),
            chosen=chosen,
            arrays=arrays,
            aliases=aliases,
            key=_names(self.key),
            action=sql.SQL("UPDATE SET {}").format(update) if others else sql.SQL("NOTHING"),
        )

    def copy(self, into: str | None = None) -> sql.Composed:
        """COPY of new rows into the table, in the binary form."""
        return sql.SQL("COPY {table} ({columns}) FROM STDIN (FORMAT BINARY)").format(
            table=_table(into or self.table), columns=_names(self.columns)
        )

    @cached_property
    def copied_types(self) -> tuple[str, ...]:
        """The types under which `copied` gives the columns: COPY takes the bytes of a uuid or jsonb as they are."""
        return tuple(_COPIED_AS.get(kind, kind) for kind in self.types)

    def copied(self, rows: Sequence[R]) -> Iterable[tuple[Any, ...]]:
        """Rows as COPY takes them. By column: a dumper that is called for each value costs more."""
        columns = zip(*map(msgspec.structs.astuple, rows), strict=True)
        return zip(*map(_copied, self.types, columns), strict=True)

    def delete_by_keys(self, from_table: str | None = None) -> sql.Composed:
        """DELETE of the rows whose keys are given as one array per key column."""
        arrays = sql.SQL(", ").join(sql.SQL("%b::{}[]").format(sql.SQL(self._type_of(name))) for name in self.key)
        return sql.SQL("DELETE FROM {table} WHERE ({key}) IN (SELECT * FROM unnest({arrays}))").format(
            table=_table(from_table or self.table), key=_names(self.key), arrays=arrays
        )

    def arrays(self, rows: Sequence[R]) -> list[list[Any]]:
        """Rows as one array per column, as `upsert` takes them."""
        columns: list[list[Any]] = [[getattr(row, name) for row in rows] for name in self.columns]
        return [
            [None if value is None else msgspec.json.encode(value).decode() for value in column]
            if kind == "jsonb"
            else column
            for kind, column in zip(self.types, columns, strict=True)
        ]

    def key_arrays(self, keys: Sequence[Key]) -> list[list[Any]]:
        """Keys as one array per key column."""
        if self.single_key:
            return [list(keys)]
        return [list(column) for column in zip(*keys, strict=True)] if keys else [[] for _ in self.key]

    def _type_of(self, column: str) -> str:
        return self.types[self.columns.index(column)]


def _column_type(hint: Any) -> str:
    if typing.get_origin(hint) in (typing.Union, UnionType):
        (hint,) = [argument for argument in typing.get_args(hint) if argument is not NoneType]
    return _COLUMN_TYPES.get(typing.get_origin(hint) or hint, "jsonb")


def _copied(kind: str, column: Sequence[Any]) -> Sequence[Any]:
    if kind == "uuid":
        return [None if value is None else value.int.to_bytes(16, "big") for value in column]
    if kind == "timestamptz":
        return [None if value is None else (value - _POSTGRES_EPOCH) // _MICROSECOND for value in column]
    if kind == "jsonb":
        return [None if value is None else _JSONB_1 + msgspec.json.encode(value) for value in column]
    return column


def _names(columns: Iterable[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, columns))


def _table(qualified: str) -> sql.Identifier:
    return sql.Identifier(*qualified.split("."))
