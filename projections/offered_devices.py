"""What matching knows of the devices of offerings: as it is, from the read models, and as it was, from the log."""

from collections.abc import Collection, Mapping
from typing import Any, Final
from uuid import UUID

import psycopg

from domain.marketplace.matching import MEASURED, KnownDevice

from .as_of import rows_of
from .device_registry import Devices

_POSITIONS = "SELECT name, min(position) FROM engine.cursors WHERE name = ANY(%s) GROUP BY name"
_MODELS = (Devices.name,)
_DEVICES: Final = f"SELECT device_id, {', '.join(MEASURED)} FROM read.devices WHERE device_id = ANY(%s)"


def positions(connection: psycopg.Connection[Any]) -> dict[str, int]:
    """How far the read models have come that tell of devices, by name."""
    return dict.fromkeys(_MODELS, 0) | dict(connection.execute(_POSITIONS, (list(_MODELS),)).fetchall())


def known(connection: psycopg.Connection[Any], device_ids: Collection[UUID]) -> dict[UUID, KnownDevice]:
    """Those of these devices that are known."""
    records = connection.execute(_DEVICES.encode(), (list(device_ids),)).fetchall()
    return {device_id: _known(*values) for device_id, *values in records}


def known_at(
    connection: psycopg.Connection[Any], device_ids: Collection[UUID], known_at: Mapping[str, int]
) -> dict[UUID, KnownDevice]:
    """The same, as it was at these positions by read model. Raises PositionAhead, TooFarToFold."""
    rows = rows_of(connection, Devices(), device_ids, known_at.get(Devices.name, 0))
    return {row.device_id: _known(*(getattr(row, name) for name in MEASURED)) for row in rows.values()}


def _known(*values: int | None) -> KnownDevice:
    return KnownDevice(**{name: value or 0 for name, value in zip(MEASURED, values, strict=True)})
