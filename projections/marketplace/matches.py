"""Read models of who finds and trades with whom: the receipts of matches, and dealings between two owners."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from domain.kernel.fact import Fact
from domain.marketplace.dealing import Dealing
from domain.marketplace.request import ServiceRequest
from projections.rows import Key, ReadModel, Row


class MatchRow(Row, frozen=True):
    """A receipt: what was wished, the best 20 with the parts of their scores, and how many others failed at what.

    `known_at` is how far what is known of devices had come, by read model.
    """

    request_id: UUID
    customer_id: UUID
    wish: dict[str, Any]
    candidates: list[dict[str, Any]]
    rejected: dict[str, int]
    winner: UUID | None
    ruleset_hash: str
    snapshot_position: int
    asked_at: datetime
    position: int
    rules: int
    known_at: dict[str, int]


class Matches(ReadModel[MatchRow]):
    """Receipts by request."""

    version = 2
    name = "matches"
    table = "read.matches"
    row = MatchRow
    key = ("request_id",)
    folds_own_stream = True
    listens = (ServiceRequest.MatchDecided,)
    begins = (ServiceRequest.MatchDecided,)

    def keys(self, fact: Fact) -> Iterable[Key]:
        return (fact.stream,)

    def evolve(self, row: MatchRow | None, fact: Fact, key: Key) -> MatchRow | None:
        made: ServiceRequest.MatchDecided = fact.event
        return MatchRow(
            request_id=made.request_id,
            customer_id=made.customer_id,
            wish=msgspec.to_builtins(made.wish),
            candidates=msgspec.to_builtins(made.candidates),
            rejected=made.rejected,
            winner=made.winner,
            ruleset_hash=made.ruleset_hash,
            snapshot_position=made.snapshot_position,
            asked_at=made.asked_at,
            position=fact.position,
            rules=made.rules,
            known_at=made.known_at,
        )


_FLOWS = ("low_gave", "high_gave", "low_around", "high_around")


class DealingRow(Row, frozen=True):
    """What two owners, by rising id, have sold each other in settled contracts, in grains.

    Once they are flagged by `rule`: what each gave the other by itself, or around through others, by then.
    """

    dealing_id: UUID
    low_id: UUID
    high_id: UUID
    trades: int
    low_grains: int
    high_grains: int
    flagged: bool
    changed_at: datetime
    position: int
    rule: str = ""
    low_gave: int = 0
    high_gave: int = 0
    low_around: int = 0
    high_around: int = 0


class Dealings(ReadModel[DealingRow]):
    """Dealings by id. `position` is that of the first trade."""

    version = 2
    name = "dealings"
    table = "read.dealings"
    row = DealingRow
    key = ("dealing_id",)
    folds_own_stream = True
    listens = (Dealing.Opened, Dealing.Traded, Dealing.Flagged)
    begins = (Dealing.Opened,)

    def keys(self, fact: Fact) -> Iterable[Key]:
        return (fact.stream,)

    def evolve(self, row: DealingRow | None, fact: Fact, key: Key) -> DealingRow | None:
        made: Any = fact.event
        if isinstance(made, Dealing.Opened):
            return DealingRow(fact.stream, made.low_id, made.high_id, 0, 0, 0, False, fact.recorded_at, fact.position)
        if row is None:
            return None
        if isinstance(made, Dealing.Flagged):
            others = {name: getattr(made.flows, name) for name in _FLOWS}
            return msgspec.structs.replace(row, flagged=True, changed_at=fact.recorded_at, rule=made.rule, **others)
        sold = "low_grains" if made.provider_id == row.low_id else "high_grains"
        more = {sold: getattr(row, sold) + made.grains}
        return msgspec.structs.replace(row, trades=row.trades + 1, changed_at=fact.recorded_at, **more)
