"""Keys of subjects: one a person, in a table beside the log, wrapped by a key that only the keys folder holds.

Nothing here is kept in memory: a key that is destroyed is gone for every process at its next question.
"""

import secrets
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple
from uuid import UUID

import psycopg
import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from domain.kernel.errors import SealingUnavailable, SubjectErased
from domain.kernel.personal import Sealed, SealedText, Shown

from .database import Database
from .keys import key_folder, read_or_make_secret

NONCE_BYTES: Final = 12
KEY_BITS: Final = 256
REWRAPPED_AT_ONCE: Final = 500
MAX_ROTATIONS: Final = 9_999

_HELD = "SELECT subject, wrapped, kek_version, erased_at FROM edge.subject_keys WHERE subject = ANY(%s)"
_MAKE = "INSERT INTO edge.subject_keys (subject, wrapped, kek_version) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING"
_DESTROY = """
    INSERT INTO edge.subject_keys AS held (subject, erased_at) SELECT unnest(%s::uuid[]), clock_timestamp()
    ON CONFLICT (subject) DO UPDATE SET wrapped = NULL, kek_version = NULL, erased_at = excluded.erased_at
    WHERE held.erased_at IS NULL
"""
_OLDER = "SELECT subject, wrapped, kek_version FROM edge.subject_keys WHERE kek_version <> %s LIMIT %s"
_REWRAP = "UPDATE edge.subject_keys SET wrapped = %s, kek_version = %s WHERE subject = %s AND wrapped = %s"
_STATE = "SELECT created_at, erased_at FROM edge.subject_keys WHERE subject = %s"

_log = structlog.get_logger()


class KeyEncryptionKeys:
    """The keys that wrap subjects' keys: files `keys/subjects_NNNN.key`, the one of the highest number in use."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def newest(self) -> tuple[int, bytes]:
        """Version and key to wrap with; the first is made when there is none. Raises KeyStoreUnsafe."""
        version = max(self.versions(), default=1)
        return version, read_or_make_secret(self._path(version))

    def of(self, version: int) -> bytes | None:
        """The key of a version, None when its file is gone. Raises KeyStoreUnsafe."""
        path = self._path(version)
        return read_or_make_secret(path) if path.exists() else None

    def rotate(self) -> int:
        """Make a new key and answer its version; the older ones stay until they are deleted."""
        version = max(self.versions(), default=0) + 1
        assert version <= MAX_ROTATIONS, "keys are rotated some times a year"
        read_or_make_secret(self._path(version))
        return version

    def versions(self) -> list[int]:
        """The versions whose files are there, oldest first."""
        return sorted(int(path.stem.rpartition("_")[2]) for path in key_folder(self._home).glob("subjects_*.key"))

    def paths(self) -> list[Path]:
        """The files, oldest first."""
        return list(map(self._path, self.versions()))

    def _path(self, version: int) -> Path:
        return key_folder(self._home) / f"subjects_{version:04d}.key"


class KeyState(NamedTuple):
    """Since when there is a row for a subject, and when its key was destroyed."""

    created_at: datetime
    erased_at: datetime | None


class SubjectKeyTable:
    """Answers the kernel's port `SubjectKeys`, with the writer's rights on `edge.subject_keys`."""

    def __init__(self, database: Database, wrapping: KeyEncryptionKeys) -> None:
        self._database = database
        self._wrapping = wrapping

    def seal(self, subject: UUID, text: bytes, place: bytes) -> Sealed:
        """Seal under the subject's key, made when there is none. Raises SubjectErased, SealingUnavailable."""
        try:
            return seal_under(self._key_to_seal(subject), subject, text, place)
        except psycopg.Error as error:
            raise SealingUnavailable("the table of keys does not answer") from error

    def open(self, texts: Iterable[SealedText]) -> Mapping[SealedText, Shown]:
        """What can be shown of these texts now; one question to the database for all of them."""
        asked = set(texts)
        if not asked:
            return {}
        with self._database.writer.connection() as connection:
            subjects = list({text.sealed.subject for text in asked})
            held = {row[0]: _Held(*row) for row in connection.execute(_HELD, (subjects,))}
        keys = {subject: self._unwrapped(row) for subject, row in held.items()}
        return {text: _shown(text, held.get(text.sealed.subject), keys.get(text.sealed.subject)) for text in asked}

    def destroy(self, subjects: Iterable[UUID]) -> int:
        """Overwrite the keys of these subjects and see to it that they get no other; answers how many had not been."""
        with self._database.writer.connection() as connection:
            return connection.execute(_DESTROY, (list(subjects),)).rowcount

    def rewrap(self) -> int:
        """Wrap every key that an older wrapping key holds with the newest one; answers how many were.

        Raises:
            SealingUnavailable: an older wrapping key is gone.
        """
        version, key = self._wrapping.newest()
        done = 0
        while older := self._older(version):
            with self._database.writer.connection() as connection:
                for subject, wrapped, of in older:
                    plain = self._unwrapped(_Held(subject, wrapped, of, None))
                    if plain is None:
                        raise SealingUnavailable(f"the key of {subject} is wrapped by version {of}, which is not there")
                    fresh = _wrap(key, version, subject, plain)
                    # Only what is still there as it was read: a key that was destroyed meanwhile stays so.
                    done += connection.execute(_REWRAP, (fresh, version, subject, wrapped)).rowcount
        return done

    def state(self, subject: UUID) -> KeyState | None:
        """What is known of a subject's key, None when it never had one."""
        with self._database.reader.connection() as connection:
            row = connection.execute(_STATE, (subject,)).fetchone()
        return None if row is None else KeyState(*row)

    def _key_to_seal(self, subject: UUID) -> bytes:
        with self._database.writer.connection() as connection:
            row = connection.execute(_HELD, ([subject],)).fetchone()
            if row is None:
                version, key = self._wrapping.newest()
                made = _wrap(key, version, subject, AESGCM.generate_key(KEY_BITS))
                connection.execute(_MAKE, (subject, made, version))
                # As it stands: another process may have been first.
                row = connection.execute(_HELD, ([subject],)).fetchone()
        assert row is not None, "rows of subjects are never deleted"
        held = _Held(*row)
        if held.erased_at is not None:
            raise SubjectErased(f"subject {subject}")
        if (plain := self._unwrapped(held)) is None:
            raise SealingUnavailable(f"the key of {subject} cannot be unwrapped")
        return plain

    def _unwrapped(self, held: "_Held") -> bytes | None:
        if held.wrapped is None or held.kek_version is None:
            return None
        key = self._wrapping.of(held.kek_version)
        try:
            return None if key is None else _unwrap(key, held.kek_version, held.subject, held.wrapped)
        except InvalidTag:
            return None

    def _older(self, version: int) -> list[tuple[UUID, bytes, int]]:
        with self._database.writer.connection() as connection:
            rows = connection.execute(_OLDER, (version, REWRAPPED_AT_ONCE)).fetchall()
            return [(subject, wrapped, of) for subject, wrapped, of in rows]


