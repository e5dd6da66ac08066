"""Open offerings for matching, as they are and as they were; and whether a match is what the log makes of it."""

from typing import Any
from uuid import UUID

import msgspec
import psycopg
from psycopg import sql

from domain.kernel import NotFound
from domain.marketplace.matching import MAX_CANDIDATES, Candidate, Decision, Snapshot, match, ruleset_hash
from domain.marketplace.request import ServiceRequest
from infrastructure.database import Database
from infrastructure.event_store.reader import LogReader

from .as_of import rows_at
from .marketplace import OPEN, OfferingRow, Offerings

_OPEN = sql.SQL(" WHERE state = %(open)s ORDER BY offering_id LIMIT %(limit)s")
_POSITION = "SELECT coalesce(min(position), 0) FROM engine.cursors WHERE name = 'offerings'"


class MatchUnknown(NotFound):
    """Only a request that was decided has a receipt."""


class MatchVerdict(msgspec.Struct, frozen=True):
    """Whether a receipt is what its snapshot gives: by the same rules, the same decision to the last score."""

    request_id: UUID
    snapshot_position: int
    same_rules: bool
    same_decision: bool
    recorded: Decision
    decided_again: Decision

    @property
    def honest(self) -> bool:
        return self.same_rules and self.same_decision


class OfferingIndex:
    """Answers the open offerings from the read model; the query port of `match_service_request`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._model = Offerings()

    def open_offerings(self, *, limit: int) -> Snapshot:
        """At most `limit` open offerings by rising id, and the position they were known at, from one snapshot."""
        with self._database.reader.connection() as connection, connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            ((position,),) = connection.execute(_POSITION).fetchall()
            query = self._model.select() + _OPEN
            records = connection.execute(query, {"open": OPEN, "limit": limit}).fetchall()
        return Snapshot([candidate_of(self._model.read(record)) for record in records], int(position))


def verify_match(connection: psycopg.Connection[Any], request_id: UUID) -> MatchVerdict:
    """Decide a request again, from the log alone.

    Raises:
        MatchUnknown. PositionAhead, TooFarToFold.
    """
    facts = [record.fact().event for record in LogReader(connection).of_streams([request_id])]
    decided = next((fact for fact in facts if isinstance(fact, ServiceRequest.MatchDecided)), None)
    if decided is None:
        raise MatchUnknown(str(request_id))
    rows = rows_at(connection, Offerings(), decided.snapshot_position)
    candidates = [candidate_of(row) for _, row in sorted(rows.items()) if row.state == OPEN][:MAX_CANDIDATES]
    again = match(decided.wish, decided.customer_id, decided.asked_at, candidates)
    recorded = Decision(decided.candidates, decided.rejected, decided.winner)
    same_rules = ruleset_hash(decided.wish) == decided.ruleset_hash
    return MatchVerdict(request_id, decided.snapshot_position, same_rules, again == recorded, recorded, again)


def candidate_of(row: OfferingRow) -> Candidate:
    """What matching knows of an offering."""
    return Candidate(
        offering_id=row.offering_id,
        provider_id=row.provider_id,
        service_type=row.service_type,
        region=row.region,
        ram_mb=row.ram_mb,
        cpu_cores=row.cpu_cores,
        compute_score=row.compute_score,
        free=row.capacity - row.reserved,
        price_grains_per_hour=row.price_grains_per_hour,
        uptime_bp=row.sla["uptime_bp"],
        valid_until=row.valid_until,
    )
