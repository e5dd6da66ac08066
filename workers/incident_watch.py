"""The incident watch: measures the village by rules, opens incidents and resolves those whose cause is gone."""

import threading
from uuid import UUID

import psycopg
import structlog

from domain.kernel import Refusal, new_scope, within
from domain.kernel.ports import Clock, system_clock
from domain.monitoring.rules import Breach, Watch
from domain.monitoring.service import MonitoringService
from infrastructure.database import Database, Role
from projections.measures import incidents_so_far, measured, open_incidents

POLL_S = 2.0
MAX_PER_TICK = 50
STATEMENT_TIMEOUT_MS = 5_000
ACTOR = "system:watch"
_log = structlog.get_logger()


class IncidentWatch:
    """Looks every two seconds. Two watches do no harm: the next incident of a subject has one id.

    How long a limit has been passed is remembered in memory: a restart begins to count anew.
    """

    def __init__(
        self,
        monitoring: MonitoringService,
        database: Database,
        watch: Watch | None = None,
        clock: Clock = system_clock,
    ) -> None:
        self._monitoring = monitoring
        self._database = database
        self._watch = watch or Watch()
        self._clock = clock

    def run(self, stopping: threading.Event) -> None:
        """Look until told to stop."""
        while not stopping.wait(POLL_S):
            try:
                self.tick()
            except Exception as error:
                _log.warning("the incident watch could not look", error=repr(error))

    def tick(self) -> int:
        """Look once; answers how many incidents were opened or resolved, at most 50."""
        now, changed = self._clock(), 0
        with self._database.pool(Role.READER).connection() as connection:
            connection.execute(f"SET LOCAL statement_timeout = {STATEMENT_TIMEOUT_MS}".encode())
            standing = open_incidents(connection)
            verdict = self._watch.judge(measured(connection), standing, now)
            opening = [(breach, self._number(connection, breach)) for breach in verdict.opened[:MAX_PER_TICK]]
        for breach, number in opening:
            changed += self._open(breach, number)
        for key, value in list(verdict.over.items())[: MAX_PER_TICK - len(opening)]:
            changed += self._resolve(standing[key], value)
        return changed

    def _number(self, connection: psycopg.Connection[object], breach: Breach) -> int:
        return 1 + incidents_so_far(connection, breach.rule.name, breach.subject)

    def _open(self, breach: Breach, number: int) -> bool:
        rule = breach.rule
        try:
            with within(new_scope(ACTOR)):
                self._monitoring.open_incident(
                    rule=rule.name,
                    subject=breach.subject,
                    number=number,
                    severity=rule.severity,
                    summary=rule.summary,
                    value=breach.value,
                    limit=rule.limit,
                )
        except Refusal as refusal:
            _log.debug("incident refused", rule=rule.name, subject=breach.subject, code=refusal.code)
            return False
        _log.warning("incident", rule=rule.name, subject=breach.subject, value=breach.value, severity=rule.severity)
        return True

    def _resolve(self, incident_id: UUID, value: float) -> bool:
        try:
            with within(new_scope(ACTOR)):
                self._monitoring.resolve_incident(incident_id=incident_id, reason=f"the measure is back at {value:g}")
        except Refusal as refusal:  # over already: the read model has not caught up with the log yet
            _log.debug("incident refused", incident_id=str(incident_id), code=refusal.code)
            return False
        return True
