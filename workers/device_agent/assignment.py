"""What the village asks of a device in one round, with the bounds within which a device will do it."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from msgspec import Meta, Struct

from domain.federated_learning.manifest import ModelManifest, check_manifest

MAX_MODEL_BYTES = 100 * 1_000_000
"""The largest model a device trains, in bytes: the seed's max_model_size_mb."""


class Training(Struct, frozen=True):
    """The session's training configuration."""

    epochs: Annotated[int, Meta(ge=1, le=100)]
    batch_size: Annotated[int, Meta(ge=1, le=65_536)]
    learning_rate: Annotated[float, Meta(gt=0, le=100)]
    momentum: Annotated[float, Meta(ge=0, lt=1)]
    proximal_mu: Annotated[float, Meta(ge=0, le=1_000)] = 0.0


class Policy(Struct, frozen=True):
    """The part of the round's policy a device acts on."""

    clip_micro: Annotated[int, Meta(ge=1)]


class Assignment(Struct, frozen=True):
    """One round of one session, to be worked on until `deadline_at`."""

    round_id: UUID
    session_id: UUID
    number: Annotated[int, Meta(ge=1)]
    model_hash: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    manifest: ModelManifest
    training: Training
    policy: Policy
    deadline_at: datetime
    submitted: bool = False

    def check(self) -> None:
        """Raise a refusal of the manifest, or ValueError for a model this device would not hold."""
        check_manifest(self.manifest)
        if self.manifest.bytes > MAX_MODEL_BYTES:
            raise ValueError(f"a model of {self.manifest.bytes} bytes, at most {MAX_MODEL_BYTES}")
