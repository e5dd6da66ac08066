"""The codes and statuses of tokenomics are an interface: clients decide by them."""

import domain.tokenomics.service  # noqa: F401  (defines them all)
from domain.kernel import Refusal
from domain.kernel.tokens import AmountNotPositive, AmountTooLarge

CODES = {
    "amount_not_positive": 422,
    "amount_too_large": 422,
    "batch_too_large": 422,
    "budget_invalid": 422,
    "capture_beyond_hold": 422,
    "claim_already_posted": 409,
    "claim_void": 409,
    "epoch_budget_exhausted": 422,
    "epoch_closed": 422,
    "epoch_over": 422,
    "epoch_too_far": 422,
    "hold_already_ended": 409,
    "hold_expired": 422,
    "hold_id_reused": 409,
    "hold_not_expired": 422,
    "hold_of_contract": 403,
    "hold_unknown": 404,
    "insufficient_funds": 422,
    "invalid_activity": 422,
    "legs_do_not_sum_to_zero": 422,
    "purpose_reserved": 422,
    "repeated_account": 422,
    "reservation_id_reused": 409,
    "reward_claim_unknown": 404,
    "self_payment": 422,
    "supply_exhausted": 422,
    "too_many_holds": 422,
    "too_many_legs": 422,
    "transfer_id_reused": 409,
    "transfer_rejected": 422,
    "unknown_activity": 422,
    "wallet_unknown": 404,
    "zero_leg": 422,
}


def every(kind: type[Refusal]) -> list[type[Refusal]]:
    return [found for child in kind.__subclasses__() for found in (child, *every(child))]


def test_every_refusal_has_its_code_its_status_and_a_rule() -> None:
    own = [refusal for refusal in every(Refusal) if refusal.__module__.startswith("domain.tokenomics.")]
    named: list[type[Refusal]] = [*own, AmountNotPositive, AmountTooLarge]
    found = {refusal.code: refusal.status for refusal in named}
    assert found == CODES
    assert all(refusal.__doc__ and refusal.__doc__.strip().endswith(".") for refusal in own)
