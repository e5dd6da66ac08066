"""Models by manifest: the one place that turns a manifest into a torch module and back into safetensors bytes."""

from collections.abc import Mapping
from itertools import pairwise

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from domain.federated_learning.manifest import (
    ArchitectureUnsupported,
    ModelManifest,
    UpdateNotFinite,
    check_header,
)

Weights = dict[str, Tensor]
"""Named float32 tensors on the CPU: the weights of a model, or the difference of two (an update)."""


def build_model(manifest: ModelManifest) -> nn.Module:
    """The network of the manifest with torch's default random weights; its state dict has the manifest's names.

    Raises ArchitectureUnsupported for an architecture the village cannot build.
    """
    if manifest.architecture != "mlp":
        raise ArchitectureUnsupported(f"{manifest.architecture[:64]!r}")
    steps: list[nn.Module] = []
    for inputs, outputs in pairwise(manifest.layers):
        steps += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*steps[:-1])


def initial_weights(manifest: ModelManifest, seed: int) -> Weights:
    """The weights a new model starts from: the same seed always gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return state_of(build_model(manifest))


def state_of(model: nn.Module) -> Weights:
    """A copy of a model's weights."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def difference(local: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> Weights:
    """The update a device sends: its trained weights minus the weights the round started from."""
    return {name: local[name] - tensor for name, tensor in base.items()}


def norm_of(weights: Mapping[str, Tensor]) -> float:
    """The Euclidean norm over all coordinates, summed in float64."""
    return float(sum(float(tensor.double().square().sum()) for tensor in weights.values()) ** 0.5)


def save_weights(weights: Mapping[str, Tensor]) -> bytes:
    """Safetensors bytes, tensors in the order of their names, float32.

    Raises UpdateNotFinite rather than write a NaN or an infinity.
    """
    ordered = {name: weights[name].detach().to(torch.float32).contiguous() for name in sorted(weights)}
    if not all(bool(torch.isfinite(tensor).all()) for tensor in ordered.values()):
        raise UpdateNotFinite("training gave a NaN or an infinity")
    return save(ordered)


def load_weights(manifest: ModelManifest, blob: bytes) -> Weights:
    """The tensors of a model or update blob, once its header is known to be the manifest's.

    Raises the refusals of `check_header` (UpdateNotSafetensors, UpdateShapeMismatch, ...).
    """
    check_header(manifest, blob, len(blob))
    return load(blob)
