"""The blob store: immutable bytes under the SHA-256 of their content, on a local disk or in S3, GCS or Azure."""

import asyncio
import hashlib
import os
import re
import shutil
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Full, Queue
from typing import TYPE_CHECKING, Any, Self

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, from_url

from domain.kernel.errors import NotFound, Refusal

if TYPE_CHECKING:
    from obstore.store import ObjectStore

CHUNK_BYTES = 1 << 20
"""The piece in which blobs are read and answered, in bytes; a multiple of every tensor element."""
QUEUED_PIECES = 4
RESERVED_BYTES = 500_000_000
"""What no upload may take of a local disk, in bytes."""
_HASH = re.compile(r"[0-9a-f]{64}")


class BlobNotFound(NotFound):
    """No blob with this hash has been stored."""


class BlobHashInvalid(Refusal):
    """A blob is named by its SHA-256 in 64 lower-case hexadecimal digits."""


class BlobHashMismatch(Refusal):
    """An uploaded blob has the SHA-256 it was announced with."""


class BlobTruncated(Refusal):
    """An uploaded blob is as long as announced; a shorter body is thrown away."""


class BlobTooLarge(Refusal):
    """A blob is no longer than announced and no larger than the village allows."""

    status = 413


class BlobStoreFull(Refusal):
    """An upload leaves the disk RESERVED_BYTES, which the log needs more."""

    status = 503


class BlobStoreUnavailable(Refusal):
    """The blob store did not answer; nothing was stored, try again later."""

    status = 503


class _Check:
    """Hash and length of a body, compared with what was announced while it flows past."""

    def __init__(self, blob_hash: str, size: int) -> None:
        self.announced, self.size, self.seen, self.digest = blob_hash, size, 0, hashlib.sha256()

    def feed(self, piece: bytes) -> bytes:
        self.seen += len(piece)
        if self.seen > self.size:
            raise BlobTooLarge(f"longer than the {self.size} bytes announced")
        self.digest.update(piece)
        return piece

    def finish(self) -> None:
        if self.seen < self.size:
            raise BlobTruncated(f"{self.seen} of {self.size} bytes")
        if self.digest.hexdigest() != self.announced:
            raise BlobHashMismatch(f"the body is not {self.announced[:16]}...")


