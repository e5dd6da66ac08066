"""The SLA monitor: judges windows that are over by what the log knows of the device, and hands off in time."""

import threading
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import structlog

from domain.device_registry.device import Device
from domain.kernel import Refusal, new_scope, within
from domain.kernel.ports import Clock, system_clock
from domain.kernel.time import milliseconds
from domain.marketplace.contract import Contract
from domain.marketplace.evidence import (
    DEGRADED,
    OFFLINE,
    ONLINE,
    Change,
    Evidence,
    ExcludedTime,
    Interval,
    Latency,
    judge,
)
from domain.marketplace.hand_off import DEVICE_RESTS, SLA_AT_RISK
from domain.marketplace.service import MarketplaceService
from domain.marketplace.settlement import windows_due
from domain.marketplace.sla import BASIS
from domain.marketplace.states import ACTIVE, ENDED
from infrastructure.database import Database, Role
from infrastructure.event_store.reader import LogReader
from workers.ticking import tick_until

POLL_S = 1.0
MAX_PER_TICK = 100
MAX_LOOKED_AT = 20
MAX_GAP = timedelta(seconds=15)
"""After a longer pause between two ticks the village was away itself: that time is unknown."""
SETTLED_AFTER = timedelta(seconds=95)
"""How long after a window presence is still being decided (infrastructure/presence.py: offline after 90 s)."""

# The next window of a contract that promises something: a whole one, or what is left of one that has ended.
_DUE = """
    SELECT contract_id FROM read.contracts
    WHERE state <> 'settled' AND started_at IS NOT NULL AND (sla->>'uptime_bp')::bigint > 0
      AND least(started_at + (windows + 1) * (sla->>'window_ms')::bigint * interval '1 ms', ended_at) <= %s
      AND (ended_at IS NULL OR started_at + windows * (sla->>'window_ms')::bigint * interval '1 ms' < ended_at)
    ORDER BY position LIMIT %s
"""
# Contracts that may be handed off, some at a time, one after the other for ever.
_MOVABLE = """
    SELECT contract_id FROM read.contracts
    WHERE state = 'active' AND request_id IS NOT NULL AND contract_id > %s ORDER BY contract_id LIMIT %s
"""
_WATCH = """
    INSERT INTO edge.watch AS held (name, ticked_at) VALUES ('sla', %(now)s)
    ON CONFLICT (name) DO UPDATE SET ticked_at = greatest(held.ticked_at, excluded.ticked_at)
"""
_TICKED = "SELECT ticked_at FROM edge.watch WHERE name = 'sla' FOR UPDATE"
_AWAY = "INSERT INTO edge.outages (began_at, ended_at) VALUES (%s, %s) ON CONFLICT DO NOTHING"
_OUTAGES = "SELECT began_at, ended_at FROM edge.outages WHERE began_at < %s AND ended_at > %s ORDER BY began_at"
_log = structlog.get_logger()


def nothing_excluded(contract_id: UUID, device_id: UUID, window: Interval) -> Sequence[Interval]:
    """Where no policy is known, no time is excluded."""
    return ()


