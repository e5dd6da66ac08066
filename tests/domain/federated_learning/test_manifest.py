"""The manifest: a blob is exactly what it says, or it is refused by name before a tensor is read."""

import io
import json
import pickle
import struct
import zipfile
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.federated_learning.manifest import (
    ArchitectureUnsupported,
    BaseModelUnfit,
    EvaluationUnfit,
    ManifestInvalid,
    ModelManifest,
    UpdateDtypeMismatch,
    UpdateNotFinite,
    UpdateNotSafetensors,
    UpdateShapeMismatch,
    UpdateSizeMismatch,
    UpdateTensorsMismatch,
    UpdateTooLarge,
    check_base_model,
    check_evaluation,
    check_manifest,
    inspect_weights,
    mlp_manifest,
)
from domain.kernel import Refusal
from tests.training import MANIFEST, Shelf, arrays, blob_of, norm_of

WEIGHTS = arrays()
BLOB = blob_of(WEIGHTS)


def with_header(header: Any, data: bytes = b"\0" * MANIFEST.bytes) -> bytes:
    """A file of a hand-made header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entries() -> dict[str, Any]:
    (length,) = struct.unpack("<Q", BLOB[:8])
    header: dict[str, Any] = json.loads(BLOB[8 : 8 + length])
    return header


def changed(name: str, **fields: Any) -> bytes:
    header = entries()
    header[name] |= fields
    return with_header(header)


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("data.pkl", pickle.dumps({"w": 1}))
    return file.getvalue()


def poisoned(value: float) -> bytes:
    weights = arrays()
    weights["0.weight"][1, 2] = value
    return blob_of(weights)


BAD_BLOBS: list[tuple[str, type[Refusal], bytes]] = [
    ("pickled bytes", UpdateNotSafetensors, pickle.dumps(WEIGHTS)),
    ("a torch archive", UpdateNotSafetensors, zipped()),
    ("nothing", UpdateNotSafetensors, b""),
    ("seven bytes", UpdateNotSafetensors, b"\x10\0\0\0\0\0\0"),
    ("a header of a gigabyte", UpdateNotSafetensors, struct.pack("<Q", 1 << 30) + b"{}"),
    ("a header that is no JSON", UpdateNotSafetensors, with_header(b"{" + b"x" * 20)),
    ("a header that is a list", UpdateNotSafetensors, with_header([1, 2])),
    ("a header nested without end", UpdateNotSafetensors, with_header(b'{"a":' * 5_000)),
    ("metadata that are no texts", UpdateNotSafetensors, with_header(entries() | {"__metadata__": {"a": [1]}})),
    ("a tensor missing", UpdateTensorsMismatch, blob_of({k: v for k, v in WEIGHTS.items() if k != "0.bias"})),
    ("a tensor more", UpdateTensorsMismatch, blob_of(WEIGHTS | {"extra": np.zeros(1, np.float32)})),
    ("another shape", UpdateShapeMismatch, changed("0.weight", shape=[4, 3])),
    ("another rank", UpdateShapeMismatch, changed("0.bias", shape=[3, 1])),
    ("float16", UpdateDtypeMismatch, blob_of({k: v.astype(np.float16) for k, v in WEIGHTS.items()})),
    ("integers", UpdateDtypeMismatch, blob_of({k: v.astype(np.int32) for k, v in WEIGHTS.items()})),
    ("overlapping tensors", UpdateTensorsMismatch, changed("0.weight", data_offsets=[0, 48])),
    ("a hole before a tensor", UpdateTensorsMismatch, changed("2.weight", data_offsets=[72, 96])),
    ("a byte more", UpdateSizeMismatch, BLOB + b"\0"),
    ("a tensor cut off", UpdateSizeMismatch, BLOB[:-4]),
    ("a header cut off", UpdateSizeMismatch, BLOB[:40]),
    ("too many bytes", UpdateTooLarge, BLOB + b"\0" * (1 << 21)),
    ("a NaN", UpdateNotFinite, poisoned(float("nan"))),
    ("an infinity", UpdateNotFinite, poisoned(float("-inf"))),
]


@pytest.mark.parametrize(("refusal", "blob"), [(r, b) for _, r, b in BAD_BLOBS], ids=[name for name, _, _ in BAD_BLOBS])
def test_a_blob_that_is_not_the_manifests_is_refused_by_name(refusal: type[Refusal], blob: bytes) -> None:
    shelf = Shelf()
    blob_hash = shelf.put(blob)
    with pytest.raises(refusal) as raised:
        inspect_weights(MANIFEST, shelf, blob_hash)
    assert raised.type is refusal
    with pytest.raises(BaseModelUnfit):
        check_base_model(MANIFEST, shelf, blob_hash)


def test_a_good_blob_is_measured() -> None:
    shelf = Shelf()
    total, norm = inspect_weights(MANIFEST, shelf, shelf.put(BLOB))
    assert total == len(BLOB)
    assert norm == pytest.approx(norm_of(WEIGHTS), rel=1e-12)


@given(st.binary(max_size=300))
def test_no_bytes_make_the_check_fail_otherwise_than_by_a_refusal(data: bytes) -> None:
    shelf = Shelf()
    for blob in (data, with_header(data)):
        try:
            inspect_weights(MANIFEST, shelf, shelf.put(blob))
        except Refusal:
            continue
        raise AssertionError("random bytes are no model")


@given(st.lists(st.integers(1, 9), min_size=2, max_size=14))
def test_what_a_manifest_describes_passes_its_own_check(layers: list[int]) -> None:
    manifest, shelf = mlp_manifest(layers), Shelf()
    check_manifest(manifest)
    total, _ = inspect_weights(manifest, shelf, shelf.put(blob_of(arrays(manifest))))
    assert manifest.bytes == 4 * sum(a * b + b for a, b in pairwise(layers))
    assert total > manifest.bytes


@pytest.mark.parametrize("layers", [[], [4], [4, 0], [4, -1, 2], [4] * 65, [4, 1 << 21]])
def test_layers_are_bounded(layers: list[int]) -> None:
    with pytest.raises(ManifestInvalid):
        mlp_manifest(layers)


def test_a_manifest_whose_tensors_are_not_its_architectures_is_refused() -> None:
    forged = ModelManifest("mlp", MANIFEST.layers, MANIFEST.tensors[1:], MANIFEST.bytes)
    with pytest.raises(ManifestInvalid):
        check_manifest(forged)
    with pytest.raises(ArchitectureUnsupported):
        check_manifest(ModelManifest("cnn", MANIFEST.layers, MANIFEST.tensors, MANIFEST.bytes))


def test_an_evaluation_blob_has_rows_of_the_models_inputs_and_a_label_for_each() -> None:
    shelf = Shelf()
    x, y = np.zeros((5, 4), np.float32), np.zeros(5, np.int64)
    check_evaluation(MANIFEST, shelf, shelf.put(blob_of({"x": x, "y": y})))
    bad_blobs: list[dict[str, Any]] = [
        {"x": x},
        {"x": x, "y": y[:4]},
        {"x": x[:, :3], "y": y},
        {"x": x.astype(np.float64), "y": y},
        {"x": x[:0], "y": y[:0]},
    ]
    for bad in bad_blobs:
        with pytest.raises(EvaluationUnfit):
            check_evaluation(MANIFEST, shelf, shelf.put(blob_of(bad)))
    with pytest.raises(EvaluationUnfit):
        check_evaluation(MANIFEST, shelf, shelf.put(pickle.dumps(x)))
