"""The offerings of a device, as they are at a position or later: what the saga `suspend_device` goes by."""

from collections.abc import Sequence
from uuid import UUID

from domain.sagas.suspend_device import OfferingsBehind
from infrastructure.database import Database

_POSITION = "SELECT coalesce(min(position), 0) FROM engine.cursors WHERE name = 'offerings'"
_OF_DEVICE = """
SELECT offering_id FROM read.offerings
WHERE device_id = %s AND (state = 'open' OR reserved > 0) ORDER BY offering_id
"""


class DeviceOfferings:
    """Answers from the read model, once that has come far enough."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def __call__(self, device_id: UUID, at_least: int) -> Sequence[UUID]:
        """The device's offerings that are open or reserved, by rising id. Raises OfferingsBehind."""
        with self._database.reader.connection() as connection:
            ((position,),) = connection.execute(_POSITION).fetchall()
            if position < at_least:
                raise OfferingsBehind(f"at position {position} of {at_least}")
            return [offering_id for (offering_id,) in connection.execute(_OF_DEVICE, (device_id,))]
