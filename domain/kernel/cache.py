"""The aggregate cache: no SELECT on a hit, and nobody shares an instance."""

import threading
from collections import OrderedDict
from uuid import UUID

from .aggregate import Aggregate


class AggregateCache:
    """Keeps the newest known version of the most recently used aggregates.

    What it holds is never mutated: `put` stores a copy and `get` answers another, so a refused or failed
    command leaves no trace. It may be behind another process; the expected version tells.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._entries: OrderedDict[UUID, Aggregate] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, stream: UUID) -> Aggregate | None:
        with self._lock:
            held = self._entries.get(stream)
            if held is None:
                return None
            self._entries.move_to_end(stream)
        return held.clone()

    def put(self, aggregate: Aggregate) -> None:
        stored = aggregate.clone()
        with self._lock:
            held = self._entries.get(stored.id)
            if held is None or held.version < stored.version:
                self._entries[stored.id] = stored
                self._entries.move_to_end(stored.id)
            while len(self._entries) > self._capacity:
                self._entries.popitem(last=False)

    def drop_older(self, stream: UUID, version: int) -> None:
        """Forget what is behind a version that is known to be recorded."""
        with self._lock:
            held = self._entries.get(stream)
            if held is not None and held.version < version:
                del self._entries[stream]

    def drop(self, stream: UUID) -> None:
        with self._lock:
            self._entries.pop(stream, None)

    def __len__(self) -> int:
        return len(self._entries)
