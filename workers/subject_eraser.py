"""The subject eraser: destroys the keys of people whom the log says are erased."""

import threading

import structlog

from infrastructure.database import Database
from infrastructure.subject_keys import SubjectKeyTable
from projections.privacy import KEYS_DUE
from workers.ticking import tick_until

POLL_S = 0.5
MAX_PER_TICK = 500
_DUE = f"SELECT subject_id {KEYS_DUE} ORDER BY position LIMIT %s"
_log = structlog.get_logger()


class SubjectEraser:
    """Compares who is erased with whose key is left, so it needs no memory of its own: whatever crashed, was restored
    from a backup or is done by a second eraser at once, the next tick ends it.
    """

    def __init__(self, database: Database, keys: SubjectKeyTable) -> None:
        self._database = database
        self._keys = keys

    def run(self, stopping: threading.Event) -> None:
        """Tick until told to stop."""
        tick_until(stopping, POLL_S, self.tick, "subject eraser")

    def tick(self) -> int:
        """Destroy the keys that are due, at most 500; answers how many."""
        with self._database.writer.connection() as connection:
            due = [subject for (subject,) in connection.execute(_DUE, (MAX_PER_TICK,))]
        return self._keys.destroy(due) if due else 0
