"""Garbage collection, put off while many objects are made that form no cycles."""

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

MAX_UNCOLLECTED = 500_000

_lock = threading.Lock()
_inside = 0
_before = gc.get_threshold()


@contextmanager
def seldom_collected() -> Iterator[None]:
    """Garbage is looked for after 500,000 new objects while any thread is inside: looking takes time."""
    global _inside, _before
    with _lock:
        if not _inside:
            _before = gc.get_threshold()
            gc.set_threshold(MAX_UNCOLLECTED, *_before[1:])
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                gc.set_threshold(*_before)
