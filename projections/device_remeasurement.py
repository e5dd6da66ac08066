"""Who is to measure again: devices that a seed chooses, devices whose time is over, and what one device is asked."""

from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from domain.device_registry.device import ONLINE
from domain.device_registry.remeasurement import ONE_IN
from domain.device_registry.status import ACTIVE
from infrastructure.database import Database

PERIOD = timedelta(days=1)
"""How long one seed chooses."""

# The size and root (base64) of a checkpoint: known to nobody before its day, and to everybody after.
_SEED = r"""
    SELECT size || ' ' || split_part(note, E'\n', 3) FROM log.checkpoints
    WHERE sealed_at < %(begun)s ORDER BY size DESC LIMIT 1
"""
_CHOSEN = f"""
    SELECT device_id FROM read.devices
    WHERE status = '{ACTIVE}' AND presence = '{ONLINE}' AND benchmark <> '{{}}'
      AND remeasure_until IS NULL AND remeasure_seed <> %(seed)s
      AND get_byte(sha256(convert_to(%(seed)s || '|' || device_id::text, 'UTF8')), 0) %% {ONE_IN} = 0
    ORDER BY device_id LIMIT %(limit)s
"""
_OVER = """
    SELECT device_id FROM read.devices WHERE remeasure_until <= %(now)s ORDER BY remeasure_until, device_id
    LIMIT %(limit)s
"""
WANTED: Final = """
    SELECT remeasure_until AS until, benchmark = '{}' OR remeasure_until IS NOT NULL AS wanted
    FROM read.devices WHERE device_id = %(device_id)s
"""
"""Parameter: device_id. Until when it may answer, if it was asked; and whether its evidence is wanted at all."""


class Remeasurements:
    """What the clock asks of the read model."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def seed(self, now: datetime) -> str | None:
        """The seed of the period: the newest checkpoint of the log that was sealed before it; None without one."""
        since = now.timestamp() % PERIOD.total_seconds()
        found = self._asked(_SEED, {"begun": now - timedelta(seconds=since)})
        return found[0] if found else None

    def chosen(self, seed: str, limit: int) -> list[UUID]:
        """Devices that a seed chooses and that can answer, which it has not asked yet."""
        return self._asked(_CHOSEN, {"seed": seed, "limit": limit})

    def over(self, now: datetime, limit: int) -> list[UUID]:
        """Devices whose time to answer is over."""
        return self._asked(_OVER, {"now": now, "limit": limit})

    def _asked(self, query: str, parameters: dict[str, Any]) -> list[Any]:
        with self._database.reader.connection() as connection:
            return [one for (one,) in connection.execute(query.encode(), parameters).fetchall()]
