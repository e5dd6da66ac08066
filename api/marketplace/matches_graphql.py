"""Receipts of matches over GraphQL: why this offering, and why not the others; dealings of two owners."""

import json
from datetime import datetime
from uuid import UUID

import msgspec
import strawberry

from api.edge.graphql import AsOf, Condition, Connection, Grains, Info, Listing, Milliseconds, Position, equals, require
from domain.marketplace.matching import MEASURED, Scored
from projections.marketplace import DealingRow, Dealings, Matches, MatchRow

_WHY_NOT = {
    "service_type": "is of another service",
    "self_dealing": "is the customer's own",
    "valid_until": "is no longer valid",
    "region": "is in another region",
    "min_ram_mb": "has too little memory",
    "min_cpu_cores": "has too few cores",
    "min_compute_score": "computes too slowly",
    "min_matrix_mflops": "has measured too few products of matrices, or none",
    "min_memory_mb_s": "has measured too little throughput of memory, or none",
    "min_disk_mb_s": "has measured too little throughput of its disk, or none",
    "min_uptime_bp": "promises too little",
    "units": "has too few units free",
    "max_price": "costs more than wished",
    "device_offline": "is of a device that is not there",
    "device_rests": "is of a device that rests by its harvest policy",
}


@strawberry.type
class MatchCandidate:
    """An offering that meets every constraint. Its score is what it saves and promises, weighted.

    The last three are what its device had measured of itself, in MFLOP/s and MB/s; null is nothing.
    """

    rank: int
    offering_id: UUID
    score: int
    saving: int
    uptime: int
    price_grains: Grains
    explain: str
    matrix_mflops: int | None
    memory_mb_s: int | None
    disk_mb_s: int | None


@strawberry.type
class MatchRejection:
    """How many offerings failed at a constraint, as the first of those they failed at."""

    reason: str
    count: int
    explain: str


@strawberry.type
class Match:
    """A receipt: what was wished, the best 20 offerings in order, and why the others do not serve.

    Offerings are as at `snapshotPosition`, what is known of devices is as at `devicesPosition` and `sessionsPosition`:
    null where the rules did not look at them.
    """

    request_id: UUID
    customer_id: UUID
    service_type: str
    units: int
    duration_ms: Milliseconds
    deadline_at: datetime
    max_price_grains: Grains
    candidates: list[MatchCandidate]
    rejected: list[MatchRejection]
    winner: UUID | None
    explain: str
    ruleset_hash: str
    snapshot_position: Position
    asked_at: datetime
    position: Position
    rules: int
    devices_position: Position | None
    sessions_position: Position | None

    @classmethod
    def of(cls, row: MatchRow) -> "Match":
        ranked = msgspec.convert(row.candidates, list[Scored])
        return cls(
            request_id=row.request_id,
            customer_id=row.customer_id,
            service_type=row.wish["service_type"],
            units=row.wish["units"],
            duration_ms=Milliseconds(row.wish["duration_ms"]),
            deadline_at=datetime.fromisoformat(row.wish["deadline_at"]),
            max_price_grains=Grains(row.wish["max_price_grains"]),
            candidates=[_candidate(rank, one, ranked) for rank, one in enumerate(ranked, 1)],
            rejected=[
                MatchRejection(reason=name, count=count, explain=f"{count} {_WHY_NOT.get(name, name)}")
                for name, count in row.rejected.items()
            ],
            winner=row.winner,
            explain=_why(ranked, sum(row.rejected.values())),
            ruleset_hash=row.ruleset_hash,
            snapshot_position=Position(row.snapshot_position),
            asked_at=row.asked_at,
            position=Position(row.position),
            rules=row.rules,
            devices_position=_position(row.known_at.get("devices")),
            sessions_position=_position(row.known_at.get("harvest_sessions")),
        )


def _position(known: int | None) -> Position | None:
    return None if known is None else Position(known)


