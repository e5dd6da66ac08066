"""A service request: what a customer looked for, and the receipt of how the winner was decided."""

from datetime import datetime
from uuid import UUID

from domain.kernel import Aggregate, Created, Instant, event

from .matching import Decision, Scored, Snapshot, Wish, match, ruleset_hash


class ServiceRequest(Aggregate):
    """Decided once. With the facts up to `snapshot_position` anybody comes to the same winner, or finds tampering."""

    class MatchDecided(Created):
        request_id: UUID
        customer_id: UUID
        wish: Wish
        asked_at: Instant
        snapshot_position: int
        ruleset_hash: str
        candidates: list[Scored]
        rejected: dict[str, int]
        winner: UUID | None

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
    ) -> None:
        self.customer_id = customer_id
        self.wish = wish
        self.asked_at = asked_at
        self.snapshot_position = snapshot_position
        self.ruleset_hash = ruleset_hash
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
        )
