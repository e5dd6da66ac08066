"""The projector: one scan of the log feeds every read model it holds, each exactly once and each on its own."""

import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import psycopg
import structlog

from domain.kernel.fact import Fact
from domain.kernel.garbage import seldom_collected
from infrastructure import traces
from infrastructure.database import Database, Role
from infrastructure.event_store.reader import LogReader
from projections import rebuild
from projections.batch import NOT_STORABLE, Pending
from projections.fold import Letter, of_topics
from projections.rows import ReadModel
from projections.slots import LEASE_S, CursorTaken, Lease, Slot

from .ahead import Chapter, ReadAhead, read
from .orders import Orders
from .pump import Failures, follow_log

POLL_S = 0.25
REST_S = 0.005
"""The pause between two hints; shorter than that of other consumers, for somebody waits for what is projected."""
REFRESH_S = 1.0
MAX_READ = 5_000
REBUILD_READ = 2_000
"""What a rebuild decodes at once for all its read models: it stays near the processor until the last has folded it."""
REBUILD_BATCH = 100_000
"""Facts a transaction folds at most, live and in a rebuild."""
READ_CHANNEL = "village_read"
"""Notified whenever read models have moved on, so that a reader waiting for a position wakes."""

_PASS_OVER = (
    "WITH moved AS (UPDATE engine.cursors AS c SET position = %s, updated_at = clock_timestamp()"
    " FROM unnest(%s::text[], %s::int[], %s::bigint[], %s::bigint[]) AS given (name, partition, position, fence)"
    " WHERE c.name = given.name AND c.partition = given.partition AND c.position = given.position"
    " AND c.fence = given.fence RETURNING c.name, c.partition)"
    " SELECT moved.name, moved.partition FROM (SELECT pg_notify(%s, %s)) AS told LEFT JOIN moved ON true"
)
_log = structlog.get_logger()


