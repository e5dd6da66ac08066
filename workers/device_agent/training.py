"""One device's part of a round: train on its own data, clip, and pack the difference as an update."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

import numpy as np
import torch
from torch import nn

from domain.federated_learning.manifest import ModelManifest, mlp_manifest
from workers.device_agent.assignment import Training
from workers.device_agent.data import Dataset
from workers.models import (
    Weights,
    build_model,
    difference,
    initial_weights,
    load_weights,
    norm_of,
    save_weights,
    state_of,
)

MICRO = 1_000_000


class TrainingStopped(Exception):
    """The process is to end; the round is done again when it comes back."""


def never() -> bool:
    """Train to the end."""
    return False


@dataclass(frozen=True)
class TrainedUpdate:
    """An update ready to be sent; `train_ms` is processor time, so a busy machine is not paid more."""

    blob: bytes
    blob_hash: str
    examples: int
    train_ms: int
    norm: float
    clipped: int


def training_seed(round_id: UUID, device_id: UUID) -> int:
    """The seed of one device in one round: doing the round again gives the same update."""
    digest = hashlib.sha256(b"device-training" + round_id.bytes + device_id.bytes).digest()
    return int.from_bytes(digest[:8]) >> 1


def train_update(
    manifest: ModelManifest,
    model: bytes,
    dataset: Dataset,
    training: Training,
    clip_micro: int,
    seed: int,
    stopped: Callable[[], bool] = never,
) -> TrainedUpdate:
    """Train from the global model and answer the clipped difference.

    `stopped` is asked before every batch. Raises TrainingStopped when it says so, the refusals of `load_weights` for
    a model that is not the manifest's, UpdateNotFinite when training diverged, and ValueError when the samples do not
    fit the model.
    """
    started = time.thread_time()
    base = load_weights(manifest, model)
    check_fit(manifest, dataset)
    net = build_model(manifest)
    net.load_state_dict(base)
    _descend(net, dataset, training, seed, stopped)
    update, clipped = clip(difference(state_of(net), base), clip_micro)
    blob = save_weights(update)
    return TrainedUpdate(
        blob=blob,
        blob_hash=hashlib.sha256(blob).hexdigest(),
        examples=len(dataset),
        train_ms=max(1, round((time.thread_time() - started) * 1_000)),
        norm=norm_of(update),
        clipped=clipped,
    )


def warm_up() -> None:
    """Train a tiny model once: torch loads half of itself at the first step, which is no part of a round's work."""
    manifest = mlp_manifest([2, 2])
    dataset = Dataset(np.zeros((1, 2), dtype=np.float32), np.zeros(1, dtype=np.int64))
    model = save_weights(initial_weights(manifest, 0))
    train_update(manifest, model, dataset, Training(epochs=1, batch_size=1, learning_rate=0.1, momentum=0.0), 1, 0)


def check_fit(manifest: ModelManifest, dataset: Dataset) -> None:
    """Raise ValueError unless the samples have the model's width and only labels it can answer."""
    width, classes = manifest.layers[0], manifest.layers[-1]
    if dataset.features.shape[1] != width or int(dataset.labels.max()) >= classes:
        raise ValueError(f"the model takes {width} features and {classes} labels; the data does not fit")


def _descend(net: nn.Module, dataset: Dataset, training: Training, seed: int, stopped: Callable[[], bool]) -> None:
    features, labels = torch.from_numpy(dataset.features), torch.from_numpy(dataset.labels)
    order = torch.Generator().manual_seed(seed)
    descent = _Descent(list(net.parameters()), training)
    for _ in range(training.epochs):
        for rows in torch.split(torch.randperm(len(labels), generator=order), training.batch_size):
            if stopped():
                raise TrainingStopped
            loss = nn.functional.cross_entropy(net(features[rows]), labels[rows])
            loss.backward()  # type: ignore[no-untyped-call]
            descent.step()


class _Descent:
    """Stochastic gradient descent with momentum (as torch.optim.SGD) and the FedProx term (Li et al. 2020).

    By hand, because torch.optim loads torch's compiler: a second of a device's time and 100 MB of its memory.
    """

    def __init__(self, parameters: list[nn.Parameter], training: Training) -> None:
        self._parameters, self._training = parameters, training
        self._anchors = [parameter.detach().clone() for parameter in parameters]
        self._velocities = [torch.zeros_like(anchor) for anchor in self._anchors]

    @torch.no_grad()
    def step(self) -> None:
        """Move every parameter by its gradient and forget the gradient."""
        momentum, mu = self._training.momentum, self._training.proximal_mu
        for parameter, anchor, velocity in zip(self._parameters, self._anchors, self._velocities, strict=True):
            if (gradient := parameter.grad) is None:
                continue
            if mu > 0:  # the gradient of mu/2 * |w - w_global|^2
                gradient.add_(parameter - anchor, alpha=mu)
            velocity.mul_(momentum).add_(gradient)
            parameter.sub_(velocity, alpha=self._training.learning_rate)
            parameter.grad = None


def clip(update: Weights, clip_micro: int) -> tuple[Weights, int]:
    """Bound each coordinate to +-clip_micro/1e6; answers the bounded update and how many were outside."""
    # Downwards, so that the nearest float32 never lies outside the range the aggregator checks.
    limit = float(torch.nextafter(torch.tensor(clip_micro / MICRO), torch.tensor(0.0)))
    clipped = sum(int((tensor.abs() > limit).sum()) for tensor in update.values())
    return {name: tensor.clamp(-limit, limit) for name, tensor in update.items()}, clipped
