"""What the rules of incidents are about, measured in the database: lag, letters, supply, seal, sagas, devices."""

from typing import Any, Final

import psycopg

from domain.harvest.states import ABANDONED, CLOSED, FLAPPING, REWARDED
from domain.monitoring.rules import Measure, Subject

from .tokenomics.queries import SUPPLY_DRIFT

MAX_OPEN: Final = 1_000

_LAG = """
SELECT name, coalesce(extract(epoch FROM clock_timestamp() - (
           SELECT recorded_at FROM log.events AS e WHERE e.position = c.position + 1)), 0)::float8
FROM (SELECT name, min(position) AS position FROM engine.cursors WHERE name NOT LIKE 'rebuild:%' GROUP BY name) AS c
"""
_LETTERS = (
    "SELECT cursor, count(*) FROM engine.dead_letters WHERE poison AND cursor NOT LIKE 'rebuild:%' GROUP BY cursor"
)
_BUS_LETTERS = "SELECT consumer, count(*) FROM engine.bus_dead_letters WHERE resolved_at IS NULL GROUP BY consumer"
_SEAL = """
SELECT 'log', coalesce((SELECT extract(epoch FROM clock_timestamp() - recorded_at) FROM log.events
    WHERE position = 1 + (SELECT coalesce(max(size), 0) FROM log.checkpoints)), 0)::float8
"""
_PARKED = "SELECT kind, count(*) FROM read.sagas WHERE state = 'parked' GROUP BY kind"
_AWAY = """
SELECT 'fleet', 10000 * count(*) FILTER (WHERE presence = 'offline') / greatest(count(*), 1)
FROM read.devices WHERE status = 'active'
"""
_FAILED = f"state IN ('{CLOSED}', '{REWARDED}') AND reason ->> 'kind' IN ('{FLAPPING}', '{ABANDONED}')"
_FAILURES = f"""
SELECT device_id::text, count(*) FROM read.harvest_sessions
WHERE {_FAILED} AND closed_at > clock_timestamp() - interval '6 hours'
GROUP BY device_id ORDER BY 2 DESC LIMIT {MAX_OPEN}
"""
"""Sessions of a device that flapped or were abandoned; the index `harvest_sessions_failed` is of these."""
_MEASURES: Final = {
    "consumer_lag_s": _LAG,
    "dead_letters": _LETTERS,
    "bus_dead_letters": _BUS_LETTERS,
    "supply_drift_grains": f"SELECT 'supply', abs({SUPPLY_DRIFT})",
    "seal_age_s": _SEAL,
    "parked_sagas": _PARKED,
    "devices_away_bp": _AWAY,
    "device_failures": _FAILURES,
}
_OPEN = (
    "SELECT rule, subject, incident_id FROM read.incidents WHERE state <> 'resolved'"
    f" ORDER BY position LIMIT {MAX_OPEN}"
)
_COUNT = "SELECT count(*) FROM read.incidents WHERE rule = %s AND subject = %s"


def measured(connection: psycopg.Connection[Any]) -> list[Measure]:
    """Every measure of every subject, now."""
    return [
        Measure(name, subject, float(value))
        for name, statement in _MEASURES.items()
        for subject, value in connection.execute(statement.encode())
    ]


def open_incidents(connection: psycopg.Connection[Any]) -> dict[Subject, Any]:
    """The ids of the incidents that are not resolved, at most 1,000."""
    return {(rule, subject): id_ for rule, subject, id_ in connection.execute(_OPEN.encode())}


def incidents_so_far(connection: psycopg.Connection[Any], rule: str, subject: str) -> int:
    """How many incidents a subject has had by a rule."""
    row = connection.execute(_COUNT, (rule, subject)).fetchone()
    return int(row[0]) if row else 0
