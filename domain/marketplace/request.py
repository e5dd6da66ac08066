"""A service request: what a customer looked for, and the receipt of how the winner was decided."""

from datetime import datetime
from typing import Any
from uuid import UUID

from domain.kernel import Aggregate, Created, Instant, event

from .matching import RULESET, UNASKED, Decision, Scored, Snapshot, Wish, match, ruleset_hash


class ServiceRequest(Aggregate):
    """Decided once. With the facts up to its positions anybody comes to the same winner, or finds tampering."""

    class MatchDecided(Created):
        """Offerings are as at `snapshot_position`, what is known of their devices as at `known_at` by read model."""

        class_version = 2
        request_id: UUID
        customer_id: UUID
        wish: Wish
        asked_at: Instant
        snapshot_position: int
        ruleset_hash: str
        candidates: list[Scored]
        rejected: dict[str, int]
        winner: UUID | None
        rules: int
        known_at: dict[str, int]

        @staticmethod
        def upcast_v1_v2(state: dict[str, Any]) -> None:
            """Rules 1 did not look at devices."""
            state |= {"rules": 1, "known_at": {}, "wish": state["wish"] | UNASKED}
            state["candidates"] = [one | {"measured": {}} for one in state["candidates"]]

    @event(MatchDecided)
    def __init__(
        self,
        request_id: UUID,
        customer_id: UUID,
        wish: Wish,
        asked_at: datetime,
        snapshot_position: int,
        ruleset_hash: str,
        candidates: list[Scored],
        rejected: dict[str, int],
        winner: UUID | None,
        rules: int,
        known_at: dict[str, int],
    ) -> None:
        self.customer_id = customer_id
        self.wish = wish
        self.asked_at = asked_at
        self.snapshot_position = snapshot_position
        self.ruleset_hash = ruleset_hash
        self.rules = rules
        self.known_at = known_at
        self.decision = Decision(candidates, rejected, winner)

    @staticmethod
    def create_id(request_id: UUID) -> UUID:
        return request_id

    @classmethod
    def decide(
        cls, request_id: UUID, customer_id: UUID, wish: Wish, snapshot: Snapshot, now: datetime
    ) -> "ServiceRequest":
        """A request and what was decided on a snapshot."""
        decision = match(wish, customer_id, now, snapshot.candidates)
        return cls(
            request_id=request_id,
            customer_id=customer_id,
            wish=wish,
            asked_at=now,
            snapshot_position=snapshot.position,
            ruleset_hash=ruleset_hash(wish),
            candidates=decision.candidates,
            rejected=decision.rejected,
            winner=decision.winner,
            rules=RULESET,
            known_at=snapshot.known_at,
        )
