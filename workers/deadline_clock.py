"""The deadline clock: when an instant has come, it says so once, as a fact."""

import threading
from datetime import datetime
from uuid import UUID

import structlog

from domain.kernel import Refusal, new_scope, within
from domain.kernel.ports import Clock, system_clock
from domain.sagas.deadline import Deadlines
from infrastructure.database import Database, Role
from workers.ticking import tick_until

POLL_S = 0.25
MAX_PER_TICK = 500
_DUE = "SELECT token FROM read.deadlines WHERE NOT elapsed AND due_at <= %s ORDER BY due_at, token LIMIT %s"
_log = structlog.get_logger()


class DeadlineClock:
    """Records `Deadline.Elapsed` for what is due. Two clocks do no harm: a deadline elapses once."""

    def __init__(self, deadlines: Deadlines, database: Database, clock: Clock = system_clock) -> None:
        self._deadlines = deadlines
        self._database = database
        self._clock = clock

    def run(self, stopping: threading.Event) -> None:
        """Tick until told to stop."""
        tick_until(stopping, POLL_S, self.tick, "deadline clock")

    def tick(self) -> int:
        """Let everything that is due elapse, at most 500; answers how many did."""
        now = self._clock()
        elapsed = 0
        for token in self._due(now):
            try:
                with within(new_scope("system:clock", now=now)):
                    self._deadlines.elapse_deadline(token=token, now=now)
                elapsed += 1
            except Refusal as refusal:
                # Over already: the read model has not caught up with the log yet.
                _log.debug("deadline refused", token=str(token), code=refusal.code)
        return elapsed

    def _due(self, now: datetime) -> list[UUID]:
        with self._database.pool(Role.READER).connection() as connection:
            return [token for (token,) in connection.execute(_DUE, (now, MAX_PER_TICK))]
