"""An update: what a device sends in a round, and what is checked of it before it counts."""

import math
from collections import OrderedDict
from threading import Lock

from domain.kernel import Forbidden, Refusal, Value

from .manifest import Blobs, ModelManifest, UpdateSizeMismatch, inspect_weights

MAX_EXAMPLES = 10**9
MAX_TRAIN_MS = 7 * 86_400_000
MAX_SIGNATURE = 512
NORM_TOLERANCE = 0.01
MAX_INSPECTIONS = 256


class RoundNotAccepting(Refusal):
    """Only an open round takes updates."""


class UpdateLate(Refusal):
    """An update comes before its round's deadline."""


class NotAParticipant(Forbidden):
    """Only the devices selected for a round send updates to it."""


class UpdateAlreadySubmitted(Refusal):
    """A device sends one update a round, and it cannot be replaced."""

    status = 409


class UpdateFiguresInvalid(Refusal):
    """The examples, training time and norm that come with an update lie within their bounds."""


class UpdateNormMismatch(Refusal):
    """The norm a device announces is that of the update it sends, within 1 %."""


class Update(Value, frozen=True):
    """An accepted update: where it is, what it weighs (`examples`), and the device's CPU time in ms."""

    blob_hash: str
    bytes: int
    examples: int
    train_ms: int
    norm: float


def check_figures(update: Update, signature: str) -> None:
    """Raises UpdateFiguresInvalid."""
    if not 1 <= update.examples <= MAX_EXAMPLES:
        raise UpdateFiguresInvalid(f"examples is 1 to {MAX_EXAMPLES}")
    if not 0 <= update.train_ms <= MAX_TRAIN_MS:
        raise UpdateFiguresInvalid(f"train_ms is 0 to {MAX_TRAIN_MS}")
    if len(signature) > MAX_SIGNATURE:
        raise UpdateFiguresInvalid(f"a signature has at most {MAX_SIGNATURE} characters")


def check_announced(*, size: int, found_size: int, norm: float, found_norm: float) -> None:
    """Raises UpdateSizeMismatch, UpdateNormMismatch."""
    if size != found_size:
        raise UpdateSizeMismatch(f"{size} bytes announced, {found_size} stored")
    if not math.isclose(norm, found_norm, rel_tol=NORM_TOLERANCE, abs_tol=1e-6):
        raise UpdateNormMismatch(f"{norm} announced, {found_norm:.6g} measured")


class Inspections:
    """What was found in blobs, so that a command that is decided again does not read a large blob again.

    A blob is named by its content, so what was found once holds for ever. Safe to share between threads.
    """

    def __init__(self) -> None:
        self._found: OrderedDict[tuple[str, tuple[int, ...]], tuple[int, float]] = OrderedDict()
        self._lock = Lock()

    def of(self, manifest: ModelManifest, blobs: Blobs, blob_hash: str) -> tuple[int, float]:
        """Length in bytes and norm of a good update. Raises the refusals of `inspect_weights`."""
        key = blob_hash, tuple(manifest.layers)  # the layers decide the manifest
        with self._lock:
            if (known := self._found.get(key)) is not None:
                return known
        found = inspect_weights(manifest, blobs, blob_hash)
        with self._lock:
            self._found[key] = found
            while len(self._found) > MAX_INSPECTIONS:
                self._found.popitem(last=False)
        return found
