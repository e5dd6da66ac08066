"""Named queries over the read models of tokenomics."""

from collections.abc import Iterable
from datetime import datetime
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

_DUE_HOLDS = """
SELECT owner_id, hold_id FROM read.holds JOIN read.wallets USING (wallet_id)
WHERE state = 'open' AND expires_at <= %s ORDER BY expires_at, holds.position LIMIT %s
"""

_BALANCE = "SELECT coalesce(sum(grains), 0)::bigint FROM read.transfer_legs WHERE account_id = %s AND position <= %s"

_ENTRIES = """
SELECT position, transfer_id, kind, grains, posted_at FROM read.transfer_legs
WHERE account_id = %s AND position <= %s ORDER BY position DESC LIMIT %s
"""


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


class Entry(NamedTuple):
    """One line of a statement, in grains: what a transfer gave or took, and what the account had after it."""

    position: int
    transfer_id: UUID
    kind: str
    grains: int
    balance: int
    posted_at: datetime


class MoneyIndex:
    """Answers from the read models which holds are due, and what an account's statement says."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def due_holds(self, now: datetime, limit: int) -> list[tuple[UUID, UUID]]:
        """Owner and id of the holds whose instant has come, the longest overdue first."""
        with self._database.reader.connection() as connection:
            return connection.execute(_DUE_HOLDS, (now, limit)).fetchall()

    def statement(self, account: UUID, until: int, limit: int) -> list[Entry]:
        """The newest entries of an account up to a position. Legs never change: any past position is exact."""
        with self._database.reader.connection() as connection, connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            ((balance,),) = connection.execute(_BALANCE, (account, until)).fetchall()
            legs = connection.execute(_ENTRIES, (account, until, limit)).fetchall()
        entries = []
        for position, transfer_id, kind, grains, posted_at in legs:
            entries.append(Entry(position, transfer_id, kind, grains, balance, posted_at))
            balance -= grains
        return entries


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
