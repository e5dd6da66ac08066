"""The manifest of a model, and the check that a safetensors blob is exactly what the manifest says."""

import math
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Protocol

import msgspec

from domain.kernel import Value
from domain.kernel.errors import Refusal

MAX_HEADER_BYTES = 1 << 20
"""The largest safetensors header that is read, in bytes; a manifest of MAX_TENSORS tensors fits well within it."""
MAX_TENSORS = 1024
MAX_LAYERS = 64
MAX_LAYER_WIDTH = 1 << 20
DTYPE = "F32"
"""The one element type of models and updates, as safetensors writes it."""
ITEM_BYTES = 4
_LENGTH_BYTES = 8


class ManifestInvalid(Refusal):
    """A manifest names exactly the tensors of its architecture, sorted by name, and the bytes they take."""


class ArchitectureUnsupported(Refusal):
    """The village trains the architectures it can build and evaluate itself: mlp."""


class UpdateNotSafetensors(Refusal):
    """An update is a safetensors file; anything else (pickled bytes above all) is never opened."""


class UpdateTensorsMismatch(Refusal):
    """An update holds the tensors of the manifest, no more, no fewer, in the manifest's order."""


class UpdateShapeMismatch(Refusal):
    """Every tensor of an update has the shape the manifest gives it."""


class UpdateDtypeMismatch(Refusal):
    """Every tensor of an update is float32."""


class UpdateSizeMismatch(Refusal):
    """An update is as long as its header and its manifest say, to the byte."""


class UpdateTooLarge(Refusal):
    """An update is no larger than its model and a header."""

    status = 413


class UpdateNotFinite(Refusal):
    """Every number of an update is finite."""


class BaseModelUnfit(Refusal):
    """The model a session starts from is a safetensors file of its manifest, with finite numbers."""


class EvaluationUnfit(Refusal):
    """An evaluation blob is a safetensors file of "x" (float32, n rows of the model's inputs) and "y" (int64, n)."""


class ModelTooLarge(Refusal):
    """A model is no larger than the village allows (100 MB by default)."""

    status = 413


class Blobs(Protocol):
    """The port to the blob store; its refusals (a blob that is not there) pass through."""

    def size(self, blob_hash: str) -> int: ...

    def read(self, blob_hash: str, start: int, end: int) -> bytes: ...

    def pieces(self, blob_hash: str, start: int = 0) -> Iterator[bytes]: ...


class TensorSpec(Value, frozen=True):
    """One tensor: its name, its shape (row-major) and its safetensors element type."""

    name: str
    shape: list[int]
    dtype: str = DTYPE


class ModelManifest(Value, frozen=True):
    """What a model is made of. `tensors` are sorted by name, which is how they lie in a blob; `bytes` is their sum.

    `layers` are the widths of an mlp from input to output, for example [784, 200, 200, 10].
    """

    architecture: str
    layers: list[int]
    tensors: list[TensorSpec]
    bytes: int


class _Entry(msgspec.Struct):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


def mlp_manifest(layers: list[int]) -> ModelManifest:
    """The manifest of a multilayer perceptron: linear layers (named 0, 2, 4, ...) with ReLU between them.

    Raises ManifestInvalid when `layers` is not 2..MAX_LAYERS widths of 1..MAX_LAYER_WIDTH.
    """
    if not 2 <= len(layers) <= MAX_LAYERS or not all(1 <= width <= MAX_LAYER_WIDTH for width in layers):
        raise ManifestInvalid(f"an mlp has 2..{MAX_LAYERS} widths of 1..{MAX_LAYER_WIDTH}, not {layers[:8]}")
    tensors = []
    for index, (inputs, outputs) in enumerate(pairwise(layers)):
        tensors.append(TensorSpec(name=f"{2 * index}.weight", shape=[outputs, inputs]))
        tensors.append(TensorSpec(name=f"{2 * index}.bias", shape=[outputs]))
    tensors.sort(key=lambda tensor: tensor.name)
    return ModelManifest(
        architecture="mlp", layers=list(layers), tensors=tensors, bytes=sum(tensor_bytes(t) for t in tensors)
    )


def check_manifest(manifest: ModelManifest) -> None:
    """Refuse a manifest that is not the one its architecture and layers give."""
    if manifest.architecture != "mlp":
        raise ArchitectureUnsupported(f"{manifest.architecture[:64]!r}")
    expected = mlp_manifest(manifest.layers)
    if manifest != expected:
        raise ManifestInvalid(f"an mlp of layers {manifest.layers} has other tensors ({expected.bytes} bytes)")


def tensor_bytes(tensor: TensorSpec) -> int:
    """The bytes one tensor takes in a blob."""
    return math.prod(tensor.shape) * ITEM_BYTES


def parameter_count(manifest: ModelManifest) -> int:
    """The number of float32 coordinates of the model."""
    return manifest.bytes // ITEM_BYTES


def max_blob_bytes(manifest: ModelManifest) -> int:
    """The largest blob that can be a model or an update of this manifest, in bytes."""
    return _LENGTH_BYTES + MAX_HEADER_BYTES + manifest.bytes


def header_end(prefix: bytes) -> int:
    """Where the tensor data of a safetensors blob begins, from its first eight bytes.

    Raises UpdateNotSafetensors when they cannot be the length of a header.
    """
    if len(prefix) < _LENGTH_BYTES:
        raise UpdateNotSafetensors("shorter than a safetensors length field")
    length = int.from_bytes(prefix[:_LENGTH_BYTES], "little")
    if not 2 <= length <= MAX_HEADER_BYTES:
        raise UpdateNotSafetensors("the first eight bytes are not the length of a safetensors header")
    return _LENGTH_BYTES + length