class SlaMonitor:
    """Judges windows as they are over. Two monitors do no harm: a window is judged once."""

    def __init__(
        self,
        database: Database,
        market: MarketplaceService,
        excluded: ExcludedTime = nothing_excluded,
        clock: Clock = system_clock,
    ) -> None:
        self._database, self._market, self._excluded, self._clock = database, market, excluded, clock
        self._looked_at = UUID(int=0)

    def run(self, stopping: threading.Event) -> None:
        """Tick until told to stop."""
        tick_until(stopping, POLL_S, self.tick, "SLA monitor")

    def tick(self) -> int:
        """Judge at most 100 contracts' next windows; answers how many were."""
        now = self._clock()
        self._watch(now)
        with self._database.pool(Role.READER).connection() as connection:
            due: list[tuple[Any]] = connection.execute(_DUE, (now - SETTLED_AFTER, MAX_PER_TICK)).fetchall()
            movable: list[tuple[UUID]] = connection.execute(_MOVABLE, (self._looked_at, MAX_LOOKED_AT)).fetchall()
        self._looked_at = movable[-1][0] if len(movable) == MAX_LOOKED_AT else UUID(int=0)
        for (contract_id,) in movable:
            self._foresee(contract_id, now)
        return sum(self._judge(contract_id, now) for (contract_id,) in due)

    def _foresee(self, contract_id: UUID, now: datetime) -> None:
        """Ask for a hand-off where the device rests, or half of what a window may lack is lacking already."""
        contract = self._market.get_contract(contract_id=contract_id)
        if contract.status != ACTIVE:
            return
        if self._market.device_rests(device_id=contract.terms.device_id):
            reason = DEVICE_RESTS
        elif self._at_risk(contract, now):
            reason = SLA_AT_RISK
        else:
            return
        try:
            with within(new_scope("system:sla-monitor", now=now)):
                self._market.report_headroom(contract_id=contract_id, provider_id=None, headroom_ms=0, reason=reason)
        except Refusal as refusal:
            _log.info("not handed off", contract_id=str(contract_id), code=refusal.code)

    def _at_risk(self, contract: Contract, now: datetime) -> bool:
        window, sla = _next_window(contract), contract.terms.sla
        if sla.uptime_bp == 0 or not window.begins < now < window.ends:
            return False
        so_far = Interval(window.begins, now)
        measured, _ = judge(so_far, sla, self._evidence(contract, so_far))
        may_lack_ms = sla.window_ms * (BASIS - sla.uptime_bp) // BASIS
        return measured.degraded_ms > 0 and 2 * measured.degraded_ms >= may_lack_ms

    def _watch(self, now: datetime) -> None:
        """Remember that somebody watches, and since when nobody did."""
        with self._database.writer.connection() as connection, connection.transaction():
            before = connection.execute(_TICKED).fetchone()
            if before is not None and now - before[0] > MAX_GAP:
                connection.execute(_AWAY, (before[0], now))
            connection.execute(_WATCH, {"now": now})

    def _judge(self, contract_id: UUID, now: datetime) -> bool:
        contract = self._market.get_contract(contract_id=contract_id)
        if contract.status in ENDED and contract.windows >= windows_due(contract):
            return False
        window = _next_window(contract)
        measured, evidence_hash = judge(window, contract.terms.sla, self._evidence(contract, window))
        try:
            with within(new_scope("system:sla-monitor", now=now)):
                self._market.evaluate_sla_window(
                    contract_id=contract_id, window=contract.windows, measured=measured, evidence_hash=evidence_hash
                )
        except Refusal as refusal:
            _log.info("window not judged", contract_id=str(contract_id), code=refusal.code)
            return False
        return True

    def _evidence(self, contract: Contract, window: Interval) -> Evidence:
        device_id = contract.terms.device_id
        with self._database.pool(Role.READER).connection() as connection:
            facts = [record.fact() for record in LogReader(connection).of_streams([device_id])]
            outages = connection.execute(_OUTAGES, (window.ends, window.begins)).fetchall()
        presence: list[Change] = []
        latencies: list[Latency] = []
        for fact in facts:
            match fact.event:
                case Device.WentOnline():
                    presence.append(Change(fact.event.seen_at, ONLINE))
                case Device.WentDegraded():
                    presence.append(Change(fact.event.seen_at, DEGRADED))
                case Device.WentOffline():
                    presence.append(Change(fact.event.last_seen_at, OFFLINE))
                case Device.LatencyClassChanged():
                    latencies.append(Latency(fact.recorded_at, fact.event.latency_ms))
        return Evidence(
            sorted(presence, key=lambda change: change.at),
            latencies,
            [Interval(*outage) for outage in outages],
            self._excluded(contract.id, device_id, window),
        )


def _next_window(contract: Contract) -> Interval:
    assert contract.started_at is not None
    size = timedelta(milliseconds=contract.terms.sla.window_ms)
    begins = contract.started_at + contract.windows * size
    ends = min(begins + size, contract.ended_at or contract.terms.deadline_at)
    return Interval(begins, begins + timedelta(milliseconds=milliseconds(begins, ends)))
