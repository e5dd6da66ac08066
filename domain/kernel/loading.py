"""Loading aggregates from the log: from their newest snapshots that fit, and the events since."""

from collections.abc import Sequence
from uuid import UUID

from .aggregate import Aggregate
from .evolve import rehydrate
from .snapshot import restored, take
from .write import Recorder

LOADED_AT_ONCE = 64
"""Streams that are read with one statement, and are in memory together."""


def loaded(recorder: Recorder, kind: type[Aggregate], stream: UUID) -> Aggregate | None:
    """An aggregate, or None when its stream does not exist."""
    policy = kind.snapshots
    if policy is None:
        return rehydrate(stream, recorder.select_events(stream))
    stored = recorder.snapshot_of(stream)
    since = None if stored is None else restored(kind, stored)
    rows = recorder.select_events(stream, gt=None if since is None else since.version)
    found = rehydrate(stream, rows, since)
    if len(rows) >= policy.every and type(found) is kind:
        recorder.keep_snapshot(take(found))
    return found


def loaded_all(recorder: Recorder, kind: type[Aggregate], streams: Sequence[UUID]) -> list[Aggregate | None]:
    """The same of many, in their order; of a kind without snapshots with few statements."""
    if kind.snapshots is not None:
        return [loaded(recorder, kind, stream) for stream in streams]
    found: list[Aggregate | None] = []
    for first in range(0, len(streams), LOADED_AT_ONCE):
        part = streams[first : first + LOADED_AT_ONCE]
        rows = recorder.select_streams(part)
        found += [rehydrate(stream, rows.get(stream.int, ())) for stream in part]
    return found
