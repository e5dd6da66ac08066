"""A wallet: what an owner has, what is held back of it, and the fraction of a grain still owed."""

from datetime import datetime
from uuid import UUID

from domain.kernel import (
    Aggregate,
    Created,
    Forbidden,
    Instant,
    NotFound,
    Refusal,
    Snapshot,
    SnapshotPolicy,
    Value,
    event,
)
from domain.kernel.tokens import positive

MAX_HOLDS = 1_000
"""Open holds of one wallet."""
MAX_REMEMBERED = 10_000
"""Holds a wallet knows by their ids: those that are open, and those that ended, until their instants have come."""
CONTRACT = "contract:"


class WalletUnknown(NotFound):
    """Only a wallet that is open pays or holds."""


class InsufficientFunds(Refusal):
    """A wallet pays and holds back at most what is available: posted less held."""


class HoldUnknown(NotFound):
    """A hold ends under the id it was made with."""


class HoldIdReused(Refusal):
    """The id of a hold names that hold for ever."""

    status = 409


class HoldAlreadyEnded(Refusal):
    """A hold ends exactly once: captured, voided or expired."""

    status = 409


class HoldExpired(Refusal):
    """A hold is made and captured before the instant it expires."""


class HoldNotExpired(Refusal):
    """A hold expires at its instant, not before."""


class CaptureBeyondHold(Refusal):
    """A capture takes at most what the hold keeps."""


class TooManyHolds(Refusal):
    """A wallet has at most 1,000 open holds, and 10,000 whose instants have not come."""


class HoldOfContract(Forbidden):
    """What is held for a contract is captured and voided for that contract only."""


def contract_purpose(contract_id: UUID) -> str:
    """The purpose of what is held for a contract; no other hold has one that begins so."""
    return f"{CONTRACT}{contract_id}"


class Hold(Value, frozen=True):
    """An amount kept back for one purpose until an instant."""

    grains: int
    expires_at: datetime
    purpose: str


class WalletSnapshot(Snapshot, frozen=True):
    """A wallet's attributes."""

    wallet_id: UUID
    owner_id: UUID
    posted: int
    held: int
    remainder: int
    holds: dict[UUID, Hold]
    ended: dict[UUID, datetime]


