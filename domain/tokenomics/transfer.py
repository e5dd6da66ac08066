"""A transfer: tokens moved between accounts, once for ever, by legs that sum to zero."""

from collections.abc import Sequence
from operator import attrgetter
from typing import Any, Literal
from uuid import UUID

from domain.kernel import Aggregate, Created, Personal, PersonalText, Refusal, Value, derive
from domain.kernel.tokens import MAX_GRAINS, AmountTooLarge

MAX_LEGS = 501
"""The legs of the largest batch: 500 wallets and the account that pays them."""

Kind = Literal["genesis", "payment", "service_payment", "hold_capture", "reward"]


class LegsDoNotSumToZero(Refusal):
    """What a transfer takes from accounts is what it gives to others, to the grain."""


class ZeroLeg(Refusal):
    """A leg moves at least one grain."""


class RepeatedAccount(Refusal):
    """A transfer has at most one leg for each account."""


class TooManyLegs(Refusal):
    """A transfer has 2 to 501 legs."""


class TransferRejected(Refusal):
    """A rejected transfer stays rejected: its id never moves tokens."""


class TransferIdReused(Refusal):
    """The id of a posted transfer names that transfer for ever: it came again with other accounts or amounts."""

    status = 409


class Leg(Value, frozen=True):
    """What one account gains (positive grains) or gives (negative)."""

    account: UUID
    grains: int


class Transfer(Aggregate):
    """Its id is derived from its business key, so that paying twice is a stream that exists, not a bug."""

    class Posted(Created):
        """`memo` is what the payer says of it; `note` what the village does, or a memo of before version 2."""

        class_version = 2
        closes = True
        transfer_id: UUID
        kind: str
        legs: list[Leg]
        memo: PersonalText | None
        note: str
        cause_event_id: UUID | None

        @staticmethod
        def upcast_v1_v2(state: dict[str, Any]) -> None:
            state["note"], state["memo"] = state["memo"], None

    class Rejected(Created):
        closes = True
        transfer_id: UUID
        kind: str
        reason: str

    def __init__(self, transfer_id: UUID, kind: str, legs: list[Leg] | None = None, reason: str = "") -> None:
        self.transfer_id = transfer_id
        self.kind = kind
        self.legs = tuple(legs or ())
        self.reason = reason

    @staticmethod
    def create_id(transfer_id: UUID) -> UUID:
        return transfer_id

    @classmethod
    def post(
        cls,
        transfer_id: UUID,
        kind: Kind,
        legs: Sequence[Leg],
        *,
        memo: Personal | None = None,
        note: str = "",
        cause_event_id: UUID | None = None,
    ) -> "Transfer.Posted":
        """A transfer that has happened. Its legs are kept sorted by account, which also makes two of them comparable.

        Raises:
            TooManyLegs, ZeroLeg, RepeatedAccount, AmountTooLarge, LegsDoNotSumToZero.
        """
        _check(legs)
        ordered = sorted(legs, key=_account)
        posted: Transfer.Posted = cls.fact(
            cls.Posted,
            transfer_id,
            transfer_id=transfer_id,
            kind=kind,
            legs=ordered,
            memo=memo,
            note=note,
            cause_event_id=cause_event_id,
        )
        return posted

    @classmethod
    def reject(cls, transfer_id: UUID, kind: Kind, reason: str) -> "Transfer":
        """A transfer that will never happen."""
        return cls._create(cls.Rejected, transfer_id=transfer_id, kind=kind, reason=reason)

    @property
    def rejected(self) -> bool:
        return not self.legs

    def require_same(self, kind: Kind, legs: Sequence[Leg]) -> None:
        """Pass when this transfer is the one that is asked for again.

        Raises:
            TransferRejected: it was rejected. TransferIdReused: it moved something else.
        """
        if self.rejected:
            raise TransferRejected(f"{self.transfer_id}: {self.reason}")
        if (self.kind, self.legs) != (kind, tuple(sorted(legs, key=_account))):
            raise TransferIdReused(f"{self.transfer_id} is a {self.kind} of other legs")


def transfer_id_of(kind: Kind, *business_key: object) -> UUID:
    """The id of the transfer with this business key."""
    return derive("tokenomics.Transfer", kind, *business_key)


_account = attrgetter("account.int")
"""By its number a UUID sorts as by itself, and faster."""


def _check(legs: Sequence[Leg]) -> None:
    if not 2 <= len(legs) <= MAX_LEGS:
        raise TooManyLegs(f"{len(legs)} legs")
    amounts = [leg.grains for leg in legs]
    if 0 in amounts:
        raise ZeroLeg(f"account {legs[amounts.index(0)].account}")
    if (largest := max(map(abs, amounts))) > MAX_GRAINS:
        raise AmountTooLarge(f"{largest} grains")
    if len(set(map(_account, legs))) != len(legs):
        raise RepeatedAccount("an account has two legs")
    if total := sum(amounts):
        raise LegsDoNotSumToZero(f"off by {total} grains")
