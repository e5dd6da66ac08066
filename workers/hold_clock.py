"""The hold clock: a hold whose instant has come ends by it, though nobody asks for its funds."""

import threading
from collections.abc import Callable
from datetime import datetime
from uuid import UUID

import structlog

from domain.kernel import Refusal, new_scope, within
from domain.kernel.ports import Clock, system_clock
from domain.tokenomics.payments import Payments
from workers.ticking import tick_until

POLL_S = 0.5
MAX_PER_TICK = 500
_log = structlog.get_logger()

DueHolds = Callable[[datetime, int], list[tuple[UUID, UUID]]]


class HoldClock:
    """Expires what `due` names, as (owner, hold). Two clocks do no harm: a hold ends exactly once."""

    def __init__(self, payments: Payments, due: DueHolds, clock: Clock = system_clock) -> None:
        self._payments = payments
        self._due = due
        self._clock = clock

    def run(self, stopping: threading.Event) -> None:
        """Tick until told to stop."""
        tick_until(stopping, POLL_S, self.tick, "hold clock")

    def tick(self) -> int:
        """Expire everything that is due, at most 500; answers how many holds it ended."""
        now = self._clock()
        ended = 0
        for owner_id, hold_id in self._due(now, MAX_PER_TICK):
            try:
                with within(new_scope("system:clock", now=now)):
                    self._payments.expire_hold(owner_id=owner_id, hold_id=hold_id)
                ended += 1
            except Refusal as refusal:
                # Ended already, and the read model has not caught up; or the log is busy and the next tick tries again.
                _log.debug("hold not expired", hold=str(hold_id), code=refusal.code)
        return ended
