"""What a device keeps on its own disk: keys, identity, heartbeat sequence, and a journal of each round."""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import IO, TypeVar
from uuid import UUID

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

T = TypeVar("T")
Capabilities = dict[str, int | str | list[str]]
"""What a device can do, in the fields of the enrolment."""

ROUNDS_KEPT = 3
MODELS_KEPT = 2
_SIGNING_KEY, _NEXT_KEY = "ed25519.key", "ed25519.next"
_DIRECTORY_MODE = 0o700
_FILE_MODE = 0o600


class StateInUse(Exception):
    """Another process runs this device."""


class Stage(StrEnum):
    """How far a round has come on this device. A round that ended (`submitted`, `refused`) is not done again."""

    ASSIGNED = "assigned"
    DOWNLOADED = "downloaded"
    TRAINED = "trained"
    UPLOADED = "uploaded"
    SUBMITTED = "submitted"
    REFUSED = "refused"


class RoundJournal(msgspec.Struct, frozen=True):
    """The last completed step of one round, and what it gave."""

    round_id: UUID
    number: int
    model_hash: str
    stage: Stage
    blob_hash: str = ""
    bytes: int = 0
    examples: int = 0
    train_ms: int = 0
    norm: float = 0.0
    reason: str = ""

    @property
    def ended(self) -> bool:
        """Whether nothing is left to do in this round."""
        return self.stage in (Stage.SUBMITTED, Stage.REFUSED)


class Identity(msgspec.Struct, frozen=True):
    """Who this device is to the village, once it is enrolled, and of when the evidence is that it has told."""

    device_id: UUID
    api_url: str
    capabilities: Capabilities
    measured_at: datetime | None = None


class DeviceState:
    """One device's folder (mode 0700), held by one process at a time. Every write is atomic and synced.

    Raises StateInUse when another process holds the folder; `close` lets it go, as does the process's end.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for part in (folder, folder / "rounds", folder / "models"):
            part.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
        folder.chmod(_DIRECTORY_MODE)
        self._lock: IO[bytes] = _hold(folder / "lock")
        self.signing_key = Ed25519PrivateKey.from_private_bytes(self._secret(_SIGNING_KEY, _new_ed25519))
        self.agreement_key = X25519PrivateKey.from_private_bytes(self._secret("x25519.key", _new_x25519))
        self._sequence = self._read_sequence()

    def next_signing_key(self) -> Ed25519PrivateKey:
        """The key to rotate to, made once and kept until it is adopted."""
        return Ed25519PrivateKey.from_private_bytes(self._secret(_NEXT_KEY, _new_ed25519))

    def adopt_next_key(self) -> None:
        """The village knows this device by the next key from now on, and the old one is gone."""
        self.signing_key = self.next_signing_key()
        (self.folder / _NEXT_KEY).replace(self.folder / _SIGNING_KEY)

    def close(self) -> None:
        """Let another process hold the folder."""
        self._lock.close()

    @property
    def identity(self) -> Identity | None:
        """Who the village knows this device as, or None before enrolment."""
        return _read(self.folder / "identity.json", Identity)

    def enrolled(self, identity: Identity) -> None:
        """Keep who this device is."""
        write_private(self.folder / "identity.json", msgspec.json.encode(identity))

    def next_sequence(self) -> int:
        """A number greater than every one given before, also after a crash: it is on disk before it is used."""
        self._sequence += 1
        write_private(self.folder / "sequence", str(self._sequence).encode())
        return self._sequence

    def journal(self, round_id: UUID) -> RoundJournal | None:
        """The journal of a round, or None when this device has not begun it (or cannot read what is there)."""
        return _read(self._round(round_id) / "journal.json", RoundJournal)

    def write_journal(self, journal: RoundJournal) -> None:
        """Keep the step just completed; what it rests on must be on disk already."""
        folder = self._round(journal.round_id)
        folder.mkdir(mode=_DIRECTORY_MODE, exist_ok=True)
        write_private(folder / "journal.json", msgspec.json.encode(journal))
        if journal.ended:
            (folder / "update.safetensors").unlink(missing_ok=True)
            self._forget_old()

    def update_path(self, round_id: UUID) -> Path:
        """Where the update of a round lies until it is submitted."""
        return self._round(round_id) / "update.safetensors"

    def save_update(self, round_id: UUID, blob: bytes) -> None:
        """Keep a trained update until it is submitted."""
        self._round(round_id).mkdir(mode=_DIRECTORY_MODE, exist_ok=True)
        write_private(self.update_path(round_id), blob)

    def model_path(self, model_hash: str) -> Path:
        """Where a global model lies; the name is checked by the client before it becomes a path."""
        return self.folder / "models" / f"{model_hash}.safetensors"

    def _round(self, round_id: UUID) -> Path:
        return self.folder / "rounds" / str(round_id)

    def _forget_old(self) -> None:
        for folder in _newest(self.folder / "rounds")[ROUNDS_KEPT:]:
            shutil.rmtree(folder, ignore_errors=True)
        for file in _newest(self.folder / "models")[MODELS_KEPT:]:
            file.unlink(missing_ok=True)

    def _secret(self, name: str, make: Callable[[], bytes]) -> bytes:
        path = self.folder / name
        if not path.exists():
            write_private(path, make())
        return path.read_bytes()

    def _read_sequence(self) -> int:
        path = self.folder / "sequence"
        return int(path.read_text()) if path.exists() else 0


def file_matches(path: Path, sha256: str) -> bool:
    """Whether a file exists and has this SHA-256 (lower-case hex). Memory stays at one chunk."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except OSError:
        return False


def write_private(path: Path, content: bytes) -> None:
    """Replace a file (mode 0600) so that a crash leaves the old content or the new, never a part."""
    draft = path.with_name(f"{path.name}.part")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _FILE_MODE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _hold(path: Path) -> IO[bytes]:
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, _FILE_MODE), "r+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise StateInUse(f"{path.parent} is in use by another process") from error
    return file


def _new_ed25519() -> bytes:
    return Ed25519PrivateKey.generate().private_bytes_raw()


def _new_x25519() -> bytes:
    return X25519PrivateKey.generate().private_bytes_raw()


def _read(path: Path, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def _newest(folder: Path) -> list[Path]:
    return sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns, reverse=True)
