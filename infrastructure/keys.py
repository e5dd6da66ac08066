"""The village's own keys: made once at first start, kept as files only their owner can read."""

import os
import secrets
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

_DIRECTORY_MODE = 0o700
_FILE_MODE = 0o600
_SECRET_BYTES = 32


class KeyStoreUnsafe(RuntimeError):
    """A key folder or file is readable by others, is not a plain file, or does not hold what it should."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The secrets of one village. `repr` shows none of them.

    `token_signing` signs the JWTs of operators and members, `job_signing` the orders that devices are given (both
    Ed25519); `challenge` authenticates enrolment challenges (HMAC-SHA256); `claim_code` derives claim codes
    (HMAC-SHA256), so that none has to be stored; `request` tells requests with an idempotency key apart
    (HMAC-SHA256) without a trace of what is in them.
    """

    token_signing: Ed25519PrivateKey = field(repr=False)
    job_signing: Ed25519PrivateKey = field(repr=False)
    challenge: bytes = field(repr=False)
    claim_code: bytes = field(repr=False)
    request: bytes = field(repr=False)


def load_keys(home: Path) -> Keys:
    """Read the keys in `home`/keys, making the missing ones.

    Several processes may start at once: the first to publish a file wins and all read the same key.
    Raises KeyStoreUnsafe when a mode is wider than 0700 (folder) or 0600 (files).
    """
    folder = key_folder(home)
    return Keys(
        token_signing=read_or_make_signing_key(folder / "token_signing.pem"),
        job_signing=read_or_make_signing_key(folder / "job_signing.pem"),
        challenge=read_or_make_secret(folder / "challenge.key"),
        claim_code=read_or_make_secret(folder / "claim_code.key"),
        request=read_or_make_secret(folder / "request.key"),
    )


def key_folder(home: Path) -> Path:
    """`home`/keys, made with mode 0700 if missing. Raises KeyStoreUnsafe when its mode is wider."""
    folder = home / "keys"
    folder.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
    _refuse_shared(folder, _DIRECTORY_MODE)
    return folder


def read_or_make_signing_key(path: Path) -> Ed25519PrivateKey:
    """The Ed25519 key in a file, made if missing. Raises KeyStoreUnsafe for a wrong mode or content."""
    return _signing_key(path, _read_or_make(path, _new_signing_key))


def read_or_make_secret(path: Path) -> bytes:
    """The 32 secret bytes in a file, made if missing. Raises KeyStoreUnsafe for a wrong mode or length."""
    secret = _read_or_make(path, lambda: secrets.token_bytes(_SECRET_BYTES))
    if len(secret) != _SECRET_BYTES:
        raise KeyStoreUnsafe(f"{path} must hold {_SECRET_BYTES} bytes, it holds {len(secret)}")
    return secret


def _new_signing_key() -> bytes:
    return Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _signing_key(path: Path, pem: bytes) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(pem, password=None)
    except ValueError as error:
        raise KeyStoreUnsafe(f"{path} is not a private key in PEM form") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyStoreUnsafe(f"{path} is not an Ed25519 key")
    return key


def _read_or_make(path: Path, make: Callable[[], bytes]) -> bytes:
    if not path.exists():
        _publish(path, make())
    _refuse_shared(path, _FILE_MODE)
    return path.read_bytes()


def _publish(path: Path, content: bytes) -> None:
    """Write the whole file under another name, then link it: nobody ever reads half a key, and no key is replaced."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _FILE_MODE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            return  # another process was first: its key stands
        _sync_folder(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refuse_shared(path: Path, allowed: int) -> None:
    status = path.lstat()
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise KeyStoreUnsafe(f"{path} must be a plain file or folder, not a link")
    mode = stat.S_IMODE(status.st_mode)
    if mode & ~allowed:
        raise KeyStoreUnsafe(f"{path} has mode {mode:04o}; only {allowed:04o} or less is safe (chmod {allowed:o})")
