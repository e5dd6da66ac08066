"""The remeasurement clock: asks the devices that the day's seed chooses, and ends what nobody answered."""

import threading
from collections.abc import Callable
from uuid import UUID

import structlog

from domain.device_registry.service import DeviceRegistryService
from domain.kernel import Receipt, Refusal, new_scope, within
from domain.kernel.ports import Clock, system_clock
from projections.device_remeasurement import Remeasurements
from workers.ticking import tick_until

POLL_S = 60.0
MAX_PER_TICK = 200
_log = structlog.get_logger()


class RemeasurementClock:
    """Two clocks do no harm: a seed asks a device once, and a device misses once."""

    def __init__(self, registry: DeviceRegistryService, due: Remeasurements, clock: Clock = system_clock) -> None:
        self._registry = registry
        self._due = due
        self._clock = clock

    def run(self, stopping: threading.Event) -> None:
        """Tick until told to stop."""
        tick_until(stopping, POLL_S, self.tick, "remeasurement clock")

    def tick(self) -> int:
        """End and ask, at most 200 each; answers how many devices that changed."""
        now = self._clock()
        missed = self._each(
            self._due.over(now, MAX_PER_TICK), lambda one: self._registry.miss_remeasurement(device_id=one)
        )
        seed = self._due.seed(now)
        if seed is None:
            return missed
        chosen = self._due.chosen(seed, MAX_PER_TICK)
        return missed + self._each(chosen, lambda one: self._registry.ask_remeasurement(device_id=one, seed=seed))

    def _each(self, device_ids: list[UUID], command: Callable[[UUID], Receipt]) -> int:
        changed = 0
        for device_id in device_ids:
            try:
                with within(new_scope("system:clock", now=self._clock())):
                    command(device_id)
                changed += 1
            except Refusal as refusal:
                # The read model has not caught up; or the log is busy and the next tick tries again.
                _log.debug("not measured again", device_id=str(device_id), code=refusal.code)
        return changed
