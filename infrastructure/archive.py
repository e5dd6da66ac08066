"""The archive: states of old facts in Parquet files named by their SHA-256, read back wherever the log is read."""

import hashlib
import io
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psycopg

from domain.kernel.errors import Refusal

if TYPE_CHECKING:
    from .blobs import BlobStore

MAX_FILE_FACTS: Final = 16_384
MAX_FILE_BYTES: Final = 8_000_000
"""States of one file, in bytes; a file holds at least one fact."""
MAX_CACHED_BYTES: Final = 64_000_000
"""States a process keeps at hand."""

_FILES = (
    "SELECT e.position, encode(a.sha256, 'hex') FROM log.events AS e LEFT JOIN log.archives AS a ON a.id = e.archive"
    " WHERE e.position = ANY(%b::bigint[]) ORDER BY e.position"
)

Select = Callable[..., Sequence[tuple[Any, ...]]]
"""Runs a statement with its parameters and answers the rows."""


class ArchiveUnreadable(Refusal):
    """What an old fact says is in the archive, and the archive does not give it; `position` is the fact's."""

    status = 503

    def __init__(self, message: str, position: int = 0) -> None:
        super().__init__(message)
        self.position = position


class ArchiveMissing(ArchiveUnreadable):
    """A file of the archive is not where this process looks: bring it back."""


class ArchiveAltered(ArchiveUnreadable):
    """A file of the archive is no longer what was archived: bring the right one back."""


class Archive:
    """Reads files of the archive, each verified whole by its name; keeps the last ones used. Safe between threads."""

    def __init__(self, blobs: "BlobStore") -> None:
        self._blobs = blobs
        self._lock = threading.Lock()
        self._files: OrderedDict[str, dict[int, bytes]] = OrderedDict()
        self._cached_bytes = 0

    def states(self, sha256: str) -> Mapping[int, bytes]:
        """The states of a file by position. Raises ArchiveMissing, ArchiveAltered, BlobStoreUnavailable."""
        with self._lock:
            if (held := self._files.get(sha256)) is not None:
                self._files.move_to_end(sha256)
                return held
            found = self._files[sha256] = self.read(sha256)
            self._cached_bytes += _size(found)
            while self._cached_bytes > MAX_CACHED_BYTES and len(self._files) > 1:
                self._cached_bytes -= _size(self._files.popitem(last=False)[1])
            return found

    def read(self, sha256: str) -> dict[int, bytes]:
        """The same from the store itself."""
        from .blobs import BlobNotFound

        try:
            data = b"".join(self._blobs.pieces(sha256))
        except BlobNotFound as error:
            raise ArchiveMissing(f"{sha256} is missing") from error
        if hashlib.sha256(data).hexdigest() != sha256:
            raise ArchiveAltered(f"{sha256} was altered")
        return decoded(data)


def archive_store(blob_url: str | None, home: Path) -> "BlobStore":
    """Where the archive of a village is: beside its blobs, for nobody is to fetch it by a hash."""
    from .blobs import BlobStore

    return BlobStore.open(f"{blob_url.rstrip('/')}/archive" if blob_url else f"file://{home}/archive", home=home)


def missing_files(connection: psycopg.Connection[Any], blobs: "BlobStore") -> list[str]:
    """The files that the log has states in and the store lacks."""
    files = connection.execute("SELECT encode(sha256, 'hex') FROM log.archives ORDER BY id")
    return [sha256 for (sha256,) in files if not blobs.exists(sha256)]


def encoded(rows: Sequence[tuple[int, str, bytes]]) -> bytes:
    """Rows of (position, topic, state) as a Parquet file; the same rows give the same bytes."""
    import arro3.core as arrow
    from arro3.io import write_parquet

    positions, topics, states = zip(*rows, strict=True)
    table = arrow.Table.from_pydict(
        {
            "position": arrow.Array(positions, type=arrow.DataType.int64()),
            "topic": arrow.Array(topics, type=arrow.DataType.utf8()),
            "state": arrow.Array(states, type=arrow.DataType.binary()),
        }
    )
    file = io.BytesIO()
    write_parquet(table, file, compression="zstd(3)")
    return file.getvalue()


def decoded(data: bytes) -> dict[int, bytes]:
    """The states of a file that `encoded` made, by position."""
    from arro3.io import read_parquet

    table = read_parquet(io.BytesIO(data)).read_all()
    positions, states = table["position"].to_pylist(), table["state"].to_pylist()
    return dict(zip(positions, states, strict=True))


# One process reads one village, from readers made in many places: where its archive is, is said once.
_archive: Callable[[], Archive] | None = None


def read_archive_at(store: "Callable[[], BlobStore]") -> None:
    """Say where this process finds archived states; asked when the first one is needed."""
    global _archive
    made: list[Archive] = []

    def archive() -> Archive:
        if not made:
            made.append(Archive(store()))
        return made[0]

    _archive = archive


def archived_states(select: Select, positions: Sequence[int]) -> dict[int, bytes]:
    """The states of facts whose rows no longer have them, by position.

    Raises:
        ArchiveMissing, ArchiveAltered: of the first fact that cannot be read. BlobStoreUnavailable.
    """
    states = {}
    for position, sha256 in select(_FILES, list(positions)):
        if sha256 is None:
            raise ArchiveMissing(f"fact {position} has lost its state and is in no archive", position)
        if _archive is None:
            raise ArchiveMissing(f"fact {position} is in {sha256}, and this process knows no archive", position)
        try:
            states[position] = _archive().states(sha256)[position]
        except ArchiveUnreadable as error:
            raise type(error)(f"fact {position} is in an archive file: {error}", position) from error
        except KeyError as error:
            raise ArchiveAltered(f"fact {position} is not in {sha256}, as the log says", position) from error
    return states


def _size(states: Mapping[int, bytes]) -> int:
    return sum(map(len, states.values()))
