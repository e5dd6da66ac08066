"""Models, updates and rounds for tests of federated learning."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any
from uuid import UUID, uuid4

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from domain.federated_learning.manifest import ModelManifest, mlp_manifest
from domain.federated_learning.policy import ParticipantCriteria, RoundPolicy, TrainingConfig
from domain.federated_learning.round import TrainingRound
from domain.federated_learning.selection import Candidate, Selection, Survey
from domain.federated_learning.session import TrainingSession
from domain.federated_learning.update import Update
from domain.kernel.time import utc
from infrastructure.blobs import BlobNotFound

NOW = utc(2026, 1, 1)
DEADLINE = utc(2026, 1, 1, 1)
MANIFEST = mlp_manifest([4, 3, 2])
POLICY = RoundPolicy(min_participants=2, max_participants=4, goal=3, timeout_ms=3_600_000, weight_cap=1_000)
TRAINING = TrainingConfig(epochs=1, batch_size=8, learning_rate=0.1)
HASH = "a" * 64

Arrays = dict[str, NDArray[np.float32]]


class Shelf:
    """The blob port over a dict: what a blob store answers, without a store."""

    def __init__(self, blobs: Mapping[str, bytes] | None = None) -> None:
        self.blobs = dict(blobs or {})

    def put(self, data: bytes) -> str:
        blob_hash = hashlib.sha256(data).hexdigest()
        self.blobs[blob_hash] = data
        return blob_hash

    def size(self, blob_hash: str) -> int:
        return len(self._of(blob_hash))

    def read(self, blob_hash: str, start: int, end: int) -> bytes:
        return self._of(blob_hash)[start:end]

    def pieces(self, blob_hash: str, start: int = 0) -> Iterator[bytes]:
        data = self._of(blob_hash)
        for offset in range(start, len(data), 16):
            yield data[offset : offset + 16]

    def _of(self, blob_hash: str) -> bytes:
        if blob_hash not in self.blobs:
            raise BlobNotFound(blob_hash)
        return self.blobs[blob_hash]


def arrays(manifest: ModelManifest = MANIFEST, *, seed: int = 0, scale: float = 0.1) -> Arrays:
    """Random weights (or an update) of a manifest."""
    random = np.random.default_rng(seed)
    return {
        tensor.name: (random.standard_normal(tensor.shape) * scale).astype(np.float32) for tensor in manifest.tensors
    }


def blob_of(weights: Mapping[str, NDArray[Any]]) -> bytes:
    """Safetensors bytes."""
    return save(dict(weights))


def norm_of(weights: Mapping[str, NDArray[Any]]) -> float:
    """The Euclidean norm over all tensors."""
    return float(np.sqrt(sum(float((array.astype(np.float64) ** 2).sum()) for array in weights.values())))


def some_update(seed: int = 0, examples: int = 10) -> Update:
    """The figures of an update that lies nowhere."""
    return Update(blob_hash=f"{seed:064x}", bytes=100, examples=examples, train_ms=5, norm=1.0)


def open_round(
    *device_ids: UUID, policy: RoundPolicy = POLICY, session: TrainingSession | None = None
) -> TrainingRound:
    """A round that has asked these devices, of a session or of none that is known; not recorded."""
    opened = TrainingRound(
        round_id=uuid4(),
        session_id=uuid4() if session is None else session.id,
        owner_id=uuid4() if session is None else session.owner_id,
        number=1,
        model_hash=HASH,
        policy=policy,
        deadline_at=DEADLINE,
        seed=7,
        opened_at=NOW,
    )
    selection = Selection(device_ids=list(device_ids), snapshot_position=5, ruleset_hash=HASH, refused={})
    opened.select(selection)
    return opened


def new_session(rounds: int = 2, manifest: ModelManifest = MANIFEST) -> TrainingSession:
    """A session that has just been started, not recorded."""
    session = TrainingSession(
        session_id=uuid4(),
        owner_id=uuid4(),
        name="digits",
        manifest=manifest,
        base_model_hash=HASH,
        evaluation_hash=None,
        strategy="fedavg",
        round_policy=POLICY,
        rounds=rounds,
        training=TRAINING,
        criteria=ParticipantCriteria(),
    )
    session.start()
    return session


class Everyone:
    """The selection port of tests: these devices meet every criterion."""

    def __init__(self, *device_ids: UUID) -> None:
        self.device_ids = list(device_ids)

    def survey(self, criteria: ParticipantCriteria, *, limit: int) -> Survey:
        candidates = [Candidate(device_id=device_id, participations=0) for device_id in self.device_ids[:limit]]
        return Survey(candidates=candidates, position=1, refused={})


def training_request(shelf: Shelf, **changes: Any) -> dict[str, Any]:
    """The arguments of `start_training` for a small session, with changes; its base model is put on the shelf."""
    usual: dict[str, Any] = {
        "owner_id": uuid4(),
        "name": "digits",
        "manifest": MANIFEST,
        "base_model_hash": shelf.put(blob_of(arrays(seed=99))),
        "evaluation_hash": None,
        "rounds": 2,
        "strategy": "fedavg",
        "round_policy": POLICY,
        "training": TRAINING,
        "criteria": ParticipantCriteria(),
        "secure_aggregation": False,
        "epsilon": None,
    }
    return usual | changes
