"""The blob store: verified while it flows, immutable, and nothing planted by a bad body."""

import asyncio
import hashlib
import resource
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from infrastructure import blobs
from infrastructure.blobs import (
    BlobHashInvalid,
    BlobHashMismatch,
    BlobNotFound,
    BlobStore,
    BlobStoreFull,
    BlobStoreUnavailable,
    BlobTooLarge,
    BlobTruncated,
)
from tests.infrastructure.object_store import ObjectStore, object_store

DATA = bytes(range(256)) * 10_000
HASH = hashlib.sha256(DATA).hexdigest()
LIMIT = 100 << 20


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """An object store that the usual variables point to."""
    with object_store() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture(params=[None, "memory:///", "s3://bucket/village"], ids=["disk", "memory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, s3: ObjectStore) -> BlobStore:
    return BlobStore.open(request.param, home=tmp_path)


async def body(data: bytes, piece: int = 65_536) -> AsyncIterator[bytes]:
    for start in range(0, len(data), piece):
        yield data[start : start + piece]


def put(store: BlobStore, blob_hash: str, data: bytes, *, size: int | None = None, limit: int = LIMIT) -> None:
    asyncio.run(store.put(blob_hash, body(data), size=len(data) if size is None else size, limit=limit))


async def collect(store: BlobStore, blob_hash: str) -> bytes:
    return b"".join([piece async for piece in store.stream(blob_hash)])


def test_an_upload_leaves_the_log_room_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, free = BlobStore.open(None, home=tmp_path), shutil.disk_usage(tmp_path).free
    monkeypatch.setattr(blobs, "RESERVED_BYTES", 2 * free)
    with pytest.raises(BlobStoreFull):
        put(store, HASH, DATA)
    assert not store.exists(HASH)
    monkeypatch.setattr(blobs, "RESERVED_BYTES", 0)
    put(store, HASH, DATA)
    assert store.exists(HASH)


def test_a_blob_is_read_back_whole_streamed_and_in_ranges(store: BlobStore) -> None:
    put(store, HASH, DATA)
    assert asyncio.run(collect(store, HASH)) == DATA
    assert b"".join(store.pieces(HASH, 100, piece_bytes=4_096)) == DATA[100:]
    assert store.read(HASH, 5, 25) == DATA[5:25]
    assert store.read(HASH, len(DATA) - 3, len(DATA) + 10) == DATA[-3:]
    assert store.size(HASH) == asyncio.run(store.size_async(HASH)) == len(DATA)


def test_putting_the_same_blob_again_is_success(store: BlobStore) -> None:
    put(store, HASH, DATA)
    put(store, HASH, DATA)
    assert store.put_bytes(DATA) == HASH
    assert store.exists(HASH)


@pytest.mark.parametrize(
    ("refusal", "send"),
    [
        (BlobHashMismatch, lambda s: put(s, HASH, DATA[:-1] + b"x")),
        (BlobTruncated, lambda s: put(s, HASH, DATA[:-1], size=len(DATA))),
        (BlobTooLarge, lambda s: put(s, HASH, DATA + b"x", size=len(DATA))),
        (BlobTooLarge, lambda s: put(s, HASH, DATA, limit=len(DATA) - 1)),
    ],
)
def test_a_bad_body_is_refused_and_plants_nothing(
    store: BlobStore, refusal: type[Exception], send: Callable[[BlobStore], None]
) -> None:
    with pytest.raises(refusal):
        send(store)
    assert not store.exists(HASH)


def test_a_bad_body_leaves_no_file_behind_and_harms_no_stored_blob(tmp_path: Path) -> None:
    store = BlobStore.open(None, home=tmp_path)
    put(store, HASH, DATA)
    with pytest.raises(BlobHashMismatch):
        put(store, HASH, DATA[:-1] + b"x")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [HASH]
    assert asyncio.run(collect(store, HASH)) == DATA


def test_a_large_body_goes_to_s3_in_parts_and_a_bad_one_leaves_none(s3: ObjectStore, tmp_path: Path) -> None:
    store, data = BlobStore.open("s3://bucket/village", home=tmp_path), DATA * 6
    name = hashlib.sha256(data).hexdigest()
    with pytest.raises(BlobHashMismatch):
        put(store, name, data[:-1] + b"x")
    assert (s3.objects, s3.uploads) == ({}, {})
    put(store, name, data)
    assert s3.objects == {f"/bucket/village/{name[:2]}/{name}": data}
    assert s3.uploads == {}


def test_a_store_that_does_not_answer_is_told_by_name(s3: ObjectStore, tmp_path: Path) -> None:
    store = BlobStore.open("s3://bucket/village", home=tmp_path)
    s3.objects[f"/bucket/village/{HASH[:2]}/{HASH}"] = DATA
    s3.refusing = 403
    with pytest.raises(BlobStoreUnavailable):
        store.size(HASH)
    with pytest.raises(BlobStoreUnavailable):
        put(store, HASH, DATA)


def test_a_body_cut_off_by_its_sender_plants_nothing(tmp_path: Path) -> None:
    store = BlobStore.open(None, home=tmp_path)

    async def interrupted() -> AsyncIterator[bytes]:
        yield DATA[: 6 << 20]
        await asyncio.sleep(60)

    async def run() -> None:
        upload = asyncio.ensure_future(store.put(HASH, interrupted(), size=len(DATA), limit=LIMIT))
        await asyncio.sleep(0.1)
        upload.cancel()
        with pytest.raises(asyncio.CancelledError):
            await upload

    asyncio.run(run())
    ends = time.monotonic() + 10
    while files := [path for path in tmp_path.rglob("*") if path.is_file()]:
        assert time.monotonic() < ends, files
        time.sleep(0.02)  # the part is removed in the background


def test_what_a_killed_upload_left_behind_is_swept_once_it_is_old(tmp_path: Path) -> None:
    store = BlobStore.open(None, home=tmp_path)
    store.put_bytes(DATA)
    part = tmp_path / "blobs" / HASH[:2] / f"{HASH}#1"
    part.write_bytes(b"half")
    assert store.sweep() == 0
    assert store.sweep(older_than_s=-1) == 1
    assert not part.exists()
    assert store.exists(HASH)


def test_pieces_made_from_another_blob_are_stored(store: BlobStore) -> None:
    source = store.put_bytes(DATA)
    doubled = hashlib.sha256(DATA + DATA).hexdigest()
    pieces = (piece for _ in range(2) for piece in store.pieces(source))
    store.put_pieces(doubled, pieces, size=2 * len(DATA))
    assert asyncio.run(collect(store, doubled)) == DATA + DATA


def test_pieces_that_fail_or_are_not_as_announced_plant_nothing(store: BlobStore) -> None:
    def failing() -> Iterator[bytes]:
        yield DATA
        raise RuntimeError("the source is gone")

    with pytest.raises(RuntimeError):
        store.put_pieces(HASH, failing(), size=2 * len(DATA))
    with pytest.raises(BlobHashMismatch):
        store.put_pieces(HASH, [b"x" * len(DATA)], size=len(DATA))
    assert not store.exists(HASH)


def test_an_absent_blob_is_named_as_such(store: BlobStore) -> None:
    with pytest.raises(BlobNotFound):
        store.size(HASH)
    with pytest.raises(BlobNotFound):
        asyncio.run(collect(store, HASH))


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "A" * 64, "0" * 63, "0" * 65, f"{'0' * 64}\n"])
def test_a_hash_is_64_hex_digits_and_never_a_path(store: BlobStore, name: str) -> None:
    with pytest.raises(BlobHashInvalid):
        store.exists(name)


def test_a_large_upload_streams_in_little_memory(tmp_path: Path) -> None:
    store, piece, count = BlobStore.open(None, home=tmp_path), b"\x07" * (1 << 20), 300
    digest = hashlib.sha256()
    for _ in range(count):
        digest.update(piece)

    async def large() -> AsyncIterator[bytes]:
        for _ in range(count):
            yield piece

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    asyncio.run(store.put(digest.hexdigest(), large(), size=count << 20, limit=1 << 30))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert (after - before) // 1024 < 150