class Wallet(Aggregate):
    """Available is posted less held, and never below zero. Credits are facts that commute: they never refuse.

    `ended` holds the instants at which holds would have expired. When there are too many, the one whose instant is
    longest past is forgotten: made again it would be expired, to be ended it is unknown, and what captured it is a
    transfer that the log opens only once.
    """

    snapshots = SnapshotPolicy(WalletSnapshot, every=100, version=2)

    class Opened(Created):
        wallet_id: UUID
        owner_id: UUID

    class FundsHeld(Aggregate.Event):
        hold_id: UUID
        grains: int
        expires_at: Instant
        purpose: str

    class HoldCaptured(Aggregate.Event):
        """The hold ended; `grains` of it are debited beside this fact, `released` are available again."""

        hold_id: UUID
        grains: int
        released: int

    class HoldVoided(Aggregate.Event):
        hold_id: UUID
        grains: int

    class HoldExpired(Aggregate.Event):
        hold_id: UUID
        grains: int

    class Credited(Aggregate.Event):
        commutes = True
        transfer_id: UUID
        grains: int

    class Debited(Aggregate.Event):
        transfer_id: UUID
        grains: int

    class RemainderCarried(Aggregate.Event):
        """`remainder` is what the wallet is owed below one grain, in units of the reward formula's divisor."""

        claim_id: UUID
        remainder: int

    @event(Opened)
    def __init__(self, wallet_id: UUID, owner_id: UUID) -> None:
        self.wallet_id = wallet_id
        self.owner_id = owner_id
        self.posted = 0
        self.held = 0
        self.remainder = 0
        self.holds: dict[UUID, Hold] = {}
        self.ended: dict[UUID, datetime] = {}

    @staticmethod
    def create_id(wallet_id: UUID) -> UUID:
        return wallet_id

    @property
    def available(self) -> int:
        """What may be paid or held now, in grains."""
        return self.posted - self.held

    def hold(self, hold_id: UUID, grains: int, expires_at: datetime, purpose: str, now: datetime) -> None:
        """Keep an amount back until it is captured, voided or expired.

        Raises:
            HoldIdReused, HoldAlreadyEnded, HoldExpired, TooManyHolds, InsufficientFunds, AmountNotPositive.
        """
        if hold_id in self.holds:
            raise HoldIdReused(f"hold {hold_id} is open")
        if hold_id in self.ended:
            raise HoldAlreadyEnded(f"hold {hold_id}")
        if expires_at <= now:
            raise HoldExpired(f"at {expires_at.isoformat()}")
        if len(self.holds) >= MAX_HOLDS:
            raise TooManyHolds(f"{len(self.holds)} open holds")
        if len(self.holds) + len(self.ended) >= MAX_REMEMBERED and min(self.ended.values()) > now:
            raise TooManyHolds(f"{MAX_REMEMBERED} holds whose instants have not come")
        self._free(grains, now)
        self._held(hold_id=hold_id, grains=grains, expires_at=expires_at, purpose=purpose)

    def capture(
        self, hold_id: UUID, grains: int, transfer_id: UUID, now: datetime, contract_id: UUID | None = None
    ) -> None:
        """End a hold by paying out of it; what is not captured is available again.

        Raises:
            HoldUnknown, HoldAlreadyEnded, HoldOfContract, HoldExpired, CaptureBeyondHold, AmountNotPositive.
        """
        held = self._open_for(hold_id, contract_id)
        if now >= held.expires_at:
            raise HoldExpired(f"at {held.expires_at.isoformat()}")
        if positive(grains) > held.grains:
            raise CaptureBeyondHold(f"{grains} asked, {held.grains} held")
        self._captured(hold_id=hold_id, grains=grains, released=held.grains - grains)
        self._debited(transfer_id=transfer_id, grains=grains)

    def void(self, hold_id: UUID, contract_id: UUID | None = None) -> None:
        """End a hold without paying.

        Raises:
            HoldUnknown, HoldAlreadyEnded, HoldOfContract.
        """
        self._voided(hold_id=hold_id, grains=self._open_for(hold_id, contract_id).grains)

    def expire(self, hold_id: UUID, now: datetime) -> None:
        """End a hold whose instant has come.

        Raises:
            HoldUnknown, HoldAlreadyEnded, HoldNotExpired.
        """
        held = self._open(hold_id)
        if now < held.expires_at:
            raise HoldNotExpired(f"until {held.expires_at.isoformat()}")
        self._expired(hold_id=hold_id, grains=held.grains)

    def debit(self, transfer_id: UUID, grains: int, now: datetime) -> None:
        """Pay what is available.

        Raises:
            InsufficientFunds, AmountNotPositive, AmountTooLarge.
        """
        self._free(grains, now)
        self._debited(transfer_id=transfer_id, grains=grains)

    def carry(self, claim_id: UUID, remainder: int) -> None:
        """Remember what a claim left below one grain, for the next claim to take up."""
        if remainder != self.remainder:
            self._carried(claim_id=claim_id, remainder=remainder)

    def payable(self, now: datetime) -> int:
        """What could be paid at an instant: holds that are due by then no longer count."""
        return self.available + sum(held.grains for held in self.holds.values() if held.expires_at <= now)

    def _free(self, grains: int, now: datetime) -> None:
        """Make an amount available: where it lacks, holds that are due end now, so that no fund stays locked."""
        if positive(grains) <= self.available:
            return
        if grains > self.payable(now):
            raise InsufficientFunds(f"{grains} grains asked, {self.payable(now)} available")
        for hold_id, held in [item for item in self.holds.items() if item[1].expires_at <= now]:
            self._expired(hold_id=hold_id, grains=held.grains)

    def _open(self, hold_id: UUID) -> Hold:
        if (held := self.holds.get(hold_id)) is not None:
            return held
        raise HoldAlreadyEnded(f"hold {hold_id}") if hold_id in self.ended else HoldUnknown(f"hold {hold_id}")

    def _open_for(self, hold_id: UUID, contract_id: UUID | None) -> Hold:
        held = self._open(hold_id)
        if held.purpose.startswith(CONTRACT) and (contract_id is None or held.purpose != contract_purpose(contract_id)):
            raise HoldOfContract(f"hold {hold_id}")
        return held

    @event(FundsHeld)
    def _held(self, hold_id: UUID, grains: int, expires_at: datetime, purpose: str) -> None:
        self.holds[hold_id] = Hold(grains, expires_at, purpose)
        self.held += grains
        if len(self.holds) + len(self.ended) > MAX_REMEMBERED:
            del self.ended[min(self.ended, key=self.ended.__getitem__)]

    @event(HoldCaptured)
    def _captured(self, hold_id: UUID, grains: int, released: int) -> None:
        self._end(hold_id)

    @event(HoldVoided)
    def _voided(self, hold_id: UUID, grains: int) -> None:
        self._end(hold_id)

    @event(HoldExpired)
    def _expired(self, hold_id: UUID, grains: int) -> None:
        self._end(hold_id)

    @event(Credited)
    def _credited(self, transfer_id: UUID, grains: int) -> None:
        self.posted += grains

    @event(Debited)
    def _debited(self, transfer_id: UUID, grains: int) -> None:
        self.posted -= grains

    @event(RemainderCarried)
    def _carried(self, claim_id: UUID, remainder: int) -> None:
        self.remainder = remainder

    def _end(self, hold_id: UUID) -> None:
        held = self.holds.pop(hold_id)
        self.held -= held.grains
        self.ended[hold_id] = held.expires_at
