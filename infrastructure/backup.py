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

from .database import migrate, revision

FORMAT: Final = 1
FILE_MODE: Final = 0o600
CHUNK_BYTES: Final = 1 << 20

# What cannot be folded from something else. Presence and cursors of read models are left out: they come back by
# themselves. Cursors of sagas and of the relay must not: they say what has been done already.
TABLES: Final[dict[str, str]] = {
    "log.events": "TABLE log.events",
    "log.commands": "TABLE log.commands",
    "log.hashes": "TABLE log.hashes",
    "log.checkpoints": "TABLE log.checkpoints",
    "engine.cursors": "SELECT * FROM engine.cursors WHERE name LIKE 'saga:%' OR name LIKE 'relay:%'",
}
Progress = Callable[[str, int], None]


class BackupInvalid(ValueError):
    """The file is not a whole backup of this format."""


class TargetNotEmpty(RuntimeError):
    """A backup is restored into a database that has no facts, so that nothing is ever overwritten."""


class Manifest(msgspec.Struct, frozen=True):
    """What a backup holds: format, schema revision, newest position, rows by table."""

    format: int
    revision: str
    head: int
    rows: dict[str, int]


def backup(url: str, file: Path, progress: Progress = lambda table, size: None) -> Manifest:
    """Write a backup of a running village; readers and writers go on. The file appears whole, mode 0600.

    Keys and blobs are files of the home folder and are not in it: copy them too, the keys to a safer place.

    Args:
        progress: told of each table and how many bytes of it are written so far.

    Raises:
        FileExistsError: there is a file already. psycopg.OperationalError.
    """
    if file.exists():
        raise FileExistsError(f"{file} exists already")
    now = revision(url)
    assert now is not None, "only a migrated database is backed up"
    draft = file.with_name(f".{file.name}.draft")
    try:
        with _private(draft) as target, tarfile.open(fileobj=target, mode="w:gz", compresslevel=1) as archive:
            manifest = _write_tables(url, now, archive, progress)
        draft.rename(file)
    finally:
        draft.unlink(missing_ok=True)
    return manifest


def restore(url: str, file: Path, progress: Progress = lambda table, size: None) -> Manifest:
    """Bring an empty database to the newest schema and put a backup into it; the projector then folds the rest.

    Raises:
        BackupInvalid: the file is damaged, incomplete or of another format. Nothing is changed then.
        TargetNotEmpty: the database has facts.
    """
    migrate(url)
    try:
        with tarfile.open(file, mode="r:gz") as archive, psycopg.connect(url) as connection:
            manifest = _manifest(archive)
            if connection.execute("SELECT EXISTS (SELECT FROM log.events)").fetchone() != (False,):
                raise TargetNotEmpty("the database has facts already")
            for table in TABLES:
                _read_table(archive, connection, table, manifest, progress)
    except (tarfile.TarError, EOFError, OSError, KeyError, msgspec.MsgspecError, psycopg.DataError) as error:
        raise BackupInvalid(f"{file}: {error}") from error
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE log.events")
    return manifest


def _write_tables(url: str, now: str, archive: tarfile.TarFile, progress: Progress) -> Manifest:
    rows: dict[str, int] = {}
    with psycopg.connect(url) as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        row = connection.execute("SELECT coalesce(max(position), 0) FROM log.events").fetchone()
        assert row is not None
        for table, query in TABLES.items():
            with tempfile.TemporaryFile() as spool:
                with connection.cursor() as cursor:
                    with cursor.copy(f"COPY ({query}) TO STDOUT (FORMAT BINARY)".encode()) as copy:
                        for chunk in copy:
                            spool.write(chunk)
                            progress(table, spool.tell())
                    rows[table] = cursor.rowcount
                _add(archive, table, spool)
    manifest = Manifest(FORMAT, now, int(row[0]), rows)
    with tempfile.TemporaryFile() as spool:
        spool.write(json.dumps(msgspec.to_builtins(manifest)).encode())
        _add(archive, "manifest.json", spool)
    return manifest


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
    if manifest.format != FORMAT:
        raise BackupInvalid(f"format {manifest.format}; this is for format {FORMAT}")
    return manifest


def _read_table(
    archive: tarfile.TarFile, connection: psycopg.Connection[Any], table: str, manifest: Manifest, progress: Progress
) -> None:
    content = archive.extractfile(table)
    if content is None:
        raise BackupInvalid(f"there is no {table}")
    with connection.cursor() as cursor:
        with cursor.copy(f"COPY {table} FROM STDIN (FORMAT BINARY)".encode()) as copy:
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
