"""What an ended contract costs, and when that is final."""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from domain.kernel.time import milliseconds

from .sla import BASIS
from .states import BREACHED, COMPLETED, SETTLED, AlreadyDisputed, AlreadySettled

if TYPE_CHECKING:
    from .contract import Contract


class Due(msgspec.Struct, frozen=True):
    """What an ended contract costs, in grains: its usage less the credit is charged, the penalty goes to insurance."""

    usage_ms: int
    usage_grains: int
    credit_grains: int
    penalty_grains: int

    @property
    def charged_grains(self) -> int:
        return self.usage_grains - self.credit_grains


class Paid(msgspec.Struct, frozen=True):
    """What was paid for a contract, in grains; `released` of the hold went back to the customer."""

    transfer_id: UUID | None
    charged_grains: int
    fee_grains: int
    penalty_grains: int
    provider_grains: int
    released_grains: int


NOTHING = Paid(None, 0, 0, 0, 0, 0)


def due_of(contract: "Contract") -> Due:
    """What a contract costs as it stands. Credits together are at most what its usage costs."""
    terms = contract.terms
    payable_ms = contract.used_ms if contract.payable_ms is None else min(contract.used_ms, contract.payable_ms)
    usage = terms.due(payable_ms)
    penalty = terms.agreed_price * terms.sla.penalty_bp // BASIS if contract.status == BREACHED else 0
    return Due(payable_ms, usage, min(contract.credit_grains, usage), penalty)


def held_of(contract: "Contract") -> int:
    """What is held for a contract, in grains: its price, or what its provider kept in a hand-off."""
    if contract.hold_id is None:
        return 0
    return contract.terms.agreed_price if contract.kept_ms is None else contract.terms.due(contract.kept_ms)


def review_ends(contract: "Contract") -> datetime:
    """Until when an ended contract may be disputed and its windows judged."""
    assert contract.ended_at is not None
    return contract.ended_at + timedelta(milliseconds=contract.terms.review_ms)


def check_open_to_dispute(contract: "Contract", now: datetime) -> None:
    """Pass while what was reported can be disputed. Raises AlreadySettled, AlreadyDisputed."""
    if contract.status == SETTLED:
        raise AlreadySettled(f"contract {contract.id}")
    over = contract.ended_at is not None and now >= review_ends(contract)
    if contract.disputed or contract.payable_ms is not None or over:
        raise AlreadyDisputed(f"contract {contract.id}")


def reviewed_until(contract: "Contract", now: datetime) -> datetime | None:
    """When an ended contract can be settled, or None when it can be now.

    What was delivered whole, or accepted by the customer, is settled as soon as every window is judged; a decided
    dispute ends the review, and one that nobody decides lapses with it.
    """
    ends = review_ends(contract)
    if now >= ends or contract.payable_ms is not None:
        return None
    judged = contract.windows >= windows_due(contract)
    return None if contract.status == COMPLETED and judged and not contract.disputed else ends


def windows_due(contract: "Contract") -> int:
    """How many windows an ended contract has, the last one perhaps short; none where nothing is promised."""
    if contract.started_at is None or contract.ended_at is None or contract.terms.sla.uptime_bp == 0:
        return 0
    return -(-milliseconds(contract.started_at, contract.ended_at) // contract.terms.sla.window_ms)
