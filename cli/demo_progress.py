"""Where a demo stands, as the read side shows it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec

from cli.console import Console

PROGRESS = """query Progress($session: UUID!) {
  trainingSession(sessionId: $session) { state currentRound }
  rounds(sessionId: $session, first: 100) {
    edges { node { number state participants accepted accuracy loss durationMs } }
  }
  devicePayouts(first: 100) { edges { node { deviceId claims paidGrains pendingGrains } } }
  harvestSessions(first: 10) {
    edges { node {
      sessionId deviceId ownerId state reason { kind text } runMs verifiedMs qualityBp earnedGrains requestedAt closedAt
    } }
  }
  contracts(first: 10) {
    edges { node {
      contractId deviceId providerId customerId state agreedPrice usedMs creditGrains chargedGrains feeGrains
      providerGrains releasedGrains startedAt endedAt
    } }
  }
  bursts(first: 10) { edges { node { burstId state reason priceGrains nodes { contractId } } } }
  projections { name position head lag }
}"""


class DemoFailed(Exception):
    """A step of the demo did not come to its end."""


class DemoStopped(Exception):
    """The demo was asked to stop."""


class Round(msgspec.Struct, frozen=True, rename="camel"):
    """One round as the read side shows it."""

    number: int
    state: str
    participants: int
    accepted: int
    accuracy: float | None
    loss: float | None
    duration_ms: int | None


class Payout(msgspec.Struct, frozen=True, rename="camel"):
    """What one device has earned, in grains."""

    device_id: UUID
    claims: int
    paid_grains: str
    pending_grains: str


class Reason(msgspec.Struct, frozen=True):
    """Why a harvest session is as it is, as a word and in words."""

    kind: str
    text: str


class Lent(msgspec.Struct, frozen=True, rename="camel"):
    """One harvest session; what is paid is `verified_ms`."""

    session_id: UUID
    device_id: UUID
    owner_id: UUID
    state: str
    reason: Reason
    run_ms: int
    verified_ms: int
    quality_bp: int
    earned_grains: str
    requested_at: str
    closed_at: str | None


class Deal(msgspec.Struct, frozen=True, rename="camel"):
    """One contract, amounts in grains."""

    contract_id: UUID
    device_id: UUID
    provider_id: UUID
    customer_id: UUID
    state: str
    agreed_price: str
    used_ms: int
    credit_grains: str
    charged_grains: str
    fee_grains: str
    provider_grains: str
    released_grains: str
    started_at: str | None
    ended_at: str | None


class Part(msgspec.Struct, frozen=True, rename="camel"):
    """One device's part of a burst."""

    contract_id: UUID


class Burst(msgspec.Struct, frozen=True, rename="camel"):
    """One burst; its price in grains is for all of its parts."""

    burst_id: UUID
    state: str
    reason: str
    price_grains: str
    nodes: Sequence[Part]


@dataclass(frozen=True)
class Progress:
    """Where the demo stands; `head` is the newest position of the log, `settled` that every read model is there."""

    state: str
    rounds: Sequence[Round]
    payouts: Sequence[Payout]
    head: int
    settled: bool
    lent: Sequence[Lent] = ()
    deals: Sequence[Deal] = ()
    bursts: Sequence[Burst] = ()

    @property
    def completed(self) -> list[Round]:
        """The rounds that ended well, oldest first."""
        return [one for one in self.rounds if one.state == "completed"]

    @property
    def paid_grains(self) -> int:
        """Everything paid to devices so far."""
        return sum(int(payout.paid_grains) for payout in self.payouts)

    @property
    def pending_grains(self) -> int:
        """Everything earned and not paid yet."""
        return sum(int(payout.pending_grains) for payout in self.payouts)

    def paid_to(self, device_id: UUID) -> int:
        """Everything paid to one device, in grains."""
        return sum(int(payout.paid_grains) for payout in self.payouts if payout.device_id == device_id)


def progress_of(console: Console, session_id: UUID) -> Progress:
    """Where things stand now, of a training session and of what happens beside it. Raises VillageError."""
    data = console.query(PROGRESS, session=str(session_id))
    session = data["trainingSession"] or {"state": "starting"}
    cursors = data["projections"]
    return Progress(
        state=session["state"],
        rounds=sorted(msgspec.convert(nodes(data["rounds"]), list[Round]), key=lambda one: one.number),
        payouts=msgspec.convert(nodes(data["devicePayouts"]), list[Payout]),
        head=max((int(cursor["head"]) for cursor in cursors), default=0),
        settled=all(int(cursor["lag"]) == 0 for cursor in cursors),
        lent=msgspec.convert(nodes(data["harvestSessions"])[::-1], list[Lent], strict=False),
        deals=msgspec.convert(nodes(data["contracts"])[::-1], list[Deal], strict=False),
        bursts=msgspec.convert(nodes(data["bursts"])[::-1], list[Burst], strict=False),
    )


def nodes(connection: Mapping[str, Any]) -> list[Any]:
    """What a connection of GraphQL holds."""
    return [edge["node"] for edge in connection["edges"]]
