"""Payment commands: wallets, holds and payments between owners."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from domain.kernel import AggregateNotFound, EventLog, Personal, Receipt, Refusal, command, scope
from domain.kernel.tokens import positive
from domain.kernel.turns import Turns

from .accounts import wallet_id_of
from .legs import credits, payment_legs
from .pricing import Policy, fee
from .transfer import Transfer, transfer_id_of
from .wallet import CONTRACT, Wallet, WalletUnknown, contract_purpose

PaymentKind = Literal["payment", "service_payment"]
"""A service payment is one for the market: the village keeps its fee of it. A plain payment carries none."""


class PurposeReserved(Refusal):
    """Only what is held for a contract has a purpose that begins with `contract:`."""


@dataclass(frozen=True, slots=True)
class WalletBalance:
    """What an owner has, in grains; available is posted less held."""

    owner_id: UUID
    wallet_id: UUID
    posted: int
    held: int
    available: int


@dataclass(frozen=True, slots=True)
class PaymentCapability:
    """Whether a wallet can pay a cost now, in grains: `shortfall` is what it lacks, `fee` what the village keeps."""

    capable: bool
    cost: int
    fee: int
    available: int
    held: int
    shortfall: int


class Payments:
    """The part of the tokenomics service that moves tokens between owners."""

    log: EventLog
    policy: Policy
    turns: Turns

    @command
    def open_wallet(self, *, owner_id: UUID) -> Receipt:
        """Open the owner's one wallet; opening it again changes nothing."""
        wallet_id = wallet_id_of(owner_id)
        held = self.log.find(Wallet, wallet_id)
        return self.log.record(held or Wallet(wallet_id=wallet_id, owner_id=owner_id))

    @command
    def hold_funds(
        self,
        *,
        owner_id: UUID,
        hold_id: UUID,
        grains: int,
        expires_at: datetime,
        purpose: str = "",
        contract_id: UUID | None = None,
    ) -> Receipt:
        """Keep an amount back until it is captured, voided or expired; for a contract, by nothing but that contract.

        Raises:
            PurposeReserved, and what `Wallet.hold` raises.
        """
        if contract_id is not None:
            purpose = contract_purpose(contract_id)
        elif purpose.startswith(CONTRACT):
            raise PurposeReserved(repr(purpose))
        with self.turns.of(wallet_id_of(owner_id)):
            wallet = self._wallet(owner_id)
            wallet.hold(hold_id, grains, expires_at, purpose, scope().now)
            return self.log.record(wallet, id=hold_id)

    @command
    def capture_hold(
        self,
        *,
        owner_id: UUID,
        hold_id: UUID,
        to_owner_id: UUID,
        grains: int,
        kind: PaymentKind = "payment",
        memo: str = "",
        penalty_grains: int = 0,
        contract_id: UUID | None = None,
    ) -> Receipt:
        """Pay out of a hold and release the rest; of the payee's part up to `penalty_grains` go to the insurance.

        Raises:
            WalletUnknown, SelfPayment, those of `Wallet.capture`; for a memo also SubjectErased, SealingUnavailable.
        """
        with self.turns.of(wallet_id_of(owner_id)):
            wallet, kept = self._wallet(owner_id), self._fee(kind, grains)
            legs = payment_legs(wallet.id, wallet_id_of(to_owner_id), grains, kept, penalty_grains)
            transfer_id = capture_id_of(owner_id, hold_id)
            wallet.capture(hold_id, grains, transfer_id, scope().now, contract_id)
            return self._pay(
                wallet,
                Transfer.post(
                    transfer_id, "hold_capture", legs, memo=_memo(owner_id, memo), cause_event_id=scope().causation_id
                ),
                grains,
                kept,
            )

    @command
    def void_hold(self, *, owner_id: UUID, hold_id: UUID, contract_id: UUID | None = None) -> Receipt:
        """End a hold without paying. Refusals: WalletUnknown, HoldUnknown, HoldAlreadyEnded, HoldOfContract."""
        with self.turns.of(wallet_id_of(owner_id)):
            wallet = self._wallet(owner_id)
            wallet.void(hold_id, contract_id)
            return self.log.record(wallet, id=hold_id)

    @command
    def expire_hold(self, *, owner_id: UUID, hold_id: UUID) -> Receipt:
        """End a hold whose instant has come. Refusals: WalletUnknown, HoldUnknown, HoldAlreadyEnded, HoldNotExpired."""
        with self.turns.of(wallet_id_of(owner_id)):
            wallet = self._wallet(owner_id)
            wallet.expire(hold_id, scope().now)
            return self.log.record(wallet, id=hold_id)

    @command
    def process_payment(
        self,
        *,
        payment_id: str,
        from_owner_id: UUID,
        to_owner_id: UUID,
        grains: int,
        kind: PaymentKind = "payment",
        memo: str = "",
    ) -> Receipt:
        """Pay from one wallet to another; the same payment id of the same payer pays once, however often it is sent.

        Raises:
            WalletUnknown, InsufficientFunds, SelfPayment, TransferIdReused, TransferRejected, AmountNotPositive,
            AmountTooLarge; for a memo also SubjectErased, SealingUnavailable.
        """
        payer_id, kept = wallet_id_of(from_owner_id), self._fee(kind, grains)
        legs = payment_legs(payer_id, wallet_id_of(to_owner_id), grains, kept)
        transfer_id = transfer_id_of(kind, payer_id, payment_id)
        if (paid := self.log.find(Transfer, transfer_id, new=True)) is not None:
            paid.require_same(kind, legs)
            return self.log.record(paid, grains=str(grains), fee_grains=str(kept))
        with self.turns.of(payer_id):
            payer = self._wallet(from_owner_id)
            payer.debit(transfer_id, grains, scope().now)
            return self._pay(
                payer,
                Transfer.post(
                    transfer_id, kind, legs, memo=_memo(from_owner_id, memo), cause_event_id=scope().causation_id
                ),
                grains,
                kept,
            )

    @command
    def reject_payment(self, *, payment_id: str, from_owner_id: UUID, kind: PaymentKind, reason: str) -> Receipt:
        """See to it that a payment that has not happened never will.

        Raises:
            AlreadyExists: it was posted or rejected before.
        """
        transfer_id = transfer_id_of(kind, wallet_id_of(from_owner_id), payment_id)
        return self.log.record(Transfer.reject(transfer_id, kind, reason))

    def get_wallet_balance(self, *, owner_id: UUID, as_of: int | None = None) -> WalletBalance:
        """What an owner has now, or had after the fact at a position, from the log itself.

        Raises:
            WalletUnknown. PositionAhead.
        """
        if as_of is None:
            wallet = self._wallet(owner_id)
        else:
            try:
                wallet = self.log.at_position(Wallet, wallet_id_of(owner_id), as_of)
            except AggregateNotFound as error:
                raise WalletUnknown(f"owner {owner_id} had no wallet at position {as_of}") from error
        return WalletBalance(owner_id, wallet.id, wallet.posted, wallet.held, wallet.available)

    def verify_payment_capability(
        self, *, owner_id: UUID, grains: int, now: datetime, kind: PaymentKind = "payment"
    ) -> PaymentCapability:
        """Whether an owner can pay a cost at an instant; a wallet that is not open is empty.

        Raises:
            AmountNotPositive, AmountTooLarge.
        """
        wallet = self.log.find(Wallet, wallet_id_of(owner_id))
        available = wallet.payable(now) if wallet else 0
        held = wallet.posted - available if wallet else 0
        shortfall = max(0, positive(grains) - available)
        return PaymentCapability(shortfall == 0, grains, self._fee(kind, grains), available, held, shortfall)

    def _fee(self, kind: PaymentKind, gross: int) -> int:
        return fee(self.policy, gross) if kind == "service_payment" else 0

    def _wallet(self, owner_id: UUID) -> Wallet:
        wallet = self.log.find(Wallet, wallet_id_of(owner_id))
        if wallet is None:
            raise WalletUnknown(f"owner {owner_id} has no wallet")
        return wallet

    def _pay(self, payer: Wallet, paid: Transfer.Posted, gross: int, kept: int) -> Receipt:
        """Debit, transfer and credit are one record. The payee's wallet is not loaded: a credit never refuses."""
        transfer_id, facts = paid.transfer_id, credits(paid.transfer_id, paid.legs)
        try:
            return self.log.record(payer, paid, *facts, id=transfer_id, grains=str(gross), fee_grains=str(kept))
        except AggregateNotFound as missing:
            raise WalletUnknown("the payee has no wallet") from missing


def _memo(payer: UUID, text: str) -> Personal | None:
    """What a payer writes is about the payer."""
    return Personal(payer, text) if text else None


def capture_id_of(owner_id: UUID, hold_id: UUID) -> UUID:
    """The id of the transfer that captures an owner's hold."""
    return transfer_id_of("hold_capture", wallet_id_of(owner_id), hold_id)