def check_header(manifest: ModelManifest, head: bytes, total_bytes: int) -> int:
    """Refuse a blob whose header is not exactly the manifest's; answer where its tensor data begins.

    `head` holds at least the whole header (see `header_end`), `total_bytes` is the length of the blob.
    """
    if total_bytes > max_blob_bytes(manifest):
        raise UpdateTooLarge(f"{total_bytes} bytes, at most {max_blob_bytes(manifest)}")
    end = header_end(head)
    if len(head) < end:
        raise UpdateSizeMismatch(f"the header ends at byte {end}, the blob at {len(head)}")
    _check_entries(manifest, _parse(head[_LENGTH_BYTES:end]))
    if total_bytes != end + manifest.bytes:
        raise UpdateSizeMismatch(f"{total_bytes} bytes, {end + manifest.bytes} by header and manifest")
    return end


def check_finite(chunks: Iterable["memoryview | bytes"]) -> float:
    """The Euclidean norm of little-endian float32 data given in chunks of whole numbers.

    Raises UpdateNotFinite on a NaN or an infinity. Memory stays at one chunk.
    """
    import numpy as np  # every process reads this module, one of them weights

    total = 0.0
    for chunk in chunks:
        values = np.frombuffer(chunk, dtype="<f4")
        if not np.isfinite(values).all():
            raise UpdateNotFinite("a NaN or an infinity")
        # Not np.dot: BLAS would wake a thread per core for it, in every request at once.
        total += float(np.square(values, dtype=np.float64).sum())
    return math.sqrt(total)


def inspect_weights(manifest: ModelManifest, blobs: Blobs, blob_hash: str) -> tuple[int, float]:
    """The length in bytes and the Euclidean norm of a stored model or update, once all of it is in order.

    Raises the refusals of `check_header` and `check_finite`. Memory stays at one piece.
    """
    total = blobs.size(blob_hash)
    start = data_start(manifest, blobs, blob_hash, total)
    return total, check_finite(blobs.pieces(blob_hash, start))


def data_start(manifest: ModelManifest, blobs: Blobs, blob_hash: str, total: int) -> int:
    """Where the tensor data of a stored blob of `total` bytes begins. Raises the refusals of `check_header`."""
    if total > max_blob_bytes(manifest):
        raise UpdateTooLarge(f"{total} bytes, at most {max_blob_bytes(manifest)}")
    end = header_end(blobs.read(blob_hash, 0, _LENGTH_BYTES))
    return check_header(manifest, blobs.read(blob_hash, 0, end), total)


def check_base_model(manifest: ModelManifest, blobs: Blobs, blob_hash: str) -> None:
    """Raises BaseModelUnfit."""
    try:
        inspect_weights(manifest, blobs, blob_hash)
    except UNFIT as refusal:
        raise BaseModelUnfit(f"{refusal.code}: {refusal}") from refusal


def check_evaluation(manifest: ModelManifest, blobs: Blobs, blob_hash: str) -> None:
    """Raises EvaluationUnfit."""
    try:
        entries = _parse(blobs.read(blob_hash, 0, header_end(blobs.read(blob_hash, 0, _LENGTH_BYTES)))[_LENGTH_BYTES:])
    except UpdateNotSafetensors as refusal:
        raise EvaluationUnfit(str(refusal)) from refusal
    x, y = entries.get("x"), entries.get("y")
    if x is None or y is None or len(entries) != 2 or (x.dtype, y.dtype) != ("F32", "I64"):
        raise EvaluationUnfit('the tensors are "x" (F32) and "y" (I64)')
    if len(x.shape) != 2 or x.shape[0] < 1 or x.shape[1] != manifest.layers[0] or y.shape != [x.shape[0]]:
        raise EvaluationUnfit(f'"x" is {x.shape[:4]}, "y" is {y.shape[:4]} for {manifest.layers[0]} inputs')


UNFIT = (
    UpdateNotSafetensors, UpdateTensorsMismatch, UpdateShapeMismatch, UpdateDtypeMismatch, UpdateSizeMismatch,
    UpdateTooLarge, UpdateNotFinite,
)  # fmt: skip
"""What is wrong with a stored blob that is not a model or update of its manifest."""


def _parse(header: bytes) -> dict[str, _Entry]:
    if header[:1] != b"{":
        raise UpdateNotSafetensors("the header is not a JSON object")
    try:
        raw = msgspec.json.decode(header, type=dict[str, msgspec.Raw])
        if "__metadata__" in raw:
            msgspec.json.decode(raw.pop("__metadata__"), type=dict[str, str])
        return {name: msgspec.json.decode(entry, type=_Entry) for name, entry in raw.items()}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UpdateNotSafetensors("the header is not that of a safetensors file") from error


def _check_entries(manifest: ModelManifest, entries: dict[str, _Entry]) -> None:
    names = [tensor.name for tensor in manifest.tensors]
    if entries.keys() != set(names):
        raise UpdateTensorsMismatch(f"{len(entries)} tensors named otherwise than the manifest's {len(names)}")
    offset = 0
    for tensor in manifest.tensors:
        entry = entries[tensor.name]
        if entry.dtype != tensor.dtype:
            raise UpdateDtypeMismatch(f"{tensor.name} is {entry.dtype[:16]}, not {tensor.dtype}")
        if entry.shape != tensor.shape:
            raise UpdateShapeMismatch(f"{tensor.name} is {entry.shape[:8]}, not {tensor.shape}")
        end = offset + tensor_bytes(tensor)
        if entry.data_offsets != (offset, end):
            raise UpdateTensorsMismatch(f"{tensor.name} lies at {entry.data_offsets}, not at {(offset, end)}")
        offset = end
