"""The aggregate cache: no SELECT on a hit, and nobody shares an instance."""

import threading
from collections import OrderedDict
from typing import Any
from uuid import UUID

from .aggregate import Aggregate
from .evolve import evolve_by


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
        self._keep(aggregate.clone())

    def move_on(self, stream: UUID, version: int, event: Any) -> None:
        """Evolve what is kept by the event recorded at this version; forget it when it lacks one before that."""
        with self._lock:
            held = self._entries.get(stream)
        if held is not None and held.version == version - 1:
            moved = held.clone()
            evolve_by(moved, event)
            moved.version = version
            self._keep(moved)
        else:
            self.drop_older(stream, version)

    def _keep(self, stored: Aggregate) -> None:
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
