"""Open offerings for matching, as they are and as they were; and whether a match is what the log makes of it."""

from typing import Any
from uuid import UUID

import msgspec
import psycopg
from psycopg import sql

from domain.kernel import NotFound
from domain.marketplace.matching import (
    MAX_CANDIDATES,
    NOTHING_KNOWN,
    RULES,
    Candidate,
    Decision,
    KnownDevice,
    Snapshot,
    match,
    ruleset_hash,
)
from domain.marketplace.request import ServiceRequest
from infrastructure.database import Database
from infrastructure.event_store.reader import LogReader

from . import offered_devices
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
    """Answers the open offerings from the read models; the query port of `match_service_request`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._model = Offerings()

    def open_offerings(self, *, limit: int) -> Snapshot:
        """At most `limit` open offerings by rising id, what is known of their devices, and the positions of both."""
        with self._database.reader.connection() as connection, connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            ((position,),) = connection.execute(_POSITION).fetchall()
            records = connection.execute(self._model.select() + _OPEN, {"open": OPEN, "limit": limit}).fetchall()
            rows = [self._model.read(record) for record in records]
            devices = offered_devices.known(connection, {row.device_id for row in rows})
            known_at = offered_devices.positions(connection)
        candidates = [candidate_of(row, devices.get(row.device_id, NOTHING_KNOWN)) for row in rows]
        return Snapshot(candidates, int(position), known_at)


def verify_match(connection: psycopg.Connection[Any], request_id: UUID) -> MatchVerdict:
    """Decide a request again, from the log alone, by the rules it was decided by.

    Raises:
        MatchUnknown. PositionAhead, TooFarToFold.
    """
    facts = [record.fact().event for record in LogReader(connection).of_streams([request_id])]
    decided = next((fact for fact in facts if isinstance(fact, ServiceRequest.MatchDecided)), None)
    if decided is None:
        raise MatchUnknown(str(request_id))
    again = match(decided.wish, decided.customer_id, decided.asked_at, _candidates(connection, decided), decided.rules)
    recorded = Decision(decided.candidates, decided.rejected, decided.winner)
    same_rules = decided.rules in RULES and ruleset_hash(decided.wish, decided.rules) == decided.ruleset_hash
    return MatchVerdict(request_id, decided.snapshot_position, same_rules, again == recorded, recorded, again)


def _candidates(connection: psycopg.Connection[Any], decided: ServiceRequest.MatchDecided) -> list[Candidate]:
    """The open offerings as they were, and their devices if the rules looked at these."""
    rows = rows_at(connection, Offerings(), decided.snapshot_position)
    offered = [row for _, row in sorted(rows.items()) if row.state == OPEN][:MAX_CANDIDATES]
    if decided.rules < 2:
        return [candidate_of(row) for row in offered]
    devices = offered_devices.known_at(connection, {row.device_id for row in offered}, decided.known_at)
    return [candidate_of(row, devices.get(row.device_id, NOTHING_KNOWN)) for row in offered]


def candidate_of(row: OfferingRow, device: KnownDevice | None = None) -> Candidate:
    """What matching knows of an offering and its device."""
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
        device=device,
    )
