"""Accounts: what a leg of a transfer names. A wallet is the account of its owner; system accounts exist by name."""

from functools import cache, lru_cache
from uuid import UUID

from domain.kernel import derive

SYSTEM_ACCOUNTS = ("mint", "treasury", "fees", "insurance")
"""Entry-only accounts: they have no stream, only legs, so that no two payments ever compete for them."""


@cache
def system_account(name: str) -> UUID:
    """The id of a system account.

    Args:
        name: one of `SYSTEM_ACCOUNTS`.
    """
    assert name in SYSTEM_ACCOUNTS, name
    return derive("tokenomics.Account", name)


MINT = system_account("mint")
TREASURY = system_account("treasury")
FEES = system_account("fees")
INSURANCE = system_account("insurance")

SYSTEM_ACCOUNT_NAMES = {system_account(name): name for name in SYSTEM_ACCOUNTS}
_SYSTEM_NUMBERS = {account.int for account in SYSTEM_ACCOUNT_NAMES}


def is_system(account: UUID) -> bool:
    """Whether an account is one of the village's own."""
    return account.int in _SYSTEM_NUMBERS


def wallet_id_of(owner_id: UUID) -> UUID:
    """The id of the one wallet an owner has."""
    return _wallet_id_of(owner_id.int)


@lru_cache(16_384)
def _wallet_id_of(owner: int) -> UUID:
    return derive("tokenomics.Wallet", UUID(int=owner))
