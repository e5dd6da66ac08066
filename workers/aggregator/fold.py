"""The fold of one round: its accepted updates added as they come, refolded when one has to be taken out again."""

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING
from uuid import UUID

import numpy as np

from domain.federated_learning.manifest import (
    UNFIT,
    ModelManifest,
    UpdateNotFinite,
    data_start,
    parameter_count,
)
from domain.federated_learning.policy import RoundPolicy
from domain.federated_learning.update import Update
from domain.kernel import Refusal
from infrastructure.blobs import BlobHashMismatch, BlobNotFound, BlobStore

if TYPE_CHECKING:
    from .accumulator import Accumulator

UNREADABLE = (*UNFIT, BlobNotFound, BlobHashMismatch)
"""What makes a stored blob unusable for good; anything else is tried again."""


class UpdateUnreadable(Exception):
    """The update of one device cannot be folded, and never will be."""

    def __init__(self, device_id: UUID, refusal: Refusal) -> None:
        super().__init__(f"{refusal.code}: {refusal}")
        self.device_id, self.reason = device_id, refusal.code


class RoundFold:
    """One accumulator and the updates in it. Its memory is two models and a few chunks, however many updates."""

    def __init__(self, manifest: ModelManifest, policy: RoundPolicy, blobs: BlobStore) -> None:
        self.manifest, self.policy = manifest, policy
        self.updates: dict[UUID, Update] = {}
        self._blobs = blobs
        self._folded: set[UUID] = set()
        self._accumulator: Accumulator | None = None

    def take(self, device_id: UUID, update: Update) -> None:
        """Note an accepted update; `fold` adds it."""
        self.updates[device_id] = update

    def drop(self, device_id: UUID) -> None:
        """Take an update out; what had been folded with it is folded again without it."""
        self.updates.pop(device_id, None)
        if device_id in self._folded:
            self._forget()

    def fold(self) -> "Accumulator":
        """Add what is not in the sum yet, and answer it.

        Raises UpdateUnreadable: `drop` that update and fold again.
        """
        if self._accumulator is None:
            from .accumulator import Accumulator

            caps = self.policy.max_participants * self.policy.weight_cap
            self._accumulator = Accumulator(
                parameter_count(self.manifest), clip_micro=self.policy.clip_micro, weight_caps=caps
            )
        for device_id, update in self.updates.items():
            if device_id in self._folded:
                continue
            try:
                pieces = verified_pieces(self.manifest, self._blobs, update.blob_hash)
                self._accumulator.fold(min(update.examples, self.policy.weight_cap), pieces)
            except BaseException as error:
                self._forget()  # a part of the update may be in the sum
                if isinstance(error, UNREADABLE):
                    raise UpdateUnreadable(device_id, error) from error
                raise
            self._folded.add(device_id)
        return self._accumulator

    def model(self, base_hash: str) -> tuple[str, int]:
        """Make the new model and store it; answers its hash and its length in bytes.

        It is drawn twice from sum and base, first for its hash and then into the store, so that it is never held.
        Raises the refusals in UNREADABLE for a base that cannot be used, UpdateNotFinite for a model beyond float32.
        """
        digest, size = hashlib.sha256(), 0
        for piece in self._model_pieces(base_hash):
            digest.update(piece)
            size += len(piece)
        self._blobs.put_pieces(digest.hexdigest(), self._model_pieces(base_hash), size=size)
        return digest.hexdigest(), size

    def _model_pieces(self, base_hash: str) -> Iterator[bytes]:
        start = data_start(self.manifest, self._blobs, base_hash, self._blobs.size(base_hash))
        yield self._blobs.read(base_hash, 0, start)
        for piece in self.fold().mean_pieces(verified_pieces(self.manifest, self._blobs, base_hash)):
            if not np.isfinite(np.frombuffer(piece, dtype="<f4")).all():
                raise UpdateNotFinite("the new model leaves float32")
            yield piece

    def _forget(self) -> None:
        self._accumulator = None
        self._folded.clear()


def verified_pieces(manifest: ModelManifest, blobs: BlobStore, blob_hash: str) -> Iterator[bytes]:
    """The tensor data of a stored model or update, in pieces of whole numbers; its hash is checked at the end."""
    start = data_start(manifest, blobs, blob_hash, blobs.size(blob_hash))
    digest = hashlib.sha256(blobs.read(blob_hash, 0, start))
    for piece in blobs.pieces(blob_hash, start):
        digest.update(piece)
        yield piece
    if digest.hexdigest() != blob_hash:
        raise BlobHashMismatch(f"blob {blob_hash[:16]}... is damaged")
