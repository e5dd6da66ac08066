"""How the village stands, for Prometheus: the log's lock, its seal, dead letters and sagas, read for one scrape."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import psycopg
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from infrastructure.event_store.flush import LOG_LOCK

from .catalogue import READ_MODELS
from .privacy import KEYS_DUE

_LOCK = "SELECT held_s, waiting FROM engine.lock_state(%s)"
_SEAL = """
SELECT head.position - seal.size AS unsealed,
       coalesce((SELECT extract(epoch FROM clock_timestamp() - recorded_at) FROM log.events
                 WHERE position = seal.size + 1), 0)::float8 AS age_s
FROM (SELECT coalesce(max(position), 0) AS position FROM log.events) AS head,
     (SELECT coalesce(max(size), 0) AS size FROM log.checkpoints) AS seal
"""
_LETTERS = """
SELECT name, count(d) FILTER (WHERE d.poison), count(d) FILTER (WHERE NOT d.poison)
FROM unnest(%s::text[]) AS name LEFT JOIN engine.dead_letters AS d ON d.cursor = name GROUP BY name ORDER BY name
"""
_ERASURES = f"SELECT count(*) {KEYS_DUE}"
_SAGAS = "SELECT kind, state, count(*) FROM read.sagas GROUP BY kind, state ORDER BY kind, state"


@dataclass(frozen=True, slots=True)
class Status:
    """The village at one moment; `letters` by read model (poison, waiting), `sagas` by (plan, state); `keys_due`
    of people who are erased.
    """

    lock_held_s: float
    lock_waiting: int
    unsealed: int
    seal_age_s: float
    letters: list[tuple[str, int, int]]
    sagas: list[tuple[str, str, int]]
    keys_due: int


def status(connection: psycopg.Connection[Any]) -> Status:
    """How the village stands now, read with the reader's rights."""
    lock = connection.execute(_LOCK, (LOG_LOCK,)).fetchone() or (0.0, 0)
    seal = connection.execute(_SEAL).fetchone() or (0, 0.0)
    letters = connection.execute(_LETTERS, ([model.name for model in READ_MODELS],)).fetchall()
    sagas = connection.execute(_SAGAS).fetchall()
    due = connection.execute(_ERASURES).fetchone() or (0,)
    return Status(lock[0], lock[1], seal[0], seal[1], letters, sagas, due[0])


class StatusMetrics(Collector):
    """A status in Prometheus's terms."""

    def __init__(self, status: Status) -> None:
        self._status = status

    def collect(self) -> Iterable[Metric]:
        now = self._status
        yield GaugeMetricFamily(
            "village_log_stall_seconds",
            "Age of the transaction that holds the lock of the log: nobody else can write meanwhile.",
            value=now.lock_held_s,
        )
        yield GaugeMetricFamily("village_log_lock_waiters", "Writers that wait for that lock.", value=now.lock_waiting)
        yield GaugeMetricFamily("village_log_unsealed_events", "Events no checkpoint covers yet.", value=now.unsealed)
        yield GaugeMetricFamily("village_log_seal_age_seconds", "Age of the oldest of them.", value=now.seal_age_s)
        yield GaugeMetricFamily(
            "village_subject_keys_due", "Keys of erased people that are not destroyed yet.", value=now.keys_due
        )
        letters = GaugeMetricFamily(
            "village_dead_letters",
            "Facts not folded, and those behind them.",
            labels=["projection", "kind"],
        )
        for projection, poison, waiting in now.letters:
            letters.add_metric([projection, "poison"], poison)
            letters.add_metric([projection, "waiting"], waiting)
        sagas = GaugeMetricFamily("village_sagas", "Sagas by plan and state.", labels=["plan", "state"])
        for plan, state, number in now.sagas:
            sagas.add_metric([plan, state], number)
        yield from (letters, sagas)
