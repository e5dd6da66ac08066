"""Token amounts: whole grains, 10^8 to a token, as exact integers."""

from .errors import Refusal

GRAINS_PER_TOKEN = 10**8
MAX_GRAINS = 2**63 - 1
"""The largest amount a wallet, a leg or a database column holds."""


class AmountNotPositive(Refusal):
    """An amount of tokens to move is a positive whole number of grains."""


class AmountTooLarge(Refusal):
    """An amount of tokens fits in 63 bits of grains."""


def positive(grains: int) -> int:
    """The amount itself, once it is known to be 1..MAX_GRAINS whole grains."""
    if type(grains) is not int or grains <= 0:
        raise AmountNotPositive(f"{grains!r} grains")
    if grains > MAX_GRAINS:
        raise AmountTooLarge(f"{grains} grains")
    return grains


def tokens(whole: int) -> int:
    """Whole tokens in grains."""
    return whole * GRAINS_PER_TOKEN


def format_tokens(grains: int) -> str:
    """Grains as tokens with every decimal, so that columns of them line up: 150000000 -> '1.50000000'."""
    sign = "-" if grains < 0 else ""
    whole, rest = divmod(abs(grains), GRAINS_PER_TOKEN)
    return f"{sign}{whole}.{rest:08d}"