class BlobStore:
    """Content-addressed blobs. Every put is verified inside the upload, so a bad body plants nothing.

    A put streams, and replaces a blob only by the same bytes in one atomic step, so a retry is harmless and
    heals a damaged blob. (A conditional create would hold the whole body in memory: measured with obstore.)
    """

    def __init__(self, store: "ObjectStore", *, root: Path | None = None) -> None:
        self._store, self._root = store, root

    @classmethod
    def open(cls, url: str | None, *, home: Path) -> Self:
        """The store at `url` (s3://, gs://, az://, file://, memory://), or `home`/blobs when there is none.

        Credentials of cloud stores come from their usual environment variables.
        """
        if url is not None and not url.startswith("file://"):
            return cls(from_url(url))
        root = Path(url.removeprefix("file://")) if url is not None else home / "blobs"
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        return cls(LocalStore(root), root=root)

    async def put(self, blob_hash: str, body: AsyncIterable[bytes], *, size: int, limit: int) -> None:
        """Store a body of `size` bytes as it arrives. `limit` is the largest size allowed, in bytes.

        Raises BlobTooLarge, BlobStoreFull, BlobTruncated or BlobHashMismatch; then nothing is stored.
        """
        path, check = _path(blob_hash), _admit(blob_hash, size, limit)
        if self._root is not None and shutil.disk_usage(self._root).free - size < RESERVED_BYTES:
            raise BlobStoreFull(f"{size} bytes more")

        async def verified() -> AsyncIterator[bytes]:
            async for piece in body:
                if piece:
                    yield check.feed(piece)
            check.finish()

        with _translated(blob_hash):
            await obstore.put_async(self._store, path, verified())
        await asyncio.to_thread(self._sync_to_disk, path)

    def put_pieces(self, blob_hash: str, pieces: Iterable[bytes], *, size: int) -> None:
        """The same for bytes that are made here. The pieces are drawn in this thread, so they may come from blobs."""
        path, check = _path(blob_hash), _admit(blob_hash, size, size)
        drawn: Queue[bytes | BaseException | None] = Queue(maxsize=QUEUED_PIECES)
        with ThreadPoolExecutor(1, "blob-put") as pool:
            upload = pool.submit(obstore.put, self._store, path, _from_queue(drawn))
            try:
                for piece in pieces:
                    _offer(drawn, check.feed(piece), upload)
                check.finish()
            except BaseException as error:
                _offer(drawn, error, upload)  # raised inside the upload, so that it plants nothing
                raise
            _offer(drawn, None, upload)
            with _translated(blob_hash):
                upload.result()
        self._sync_to_disk(path)

    def put_bytes(self, data: bytes) -> str:
        """Store bytes and answer their hash."""
        blob_hash = hashlib.sha256(data).hexdigest()
        with _translated(blob_hash):
            obstore.put(self._store, _path(blob_hash), data)
        self._sync_to_disk(_path(blob_hash))
        return blob_hash

    def exists(self, blob_hash: str) -> bool:
        """Whether a blob with this hash has been stored."""
        try:
            self.size(blob_hash)
        except BlobNotFound:
            return False
        return True

    def size(self, blob_hash: str) -> int:
        """The length of a blob in bytes. Raises BlobNotFound."""
        with _translated(blob_hash):
            return obstore.head(self._store, _path(blob_hash))["size"]

    async def size_async(self, blob_hash: str) -> int:
        """The length of a blob in bytes. Raises BlobNotFound."""
        with _translated(blob_hash):
            return (await obstore.head_async(self._store, _path(blob_hash)))["size"]

    def read(self, blob_hash: str, start: int, end: int) -> bytes:
        """Bytes `start` (inclusive) to `end` (exclusive), fewer where the blob ends earlier. Raises BlobNotFound."""
        if start >= end:
            return b""
        with _translated(blob_hash):
            return bytes(obstore.get_range(self._store, _path(blob_hash), start=start, end=end))

    def pieces(self, blob_hash: str, start: int = 0, *, piece_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
        """The blob from byte `start` to its end in pieces of exactly `piece_bytes`, the last one shorter."""
        end = self.size(blob_hash)
        for offset in range(start, end, piece_bytes):
            yield self.read(blob_hash, offset, min(offset + piece_bytes, end))

    async def stream(self, blob_hash: str) -> AsyncIterator[bytes]:
        """The whole blob as it is read. Raises BlobNotFound at the first step."""
        with _translated(blob_hash):
            answer = await obstore.get_async(self._store, _path(blob_hash))
            async for piece in answer.stream(min_chunk_size=CHUNK_BYTES):
                yield piece

    def sweep(self, older_than_s: float = 86_400.0) -> int:
        """Remove what uploads left behind that were killed with their process, on a local disk; answers how many."""
        oldest, swept = time.time() - older_than_s, 0
        for part in self._root.glob("??/*#*") if self._root is not None else ():
            with suppress(FileNotFoundError):
                if part.stat().st_mtime < oldest:
                    part.unlink()
                    swept += 1
        return swept

    def _sync_to_disk(self, path: str) -> None:
        # The log outlives a power cut, so what it refers to must, too; cloud stores promise that themselves.
        if self._root is None:
            return
        for name in (self._root / path, (self._root / path).parent, self._root):
            descriptor = os.open(name, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _from_queue(drawn: "Queue[bytes | BaseException | None]") -> Iterator[bytes]:
    while (piece := drawn.get()) is not None:
        if isinstance(piece, BaseException):
            raise piece
        yield piece


def _offer(
    drawn: "Queue[bytes | BaseException | None]", piece: bytes | BaseException | None, upload: Future[Any]
) -> None:
    """Hand a piece to the upload, unless that has failed and will take no more."""
    while not upload.done():
        try:
            drawn.put(piece, timeout=0.1)
        except Full:
            continue
        return


def _path(blob_hash: str) -> str:
    # Checked here, because a hash from outside becomes a path.
    if not _HASH.fullmatch(blob_hash):
        raise BlobHashInvalid(f"{blob_hash[:64]!r}")
    return f"{blob_hash[:2]}/{blob_hash}"


def _admit(blob_hash: str, size: int, limit: int) -> _Check:
    if size > limit:
        raise BlobTooLarge(f"{size} bytes, at most {limit}")
    return _Check(blob_hash, size)


@contextmanager
def _translated(blob_hash: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise BlobNotFound(blob_hash) from error
    except BaseError as error:
        raise BlobStoreUnavailable(type(error).__name__) from error
