"""The keys that sign checkpoints of the log: one at a time, the former ones kept for verifying."""

from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from domain.audit.checkpoint import Verifier

from .keys import key_folder, read_or_make_signing_key

MAX_ROTATIONS = 10_000


@dataclass(frozen=True, slots=True)
class SealingKeys:
    """The present signing key and every verifier of this village, oldest first. `repr` shows no secret."""

    name: str
    current: Ed25519PrivateKey = field(repr=False)
    verifiers: list[Verifier]


def load_sealing_keys(home: Path, name: str) -> SealingKeys:
    """Read the sealing keys in `home`/keys, making the first one.

    Args:
        name: what the log is called in checkpoints (their origin).

    Raises:
        KeyStoreUnsafe: a file has the wrong mode or content.
    """
    folder = key_folder(home)
    keys = [read_or_make_signing_key(path) for path in _paths(folder) or [folder / "log_sealing_0001.pem"]]
    return SealingKeys(name, keys[-1], [Verifier(name, key.public_key().public_bytes_raw()) for key in keys])


def rotate_sealing_key(home: Path, name: str) -> SealingKeys:
    """Make a new sealing key; checkpoints from now on are signed with it, older ones stay verifiable."""
    load_sealing_keys(home, name)
    folder = key_folder(home)
    number = int(_paths(folder)[-1].stem.rpartition("_")[2]) + 1
    assert number <= MAX_ROTATIONS, "keys are rotated some times a year"
    read_or_make_signing_key(folder / f"log_sealing_{number:04d}.pem")
    return load_sealing_keys(home, name)


def _paths(folder: Path) -> list[Path]:
    return sorted(folder.glob("log_sealing_*.pem"))
