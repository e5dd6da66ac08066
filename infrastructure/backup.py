"""Backup and restore: the truth of a village in one file, taken from one snapshot; read models are folded anew."""

import json
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import psycopg
from psycopg import sql

from .database import migrate, revision

FORMAT: Final = 2
FILE_MODE: Final = 0o600
CHUNK_BYTES: Final = 1 << 20

# What cannot be folded from something else. Presence and cursors of read models are left out: they come back by
# themselves. Cursors of sagas and of the relay must not: they say what has been done already.
TABLES: Final[dict[str, str]] = {
    "log.archives": "TABLE log.archives",
    "log.events": "TABLE log.events",
    "log.commands": "TABLE log.commands",
    "log.hashes": "TABLE log.hashes",
    "log.checkpoints": "TABLE log.checkpoints",
    "engine.cursors": "SELECT * FROM engine.cursors WHERE name LIKE 'saga:%' OR name LIKE 'relay:%'",
}
# In a file of their own, of which only the newest is kept: an older one still has the keys of those erased since.
KEY_TABLES: Final[dict[str, str]] = {"edge.subject_keys": "TABLE edge.subject_keys"}
# Format 1 named no columns and knew no archive.
FORMAT_1: Final[dict[str, list[str]]] = {
    "log.events": [
        "position", "stream", "version", "topic", "state", "event_id", "command_id", "correlation_id", "causation_id",
        "actor", "recorded_at",
    ],
    "log.commands": ["actor", "method", "key", "body_hash", "answer", "position", "recorded_at"],
    "log.hashes": ["level", "index", "hash"],
    "log.checkpoints": ["size", "note", "sealed_at"],
    "engine.cursors": [
        "name", "partition", "position", "version", "owner", "fence", "leased_until", "rebuilt_at", "updated_at"
    ],
}  # fmt: skip
# What migrations have done since to rows of these tables: done again to an older backup's, after it is read.
MENDED_BY: Final[dict[str, str]] = {
    "0095": """
UPDATE engine.cursors SET name = renamed.new
FROM (VALUES
    ('saga:CoordinateTraining', 'saga:coordinate_training'),
    ('saga:RewardTraining', 'saga:reward_training')
) AS renamed (old, new)
WHERE name = renamed.old
"""
}
Progress = Callable[[str, int], None]


class BackupInvalid(ValueError):
    """The file is not a whole backup of this format, or of a newer schema than this release's."""


class TargetNotEmpty(RuntimeError):
    """A backup is restored into a database that has no facts, so that nothing is ever overwritten."""


class Manifest(msgspec.Struct, frozen=True):
    """What a backup holds: format, schema revision, newest position, rows and columns by table."""

    format: int
    revision: str
    head: int
    rows: dict[str, int]
    columns: dict[str, list[str]] = msgspec.field(default_factory=lambda: FORMAT_1)


def backup(url: str, file: Path, progress: Progress = lambda table, size: None) -> Manifest:
    """Write a backup of a running village; readers and writers go on. The file appears whole, mode 0600.

    The wrapped keys of subjects go to `keys_beside(file)`. All other keys, blobs and the archive are files of the home
    folder and not in it: copy them too, the keys to a safer place.

    Args:
        progress: told of each table and how many bytes of it are written so far.

    Raises:
        FileExistsError: there is a file already. psycopg.OperationalError.
    """
    for each in (file, keys_beside(file)):
        if each.exists():
            raise FileExistsError(f"{each} exists already")
    now = revision(url)
    assert now is not None, "only a migrated database is backed up"
    manifest = _written(url, now, file, TABLES, progress)
    # Afterwards, so that it has the key of every text in the log before it.
    _written(url, now, keys_beside(file), KEY_TABLES, progress)
    return manifest


def keys_beside(file: Path) -> Path:
    """Where the keys of subjects are kept that a backup belongs to: the same name with `.keys`."""
    return file.with_name(f"{file.name}.keys")


def restore(url: str, file: Path, progress: Progress = lambda table, size: None) -> Manifest:
    """Bring an empty database to the newest schema and put a backup into it; the projector then folds the rest.

    With `keys_beside(file)`, if that is there: else what was sealed stays closed. The eraser then destroys again what
    the log says is erased.

    Raises:
        BackupInvalid: the file is damaged, incomplete, of another format or a newer schema. Nothing is changed then.
        TargetNotEmpty: the database has facts.
    """
    migrate(url)
    newest = revision(url)
    assert newest is not None, "it has been migrated"
    try:
        with psycopg.connect(url) as connection:
            if connection.execute("SELECT EXISTS (SELECT FROM log.events)").fetchone() != (False,):
                raise TargetNotEmpty("the database has facts already")
            manifest = _loaded(connection, newest, file, TABLES, progress)
            for mended_by in sorted(MENDED_BY):
                if manifest.revision < mended_by:
                    connection.execute(MENDED_BY[mended_by].encode())
            if keys_beside(file).exists():
                _loaded(connection, newest, keys_beside(file), KEY_TABLES, progress)
    except (tarfile.TarError, EOFError, OSError, KeyError, msgspec.MsgspecError, psycopg.DataError) as error:
        raise BackupInvalid(f"{file}: {error}") from error
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE log.events")
    return manifest


