"""The aggregate cache: no SELECT on a hit, and nobody shares an instance."""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from .aggregate import Aggregate


class AggregateCache:
    """Keeps the newest known version of the most recently used aggregates.

    Nobody shares what it holds: `put` stores a copy and `get` answers another, so a refused or failed command leaves
    no trace. It may be behind another process; the expected version tells.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._entries: OrderedDict[int, Aggregate] = OrderedDict()  # a UUID hashes slowly, its number does not
        self._lock = threading.Lock()

    def get(self, stream: UUID) -> Aggregate | None:
        with self._lock:
            held = self._entries.get(stream.int)
            if held is None:
                return None
            self._entries.move_to_end(stream.int)
            return held.clone()

    def get_all(self, streams: Sequence[UUID]) -> list[Aggregate | None]:
        """The same of many, in their order."""
        entries = self._entries
        found: list[Aggregate | None] = []
        with self._lock:
            for stream in streams:
                held = entries.get(stream.int)
                if held is not None:
                    entries.move_to_end(stream.int)
                    held = held.clone()
                found.append(held)
        return found

    def put(self, aggregate: Aggregate) -> None:
        stored = aggregate.clone()
        key = stored.id.int
        with self._lock:
            held = self._entries.pop(key, stored)
            self._entries[key] = held if held.version > stored.version else stored
            while len(self._entries) > self._capacity:
                self._entries.popitem(last=False)

    def move_on(self, facts: Iterable[tuple[int, int, Any]]) -> None:
        """Evolve what is kept by events recorded now: (number of the stream, version, event) in the order of the log.

        What lacks an event before one of them is forgotten.
        """
        entries = self._entries
        with self._lock:
            for key, version, event in facts:
                held = entries.pop(key, None)
                if held is None or (behind := version - held._version) > 1:
                    continue
                if behind == 1:
                    held.evolve_by(event)
                    held._version = version
                entries[key] = held

    def drop_older(self, stream: UUID, version: int) -> None:
        """Forget what is behind a version that is known to be recorded."""
        with self._lock:
            held = self._entries.get(stream.int)
            if held is not None and held.version < version:
                del self._entries[stream.int]

    def drop(self, stream: UUID) -> None:
        self.drop_all([stream.int])

    def drop_all(self, streams: Iterable[int]) -> None:
        """Forget aggregates, by the numbers of their streams."""
        with self._lock:
            for key in streams:
                self._entries.pop(key, None)

    def __len__(self) -> int:
        return len(self._entries)
