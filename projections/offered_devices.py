"""What matching knows of the devices of offerings: as it is, from the read models, and as it was, from the log."""

from collections.abc import Collection, Mapping
from typing import Any, Final
from uuid import UUID

import psycopg

from domain.device_registry import status
from domain.device_registry.device import ONLINE
from domain.harvest import states
from domain.harvest.device import HarvestDevice
from domain.marketplace.matching import MEASURED, KnownDevice

from .as_of import facts_of, rows_of
from .device_registry import Devices
from .harvest import HarvestSessions

_POSITIONS = "SELECT name, min(position) FROM engine.cursors WHERE name = ANY(%s) GROUP BY name"
_MODELS = [Devices.name, HarvestSessions.name]
_AT_REST: Final = states.OPEN - states.ACTIVE
"""A device with a session open that is none of the active ones may not work."""

# Whether a device is online, and the state of its newest session: one is open at a time, and it is the newest.
_DEVICES: Final = f"""
    SELECT device_id, status, presence, {", ".join(MEASURED)}, (
        SELECT state FROM read.harvest_sessions AS s
        WHERE s.device_id = d.device_id ORDER BY position DESC LIMIT 1
    ) FROM read.devices AS d WHERE device_id = ANY(%s)
"""


def positions(connection: psycopg.Connection[Any]) -> dict[str, int]:
    """How far the read models have come that tell of devices, by name."""
    return dict.fromkeys(_MODELS, 0) | dict(connection.execute(_POSITIONS, (_MODELS,)).fetchall())


def known(connection: psycopg.Connection[Any], device_ids: Collection[UUID]) -> dict[UUID, KnownDevice]:
    """Those of these devices that are known."""
    records = connection.execute(_DEVICES.encode(), (list(device_ids),)).fetchall()
    return {
        device_id: _known(status, presence, session, measured)
        for device_id, status, presence, *measured, session in records
    }


def known_at(
    connection: psycopg.Connection[Any], device_ids: Collection[UUID], known_at: Mapping[str, int]
) -> dict[UUID, KnownDevice]:
    """The same, as it was at these positions by read model. Raises PositionAhead, TooFarToFold."""
    rows = rows_of(connection, Devices(), device_ids, known_at.get(Devices.name, 0))
    sessions = _sessions_at(connection, device_ids, known_at.get(HarvestSessions.name, 0))
    return {
        row.device_id: _known(
            row.status, row.presence, sessions.get(row.device_id), [getattr(row, name) for name in MEASURED]
        )
        for row in rows.values()
    }


def _sessions_at(connection: psycopg.Connection[Any], device_ids: Collection[UUID], position: int) -> dict[UUID, str]:
    """The state that the newest harvest session of each device was in."""
    lending = [HarvestDevice.create_id(device_id) for device_id in device_ids]
    opened = {HarvestDevice.SessionOpened.TOPIC}  # type: ignore[attr-defined]
    newest = {
        fact.stream: fact.event.session_id
        for facts in facts_of(connection, opened, lending, position)
        for fact in facts
    }
    rows = rows_of(connection, HarvestSessions(), list(newest.values()), position)
    return {row.device_id: row.state for row in rows.values()}


def _known(state: str, presence: str, session: str | None, measured: Collection[int | None]) -> KnownDevice:
    return KnownDevice(
        online=(state, presence) == (status.ACTIVE, ONLINE),
        rests=session in _AT_REST,
        **{name: value or 0 for name, value in zip(MEASURED, measured, strict=True)},
    )