def _written(url: str, now: str, file: Path, tables: dict[str, str], progress: Progress) -> Manifest:
    draft = file.with_name(f".{file.name}.draft")
    try:
        with _private(draft) as target, tarfile.open(fileobj=target, mode="w:gz", compresslevel=1) as archive:
            manifest = _write_tables(url, now, archive, tables, progress)
        draft.rename(file)
    finally:
        draft.unlink(missing_ok=True)
    return manifest


def _loaded(
    connection: psycopg.Connection[Any], newest: str, file: Path, tables: dict[str, str], progress: Progress
) -> Manifest:
    with tarfile.open(file, mode="r:gz") as archive:
        manifest = _manifest(archive)
        if manifest.revision > newest:
            raise BackupInvalid(f"it is of schema {manifest.revision}, newer than {newest} of this release")
        for table in tables if manifest.format > 1 else FORMAT_1:
            _read_table(archive, connection, table, manifest, progress)
    return manifest


def _write_tables(url: str, now: str, archive: tarfile.TarFile, tables: dict[str, str], progress: Progress) -> Manifest:
    rows: dict[str, int] = {}
    columns: dict[str, list[str]] = {}
    with psycopg.connect(url) as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        row = connection.execute("SELECT coalesce(max(position), 0) FROM log.events").fetchone()
        assert row is not None
        for table, query in tables.items():
            columns[table], rows[table] = _write_table(connection, archive, table, query, progress)
    manifest = Manifest(FORMAT, now, int(row[0]), rows, columns)
    with tempfile.TemporaryFile() as spool:
        spool.write(json.dumps(msgspec.to_builtins(manifest)).encode())
        _add(archive, "manifest.json", spool)
    return manifest


def _write_table(
    connection: psycopg.Connection[Any], archive: tarfile.TarFile, table: str, query: str, progress: Progress
) -> tuple[list[str], int]:
    """The names of its columns, and how many rows were written."""
    with tempfile.TemporaryFile() as spool, connection.cursor() as cursor:
        named = cursor.execute(f"{query} LIMIT 0".encode()).description or []
        with cursor.copy(f"COPY ({query}) TO STDOUT (FORMAT BINARY)".encode()) as copy:
            for chunk in copy:
                spool.write(chunk)
                progress(table, spool.tell())
        _add(archive, table, spool)
        return [column.name for column in named], cursor.rowcount


def _add(archive: tarfile.TarFile, name: str, spool: Any) -> None:
    member = tarfile.TarInfo(name)
    member.size = spool.seek(0, os.SEEK_END)
    member.mode = FILE_MODE
    spool.seek(0)
    archive.addfile(member, spool)


def _manifest(archive: tarfile.TarFile) -> Manifest:
    content = archive.extractfile("manifest.json")
    if content is None:
        raise BackupInvalid("there is no manifest")
    manifest = msgspec.json.decode(content.read(), type=Manifest)
    if not 1 <= manifest.format <= FORMAT:
        raise BackupInvalid(f"format {manifest.format}; this is for formats 1 to {FORMAT}")
    return manifest


def _read_table(
    archive: tarfile.TarFile, connection: psycopg.Connection[Any], table: str, manifest: Manifest, progress: Progress
) -> None:
    content = archive.extractfile(table)
    if content is None:
        raise BackupInvalid(f"there is no {table}")
    columns = sql.SQL(", ").join(map(sql.Identifier, manifest.columns[table]))
    statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(sql.Identifier(*table.split(".")), columns)
    with connection.cursor() as cursor:
        with cursor.copy(statement) as copy:
            while chunk := content.read(CHUNK_BYTES):
                copy.write(chunk)
                progress(table, content.tell())
        if cursor.rowcount != manifest.rows[table]:
            raise BackupInvalid(f"{table} has {cursor.rowcount} rows, not {manifest.rows[table]}")


@contextmanager
def _private(path: Path) -> Iterator[Any]:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
    with os.fdopen(descriptor, "wb") as target:
        yield target
        target.flush()
        os.fsync(target.fileno())
