"""Evaluation: how good a model is on samples the village holds."""

import torch
from safetensors.torch import load

from domain.federated_learning.manifest import EvaluationUnfit, ModelManifest
from workers.models import build_model, load_weights

BATCH = 1_024


def evaluate(manifest: ModelManifest, model: bytes, samples: bytes) -> dict[str, float]:
    """Accuracy (share of rows whose largest output is their label) and loss (mean cross-entropy, natural log).

    `samples` is a safetensors file of "x" (float32, n rows of the model's inputs) and "y" (int64, n labels).
    Raises EvaluationUnfit for a label the model has no output for.
    """
    tensors = load(samples)
    x, y = tensors["x"], tensors["y"]
    if not 0 <= int(y.min()) <= int(y.max()) < manifest.layers[-1]:
        raise EvaluationUnfit(f"labels are 0 to {manifest.layers[-1] - 1}")
    net = build_model(manifest)
    net.load_state_dict(load_weights(manifest, model))
    net.eval()
    right, loss = 0, 0.0
    with torch.inference_mode():
        for rows, labels in zip(torch.split(x, BATCH), torch.split(y, BATCH), strict=True):
            outputs = net(rows)
            right += int((outputs.argmax(1) == labels).sum())
            loss += float(torch.nn.functional.cross_entropy(outputs, labels, reduction="sum"))
    return {"accuracy": right / len(y), "loss": loss / len(y)}