class _Held(NamedTuple):
    subject: UUID
    wrapped: bytes | None
    kek_version: int | None
    erased_at: datetime | None


def seal_under(key: bytes, subject: UUID, text: bytes, place: bytes) -> Sealed:
    """AES-256-GCM under a fresh random nonce, bound to a place."""
    nonce = secrets.token_bytes(NONCE_BYTES)
    ciphertext = AESGCM(key).encrypt(nonce, text, place)
    return Sealed(subject, b64encode(nonce).decode(), b64encode(ciphertext).decode())


def open_under(key: bytes, text: SealedText) -> str | None:
    """The text, None when it was not sealed under this key, for this place, as it is."""
    try:
        nonce = b64decode(text.sealed.nonce, validate=True)
        ciphertext = b64decode(text.sealed.ciphertext, validate=True)
        return AESGCM(key).decrypt(nonce, ciphertext, text.place).decode()
    except (InvalidTag, ValueError):
        return None


def _shown(text: SealedText, held: _Held | None, key: bytes | None) -> Shown:
    if held is not None and held.erased_at is not None:
        return Shown(text.sealed.subject, None, erased=True)
    opened = None if key is None else open_under(key, text)
    if opened is None:
        _log.error("a sealed text does not open", event_id=str(text.event_id), field=text.field, key=key is not None)
    return Shown(text.sealed.subject, opened, erased=False)


def _wrap(key: bytes, version: int, subject: UUID, plain: bytes) -> bytes:
    nonce = secrets.token_bytes(NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, plain, _bound(version, subject))


def _unwrap(key: bytes, version: int, subject: UUID, wrapped: bytes) -> bytes:
    return AESGCM(key).decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], _bound(version, subject))


def _bound(version: int, subject: UUID) -> bytes:
    return b"ai-village subject key\x01" + version.to_bytes(4, "big") + subject.bytes
