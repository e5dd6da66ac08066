"""Evaluation counts what is right and averages what it cost."""

import math

import numpy as np
import pytest
from safetensors.numpy import save

from domain.federated_learning.manifest import EvaluationUnfit, mlp_manifest
from workers.aggregator.evaluate import evaluate

MANIFEST = mlp_manifest([2, 2])
IDENTITY = save({"0.weight": np.eye(2, dtype=np.float32), "0.bias": np.zeros(2, np.float32)})


def samples(x: list[list[float]], y: list[int]) -> bytes:
    return save({"x": np.array(x, np.float32), "y": np.array(y, np.int64)})


def test_accuracy_and_loss_are_those_of_the_model() -> None:
    metrics = evaluate(MANIFEST, IDENTITY, samples([[1, 0], [0, 1], [0, 1], [3, 1]], [0, 1, 0, 0]))
    losses = [math.log(1 + math.exp(-1)), math.log(1 + math.exp(-1)), math.log(1 + math.e), math.log(1 + math.exp(-2))]
    assert metrics["accuracy"] == 0.75
    assert metrics["loss"] == pytest.approx(sum(losses) / 4, rel=1e-6)


def test_more_rows_than_a_batch_count_the_same() -> None:
    many = evaluate(MANIFEST, IDENTITY, samples([[1.0, 0.0]] * 1_500 + [[0.0, 1.0]] * 1_500, [0] * 3_000))
    assert many["accuracy"] == 0.5


@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_without_an_output_is_refused(label: int) -> None:
    with pytest.raises(EvaluationUnfit):
        evaluate(MANIFEST, IDENTITY, samples([[1, 0]], [label]))
