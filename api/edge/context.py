"""What the API is made of: everything a route may use, composed in cli/ and handed in once."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from psycopg.errors import DataError, QueryCanceled

from domain.audit.checkpoint import Verifier
from domain.kernel.personal import SubjectKeys
from infrastructure.blobs import BlobStore
from infrastructure.database import Database
from infrastructure.keys import Keys
from infrastructure.reads import Query, Reads
from infrastructure.settings import Settings

from .principals import DeviceDirectory
from .problems import QueryTooSlow, ValueOutOfReach
from .threads import Threads

if TYPE_CHECKING:
    from domain.sagas.village import Village

T = TypeVar("T")

QUERY_TIMEOUT_MS = 5_000
"""After this the database stops a query."""

FOLD_THREADS = 1
"""Lists of the past folded at once in one process: they take processor time from everything else."""

COMMAND_THREADS = 32
"""Commands decided at once in one process; they wait for one log, so more would only wait longer."""


@dataclass(slots=True, kw_only=True)
class ApiContext:
    """The API's collaborators.

    `village` holds the services commands go to; `database` the pools queries use; `devices` answers a device's
    public key; `verifiers` the keys that may have signed checkpoints of the log; `subject_keys` open personal text;
    `elsewhere` the consumers of the log that this part of a village does not run; `left_out` the contexts that failed
    to start.
    """

    village: "Village"
    database: Database
    blobs: BlobStore
    keys: Keys
    settings: Settings
    devices: DeviceDirectory
    verifiers: Callable[[], list[Verifier]] = list
    subject_keys: SubjectKeys | None = None
    version: str = "0.1.0"
    elsewhere: frozenset[str] = frozenset()
    left_out: list[str] = field(default_factory=list)
    _commands: Threads = field(default_factory=lambda: Threads(COMMAND_THREADS))
    _queries: Threads | None = None
    _folds: Threads = field(default_factory=lambda: Threads(FOLD_THREADS))
    _reads: Reads | None = None

    async def in_command_thread(self, work: Callable[[], T]) -> T:
        """Run blocking work of a command off the event loop; at most COMMAND_THREADS at once. Raises Overloaded."""
        return await self._commands.run(work)

    async def in_query_thread(self, work: Callable[[], T], *, abandon: bool = False) -> T:
        """Run a blocking query off the event loop; at most one per connection of the reader's pool.

        With `abandon` a caller that stops waiting leaves the thread to end by itself. Raises Overloaded.
        """
        if self._queries is None:
            self._queries = Threads(self.settings.pool_size)
        return await self._queries.run(work, abandon=abandon)

    async def in_fold_thread(self, work: Callable[[], T]) -> T:
        """Fold history off the event loop; at most FOLD_THREADS at once, the others wait. Raises Overloaded."""
        return await self._folds.run(work)

    async def rows(self, query: Query, parameters: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """The rows of a query, by column name, read with the reader's rights. Raises QueryTooSlow, ValueOutOfReach."""
        if self._reads is None:
            self._reads = Reads(self.database, most=self.settings.pool_size, timeout_ms=QUERY_TIMEOUT_MS)
        try:
            return await self._reads.rows(query, parameters)
        except DataError as error:
            raise ValueOutOfReach("a text with a NUL, or a number too large") from error
        except QueryCanceled as error:
            raise QueryTooSlow(f"stopped after {QUERY_TIMEOUT_MS} ms") from error

    async def row(self, query: Query, parameters: dict[str, Any] | None = None) -> dict[str, Any] | None:
        """The first row of a query, or None."""
        return next(iter(await self.rows(query, parameters)), None)

    async def close(self) -> None:
        """Close what belongs to this event loop."""
        if self._reads is not None:
            await self._reads.close()
