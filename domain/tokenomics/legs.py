"""How money becomes legs, and legs become the facts that tell wallets of them."""

from collections.abc import Iterable, Sequence
from uuid import UUID

from domain.kernel import Refusal
from domain.kernel.tokens import positive

from .accounts import FEES, INSURANCE, TREASURY, is_system
from .reward_claim import RewardClaim
from .transfer import Leg
from .wallet import Wallet


class SelfPayment(Refusal):
    """A payment has a payer and another payee."""


def payment_legs(payer: UUID, payee: UUID, gross: int, fee: int, penalty: int = 0) -> list[Leg]:
    """The payer gives the gross amount, the payee gets it less the fee that the village keeps.

    A penalty goes to the insurance instead of the payee, as far as what the payee would get goes.

    Raises:
        SelfPayment, AmountNotPositive, AmountTooLarge.
    """
    if payer == payee:
        raise SelfPayment(f"wallet {payer}")
    penalty = min(penalty, positive(gross) - fee)
    legs = [Leg(payer, -gross), Leg(payee, gross - fee - penalty), Leg(FEES, fee), Leg(INSURANCE, penalty)]
    return [leg for leg in legs if leg.grains]


def batch_legs(claims: Sequence[RewardClaim]) -> list[Leg]:
    """The treasury gives, each wallet gets the sum of its claims; no legs when all of them are of zero grains."""
    wallets = {claim.wallet_id.int: claim.wallet_id for claim in claims}
    due = dict.fromkeys(wallets, 0)
    for claim in claims:
        due[claim.wallet_id.int] += claim.grains
    legs = [Leg(wallets[number], grains) for number, grains in due.items() if grains]
    return [Leg(TREASURY, -sum(leg.grains for leg in legs)), *legs] if legs else []


def credits(transfer_id: UUID, legs: Iterable[Leg]) -> list[Wallet.Credited]:
    """What a transfer gave, told to each wallet; system accounts have no wallet to tell."""
    return [
        Wallet.fact(Wallet.Credited, leg.account, transfer_id=transfer_id, grains=leg.grains)
        for leg in legs
        if leg.grains > 0 and not is_system(leg.account)
    ]