@strawberry.type
class Dealing:
    """What two owners, by rising id, have sold each other, in grains; flagged by a rule when tokens only went round.

    What each gave the other besides, by itself or around through others, is as it was when they were flagged.
    """

    dealing_id: UUID
    low_id: UUID
    high_id: UUID
    trades: int
    low_grains: Grains
    high_grains: Grains
    flagged: bool
    changed_at: datetime
    position: Position
    rule: str
    low_gave: Grains
    high_gave: Grains
    low_around: Grains
    high_around: Grains
    explain: str

    @classmethod
    def of(cls, row: DealingRow) -> "Dealing":
        return cls(**msgspec.structs.asdict(row), explain=_why_flagged(row))


def _why_flagged(row: DealingRow) -> str:
    if not row.flagged:
        return f"not flagged; trades: {row.trades}"
    to_low, to_high = row.low_grains + row.high_gave + row.high_around, row.high_grains + row.low_gave + row.low_around
    return (
        f"by {row.rule}: {to_low} grains went to {row.low_id} ({row.high_gave} given, {row.high_around} around through"
        f" others), and {to_high} to {row.high_id} ({row.low_gave} given, {row.low_around} around)"
    )


MATCHES = Listing(Matches(), Match.of, order=("position",), descending=True, owner="customer_id")
DEALINGS = Listing(Dealings(), Dealing.of, order=("position",), descending=True, shared=True)
"""Shared, but `dealings` is for operators."""


@strawberry.type
class MatchQuery:
    """Queries of matches and dealings."""

    @strawberry.field
    async def matches(
        self,
        info: Info,
        first: int,
        after: str | None = None,
        offering_id: UUID | None = None,
        customer_id: UUID | None = None,
        at_least: Position | None = None,
        as_of: AsOf | None = None,
    ) -> Connection[Match]:
        """Receipts from the newest back, of a customer, or with an offering among the candidates; one's own."""
        conditions = [*equals("customer_id", customer_id), *_ranks(offering_id)]
        return await MATCHES.page(info, first, after, at_least, *conditions, as_of=as_of)

    @strawberry.field
    async def match(
        self, info: Info, request_id: UUID, at_least: Position | None = None, as_of: AsOf | None = None
    ) -> Match | None:
        """The receipt of a request, as it is or as it was; null when there is none of one's own."""
        if as_of is not None:
            return await MATCHES.one_at(info, request_id, as_of)
        return await MATCHES.one(info, *equals("request_id", request_id), at_least=at_least)

    @strawberry.field
    async def dealings(
        self,
        info: Info,
        first: int,
        after: str | None = None,
        flagged: bool | None = None,
        at_least: Position | None = None,
        as_of: AsOf | None = None,
    ) -> Connection[Dealing]:
        """Who trades with whom, for operators."""
        require(info, "operator")
        return await DEALINGS.page(info, first, after, at_least, *equals("flagged", flagged), as_of=as_of)


def _ranks(offering_id: UUID | None) -> list[Condition]:
    if offering_id is None:
        return []
    named = str(offering_id)
    return [
        Condition(
            "candidates @> %(ranked)s::jsonb",
            {"ranked": json.dumps([{"offering_id": named}])},
            lambda row: any(one["offering_id"] == named for one in row.candidates),
        )
    ]


def _candidate(rank: int, one: Scored, ranked: list[Scored]) -> MatchCandidate:
    return MatchCandidate(
        rank=rank,
        offering_id=one.offering_id,
        score=one.score,
        saving=one.saving,
        uptime=one.uptime,
        price_grains=Grains(one.price_grains),
        explain=_why_there(one, ranked[0]),
        **{name: one.measured.get(name) for name in MEASURED},
    )


def _why_there(one: Scored, best: Scored) -> str:
    if one == best:
        return f"the highest score: {one.saving} for its price and {one.uptime} for its promise"
    if one.score < best.score:
        return f"its score is {best.score - one.score} below the winner's"
    return "as good, but dearer" if one.price_grains > best.price_grains else "as good and as cheap, but of a higher id"


def _why(ranked: list[Scored], rejected: int) -> str:
    if not ranked:
        return f"none of {rejected} open offerings meets every constraint"
    why = _why_there(ranked[0], ranked[0])
    return f"offerings that meet every constraint: {len(ranked)}, that do not: {rejected}; the winner has {why}"
