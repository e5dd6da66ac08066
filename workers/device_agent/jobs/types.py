"""What the types of jobs compute. Runs in the job's own process; heavy libraries are imported where they are needed."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import msgspec

Result = dict[str, int | str | None]


def hash_search(parameters: dict[str, int], folder: Path) -> Result:
    """The first nonce whose hash begins with enough zero bits, or none."""
    seed, first, bits = parameters["seed"].to_bytes(8), parameters["start"], parameters["difficulty_bits"]
    below = 1 << (256 - bits)
    for nonce in range(first, first + parameters["count"]):
        digest = hashlib.sha256(seed + nonce.to_bytes(8)).digest()
        if int.from_bytes(digest) < below:
            return {"nonce": nonce, "digest": digest.hex(), "tried": nonce - first + 1}
    return {"nonce": None, "digest": None, "tried": parameters["count"]}


def matrix_benchmark(parameters: dict[str, int], folder: Path) -> Result:
    """Multiply matrices of digits again and again; the checksum is the same on every machine."""
    import numpy as np

    random = np.random.Generator(np.random.PCG64(parameters["seed"]))
    np.eye(2) @ np.eye(2)  # the library takes its buffers now: later it dies where there is no room
    size = parameters["size"]
    factor = random.integers(0, 10, (size, size)).astype(np.float64)
    product = np.eye(size)
    for _ in range(parameters["rounds"]):
        product = (product @ factor) % 10
    checksum = hashlib.sha256(product.astype(np.uint8).tobytes()).hexdigest()
    return {"checksum": checksum, "operations": 2 * size**3 * parameters["rounds"]}


def evaluate_model(parameters: dict[str, int], folder: Path) -> Result:
    """Accuracy in basis points and loss in millionths of a multilayer perceptron."""
    import torch
    from safetensors import SafetensorError

    from domain.federated_learning.manifest import mlp_manifest
    from workers.aggregator.evaluate import evaluate

    torch.set_num_threads(1)
    model, data = (folder / "model").read_bytes(), (folder / "data").read_bytes()
    try:
        found = evaluate(mlp_manifest(_layers(model)), model, data)
    except SafetensorError as error:
        raise ValueError("the data is no safetensors") from error
    return {"accuracy_bp": round(found["accuracy"] * 10_000), "loss_micro": round(found["loss"] * 1_000_000)}


def _layers(model: bytes) -> list[int]:
    """The widths of a perceptron, from the header of its safetensors. Raises ValueError, KeyError."""
    length = int.from_bytes(model[:8], "little")
    header = msgspec.json.decode(model[8 : 8 + length])
    weights = [name for name in header if name.endswith(".weight")]
    weights.sort(key=lambda name: int(name.partition(".")[0]))
    shapes = [header[name]["shape"] for name in weights]
    return [shapes[0][1], *(shape[0] for shape in shapes)]


TYPES: dict[str, Callable[[dict[str, int], Path], Result]] = {
    "evaluate_model": evaluate_model,
    "hash_search": hash_search,
    "matrix_benchmark": matrix_benchmark,
}
