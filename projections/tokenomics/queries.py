"""Named queries over the read models of tokenomics."""

from collections.abc import Iterable
from typing import NamedTuple
from uuid import UUID

from domain.tokenomics.accounts import MINT, TREASURY
from domain.tokenomics.rewards import PendingReward
from infrastructure.database import Database

from .money import AccountRow

_PENDING_OF_DEVICE = """
SELECT claim_id, device_id, activity_type, activity_id, grains, accrued_at FROM read.reward_claims
WHERE device_id = %s AND state = 'pending' ORDER BY position LIMIT %s
"""

_PENDING_IDS = "SELECT claim_id FROM read.reward_claims WHERE state = 'pending' ORDER BY position LIMIT %s"

_SUPPLY = """
SELECT coalesce(-sum(balance_grains) FILTER (WHERE account_id = %(mint)s), 0)::bigint,
       coalesce(sum(balance_grains) FILTER (WHERE account_id <> %(mint)s), 0)::bigint,
       coalesce(sum(balance_grains) FILTER (WHERE name = 'treasury'), 0)::bigint
FROM read.accounts
"""

SUPPLY_DRIFT = "(SELECT coalesce(sum(balance_grains), 0)::bigint FROM read.accounts)"
"""What all accounts, the mint with its debt among them, hold together: zero, as every transfer balances."""


class Supply(NamedTuple):
    """What the mint has issued and what all other accounts hold together, in grains: the drift between them is zero."""

    issued: int
    total: int
    treasury: int

    @property
    def drift(self) -> int:
        return self.total - self.issued

    @classmethod
    def of(cls, accounts: Iterable[AccountRow]) -> "Supply":
        """The supply that these accounts make."""
        balances = {row.account_id: row.balance_grains for row in accounts}
        issued = -balances.pop(MINT, 0)
        return cls(issued, sum(balances.values()), balances.get(TREASURY, 0))


class RewardIndex:
    """Answers from the read models which claims are pending; the query port of `get_pending_rewards`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def __call__(self, device_id: UUID, limit: int) -> list[PendingReward]:
        """The pending rewards of a device, oldest first, at most `limit`."""
        with self._database.reader.connection() as connection:
            return [PendingReward(*row) for row in connection.execute(_PENDING_OF_DEVICE, (device_id, limit))]

    def pending_ids(self, limit: int) -> list[UUID]:
        """The claims that have waited longest to be posted, of all devices, at most `limit`."""
        with self._database.reader.connection() as connection:
            return [claim_id for (claim_id,) in connection.execute(_PENDING_IDS, (limit,))]

    def supply(self) -> Supply:
        """Issued and total supply at the position the accounts have come to."""
        with self._database.reader.connection() as connection:
            (row,) = connection.execute(_SUPPLY, {"mint": MINT}).fetchall()
            return Supply(*row)
