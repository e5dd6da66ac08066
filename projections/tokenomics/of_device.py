"""The pending claims of a device, as they are at a position or later: what the saga `suspend_device` goes by."""

from collections.abc import Sequence
from uuid import UUID

from domain.sagas.suspend_device import ClaimsBehind
from infrastructure.database import Database

_POSITION = "SELECT coalesce(min(position), 0) FROM engine.cursors WHERE name = 'reward_claims'"
_PENDING = """
SELECT claim_id FROM read.reward_claims
WHERE device_id = %s AND state = 'pending' ORDER BY position LIMIT %s
"""


class DeviceClaims:
    """Answers from the read model, once that has come far enough."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def __call__(self, device_id: UUID, at_least: int, limit: int) -> Sequence[UUID]:
        """The device's pending claims, oldest first. Raises ClaimsBehind."""
        with self._database.reader.connection() as connection:
            ((position,),) = connection.execute(_POSITION).fetchall()
            if position < at_least:
                raise ClaimsBehind(f"at position {position} of {at_least}")
            return [claim_id for (claim_id,) in connection.execute(_PENDING, (device_id, limit))]