class Projector:
    """Folds batches of facts into the read models (or partitions of them) that it holds under a lease.

    Several projectors share the work; when one dies its share is taken over after the lease. A slot that fails is
    held back with a growing pause while the others go on. Operators pause, rebuild, retry and skip by facts.
    """

    def __init__(
        self,
        database: Database,
        models: Sequence[ReadModel[Any]],
        *,
        batch_size: int | None = None,
        lease_s: float = LEASE_S,
    ) -> None:
        self._database = database
        self._models = {model.name: model for model in models}
        self._wanted = frozenset[str]().union(*(model.topics for model in models))
        self._ahead = ReadAhead(self._connect, self._wanted)
        self._live_batch = batch_size or MAX_READ
        self._rebuild_batch = batch_size or REBUILD_BATCH
        self._pending: dict[str, Pending] = {}
        self._careful: dict[str, int] = {}
        self._lease = Lease(f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}", models, lease_s=lease_s)
        self._failures = Failures()
        self._connection: psycopg.Connection[Any] | None = None
        self._slots: list[Slot] = []
        self._orders = Orders()
        self._refresh_at = 0.0

    @seldom_collected()
    def run(self, stopping: threading.Event) -> None:
        """Project until told to stop; LISTENs before the first pull, polls as the floor."""
        try:
            follow_log("projector", self.step, self._connect, POLL_S, stopping, REST_S)
            self._give_back()
        finally:
            self.close()

    @seldom_collected()
    def run_once(self) -> int:
        """Project everything that stands now, obey what operators ask, and give the slots back.

        Answers the position every read model has reached that neither failed nor is paused.
        """
        worked = True
        while worked:
            worked = self._refresh()
            while self._work():
                worked = True
        reached = min((slot.position for slot in self._runnable(self._slots)), default=0)
        self._give_back()
        return reached

    def step(self) -> bool:
        """Project one batch; whether anything was there."""
        self._open()
        if time.monotonic() >= self._refresh_at:
            self._refresh()
        return self._work()

    def close(self) -> None:
        self._ahead.close()
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _work(self) -> bool:
        live = [slot for slot in self._slots if not slot.rebuilding and slot.version == slot.model.version]
        rebuilds = [slot for slot in self._slots if slot.rebuilding]
        worked = self._scan(self._runnable(live), self._live_batch)
        worked = self._refold(self._runnable(rebuilds)) or worked
        return self._swap(self._runnable(rebuilds)) or worked

    def _runnable(self, slots: Sequence[Slot]) -> list[Slot]:
        return [slot for slot in slots if not self._failures.is_held(slot.name) and not self._orders.paused(slot.model)]

    def _scan(self, slots: Sequence[Slot], limit: int) -> bool:
        """Read one batch for all of these slots and let each take its part.

        The next batch is read and decoded while the server stores the rows of this one.
        """
        if not slots:
            return False
        start = min(slot.position for slot in slots)
        chapter = self._ahead.take(start, limit) or read(self._open(), self._wanted, start, limit)
        if chapter.end == start:
            return False
        folded, idle = list[tuple[Pending, list[Fact]]](), list[Slot]()
        for slot in slots:
            if slot.position >= chapter.end:
                continue
            own = of_topics(chapter.facts, slot.model.topics, after=slot.position)
            if not own:
                idle.append(slot)
                continue
            with self._guarded(slot):
                skipped = self._orders.skipped(slot.model)
                folded.append((Pending(slot).add(self._open(), own, chapter.end, skipped), own))

        def read_on() -> None:
            if chapter.is_full:
                self._ahead.begin(chapter.end, limit)

        for pending, own in folded:
            with self._guarded(pending.slot), traces.folding(pending.slot.model.name, own):
                _tell(pending.slot, pending.settle(self._open(), own, read_on))
        read_on()
        self._pass_over(idle, chapter.end)
        return True

    def _refold(self, slots: Sequence[Slot]) -> bool:
        """Read one batch for all of these rebuilds; they write when they have folded much, or the log ends."""
        careful = [slot for slot in slots if slot.position < self._careful.get(slot.name, 0)]
        worked = self._scan(careful, self._live_batch)
        self._pending = {slot.name: self._pending_of(slot) for slot in slots if slot not in careful}
        if not self._pending:
            return worked
        start = min(one.end for one in self._pending.values())
        # Here the work counts, not the wait: threads that share an interpreter take more of it.
        chapter = read(self._open(), self._wanted, start, min(REBUILD_READ, self._rebuild_batch))
        for one in list(self._pending.values()):
            with self._guarded(one.slot):
                self._gather(one, chapter)
        return worked or chapter.end > start

    def _pending_of(self, slot: Slot) -> Pending:
        known = self._pending.get(slot.name)
        if known is None or not known.is_of(slot):
            return Pending(slot)
        known.slot = slot
        return known

    def _gather(self, one: Pending, chapter: Chapter) -> None:
        slot = one.slot
        if one.end < chapter.end:
            own = of_topics(chapter.facts, slot.model.topics, after=one.end)
            one.add(self._open(), own, chapter.end, self._orders.skipped(slot.model))
        if one.end > slot.position and (not chapter.is_full or one.is_full(self._rebuild_batch)):
            del self._pending[slot.name]
            try:
                _tell(slot, one.write(self._open()))
                self._pending[slot.name] = one.follower()
            except NOT_STORABLE:
                self._careful[slot.name] = one.end

    @contextmanager
    def _guarded(self, slot: Slot) -> Iterator[None]:
        """A slot that fails, or is another's by now, does not stop the others."""
        try:
            yield
            self._failures.succeeded(slot.name)
        except CursorTaken:
            _log.info("another projector has this slot", slot=slot.name)
            self._refresh_at = 0.0
        except psycopg.OperationalError:
            raise
        except Exception as error:
            self._failures.failed(slot.name, error)

    def _pass_over(self, idle: Sequence[Slot], end: int) -> None:
        columns = [[getattr(slot, name) for slot in idle] for name in ("cursor", "partition", "position", "fence")]
        told = (READ_CHANNEL, str(end))
        moved = set(self._open().execute(_PASS_OVER, (end, *columns, *told), prepare=True).fetchall())
        for slot in idle:
            if (slot.cursor, slot.partition) in moved:
                slot.position = end
            else:
                self._refresh_at = 0.0

    def _swap(self, slots: Sequence[Slot]) -> bool:
        """Put rebuilds that are near the head in the place of the live tables; whether there were any."""
        if not slots:
            return False
        near = LogReader(self._open()).head() - rebuild.MAX_LAST_FACTS
        swapped = [slot for slot in slots if slot.position >= near and self._is_swapped(slot)]
        if swapped:
            self._refresh()
        return bool(swapped)

    def _is_swapped(self, slot: Slot) -> bool:
        with self._guarded(slot):
            if rebuild.swap(self._open(), slot, self._orders.skipped(slot.model)):
                _log.info("rebuilt", model=slot.model.name, version=slot.model.version, position=slot.position)
                return True
        return False

    def _refresh(self) -> bool:
        """Renew the lease, learn of new slots and obey the operators; whether there was anything to obey."""
        self._slots = self._lease.slots(self._open())
        self._refresh_at = time.monotonic() + REFRESH_S
        self._orders.read(self._open())
        begun = self._orders.begin_rebuilds(self._open(), self._slots)
        if begun:
            self._slots = self._lease.slots(self._open())
        retried = False
        for slot in self._orders.retry_letters(self._open(), self._slots):
            self._pending.pop(slot.name, None)
            retried = True
        return begun or retried

    def _give_back(self) -> None:
        try:
            self._lease.release(self._open())
            self._slots = []
            self._refresh_at = 0.0
        except psycopg.Error as error:
            _log.warning("the lease ends by itself", error=repr(error))

    def _connect(self) -> psycopg.Connection[Any]:
        return self._database.connect(Role.PROJECTOR)

    def _open(self) -> psycopg.Connection[Any]:
        if self._connection is None or self._connection.closed:
            self._connection = self._connect()
            # Rows and cursor stand or fall together: after a crash the projection goes on from where both are.
            self._connection.execute("SET synchronous_commit = off")
            self._refresh_at = 0.0
        return self._connection


def _tell(slot: Slot, letters: Sequence[Letter]) -> None:
    for letter in letters:
        if letter.poison:
            _log.error("dead letter", slot=slot.name, position=letter.position, error=letter.error)
