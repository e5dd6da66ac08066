"""What operators ask of the projector by facts: to pause, rebuild, retry and skip."""

from collections.abc import Iterator, Sequence
from typing import Any

import psycopg

from domain.monitoring.projection import CONTROLS
from projections import rebuild
from projections.batch import Skipped, retry
from projections.letters import tried
from projections.monitoring import ControlRow, Controls
from projections.rows import ReadModel
from projections.slots import REBUILD, Slot

_REBUILT = "SELECT name, max(rebuilt_at) FROM engine.cursors GROUP BY name"
_BEGUN = "SELECT version FROM engine.cursors WHERE name = %s"
_NONE = ControlRow("", paused=False, rebuild_at=0, retried_at={}, skipped=[])


class Orders:
    """The orders as they were read last, by read model."""

    def __init__(self) -> None:
        self._rows: dict[str, ControlRow] = {}

    def read(self, connection: psycopg.Connection[Any]) -> None:
        """Learn what is asked now."""
        rows = map(Controls().read, connection.execute(Controls().select(), prepare=True))
        self._rows = {row.projection: row for row in rows}

    def paused(self, model: ReadModel[Any]) -> bool:
        return model.name != CONTROLS and self._of(model).paused

    def skipped(self, model: ReadModel[Any]) -> Skipped:
        """Positions and keys to leave out for good."""
        return frozenset((position, key) for position, key in self._of(model).skipped)

    def begin_rebuilds(self, connection: psycopg.Connection[Any], slots: Sequence[Slot]) -> bool:
        """Begin those that are asked for and those of another version; whether there were any."""
        rebuilt = dict(connection.execute(_REBUILT).fetchall())
        running = {slot.model.name: slot.version for slot in slots if slot.rebuilding}
        begun = False
        for slot in slots:
            if slot.rebuilding or slot.partition:
                continue
            model, asked_at = slot.model, self._of(slot.model).rebuild_at
            is_stale = slot.version != model.version and _version_begun(connection, model, running) != model.version
            if asked_at > rebuilt.get(slot.cursor, 0) or is_stale:
                rebuild.begin(connection, model, asked_at)
                begun = True
        return begun

    def retry_letters(self, connection: psycopg.Connection[Any], slots: Sequence[Slot]) -> Iterator[Slot]:
        """Fold again the rows that are asked for; gives a slot before each of its rows."""
        for slot in slots:
            asked = self._of(slot.model).retried_at
            if not slot.held or not asked:
                continue
            for key, tried_at in tried(connection, slot.cursor).items():
                if asked.get(key, 0) > tried_at and slot.owns(slot.model.key_from(key)):
                    yield slot
                    retry(connection, slot, key, asked[key], self.skipped(slot.model))

    def _of(self, model: ReadModel[Any]) -> ControlRow:
        return self._rows.get(model.name, _NONE)


def _version_begun(connection: psycopg.Connection[Any], model: ReadModel[Any], running: dict[str, int]) -> int | None:
    """Which version of a read model is being rebuilt, here or elsewhere."""
    if model.name in running:
        return running[model.name]
    begun = connection.execute(_BEGUN, (REBUILD + model.name,)).fetchone()
    return None if begun is None else int(begun[0])
