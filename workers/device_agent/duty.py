"""How much of its time a device works: all of it, none while it pauses, and a part while it is warm."""

import time
from collections.abc import Callable

PERIOD_S = 2.0
_LOOK_S = 0.05

Duty = Callable[[], float]
"""The share of its time that a device may work right now, from 0 (it pauses) to 1."""


def on_duty(share: float, at_s: float) -> bool:
    """Whether a device that may work this share of its time works at this moment of a clock, in seconds."""
    return at_s % PERIOD_S < share * PERIOD_S


class Brake:
    """What a training asks before every batch: it waits while the device is off duty.

    Answers whether to stop, which is when the device pauses: others may wait for the thread that trains.
    """

    def __init__(
        self,
        duty: Duty,
        stopped: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], object] = time.sleep,
    ) -> None:
        self._duty, self._stopped, self._clock, self._wait = duty, stopped, clock, wait

    def __call__(self) -> bool:
        while not self._stopped() and (share := self._duty()) > 0:
            if on_duty(share, self._clock()):
                return False
            self._wait(_LOOK_S)
        return True
