"""Holds as they are read: what is kept back, until when, and how each ended."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

from msgspec.structs import replace

from domain.kernel.fact import Fact
from domain.tokenomics.wallet import Wallet
from projections.rows import Key, ReadModel, Row

OPEN, CAPTURED, VOIDED, EXPIRED = "open", "captured", "voided", "expired"


class HoldRow(Row, frozen=True):
    """A hold of `grains`; of a captured one `captured_grains` were paid and the rest released."""

    wallet_id: UUID
    hold_id: UUID
    grains: int
    captured_grains: int
    expires_at: datetime
    purpose: str
    state: str
    held_at: datetime
    ended_at: datetime | None
    position: int


class Holds(ReadModel[HoldRow]):
    """Holds by wallet and id. `position` is that of the fact that made it."""

    name = "holds"
    table = "read.holds"
    row = HoldRow
    key = ("wallet_id", "hold_id")
    listens = (Wallet.FundsHeld, Wallet.HoldCaptured, Wallet.HoldVoided, Wallet.HoldExpired)
    begins = (Wallet.FundsHeld,)

    def keys(self, fact: Fact) -> Iterable[Key]:
        return ((fact.stream, fact.event.hold_id),)

    def streams_of(self, key: Key) -> list[UUID]:
        return [key[0]]

    def evolve(self, row: HoldRow | None, fact: Fact, key: Key) -> HoldRow | None:
        made: Any = fact.event
        if type(made) is Wallet.FundsHeld:
            return HoldRow(
                wallet_id=key[0],
                hold_id=key[1],
                grains=made.grains,
                captured_grains=0,
                expires_at=made.expires_at,
                purpose=made.purpose,
                state=OPEN,
                held_at=fact.recorded_at,
                ended_at=None,
                position=fact.position,
            )
        if row is None:
            return None
        captured = made.grains if type(made) is Wallet.HoldCaptured else row.captured_grains
        return replace(row, state=_ENDED[type(made)], captured_grains=captured, ended_at=fact.recorded_at)


_ENDED = {Wallet.HoldCaptured: CAPTURED, Wallet.HoldVoided: VOIDED, Wallet.HoldExpired: EXPIRED}
