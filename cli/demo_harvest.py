"""The part of the demo in which devices lend themselves: what happens to them, and what has to come of it."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

from cli.console import Console
from cli.demo_progress import Lent, Progress
from cli.device import Lending

SAMPLE_S, SEND_S = 1.0, 2.0
TRACE = "trace.csv"
ROWS = 1_200
EVENTFUL_ROWS = 5
_OWNERS = UUID("3d3f6f0a-64a0-5dd3-a7a5-5f2a7a0d1d5e")
_FULL, _UNPLUGGED_AT, _DROP = 95.0, 80.0, 0.5
_COOL, _HOT, _WARMING = 38.0, 57.0, 3.0


@dataclass(frozen=True)
class Lender:
    """A device that lends itself; `paused_by` is the kind of limit that will pause it, None for a healthy one."""

    name: str
    paused_by: str | None

    @property
    def owner_id(self) -> UUID:
        """Whose it is."""
        return uuid5(_OWNERS, self.name)

    def lay_out(self, folder: Path) -> Lending:
        """Write its trace; answers how it is lent: under the village's own policy, measuring faster than usual."""
        with (folder / TRACE).open("w", newline="") as file:
            rows = csv.DictWriter(file, ["power", "battery_percent", "battery_temp", "cpu_percent", "metered"])
            rows.writeheader()
            rows.writerows(self._rows())
        return Lending(sensors=TRACE, sample_s=SAMPLE_S, send_s=SEND_S)

    def _rows(self) -> Iterator[Mapping[str, Any]]:
        usual = {"power": "charging", "battery_percent": _FULL, "battery_temp": _COOL, "cpu_percent": 5.0}
        for row in range(ROWS):
            later = max(0, row - EVENTFUL_ROWS)
            found = {**usual, "metered": False}
            if self.paused_by == "not_charging" and later:
                found |= {"power": "discharging", "battery_percent": max(5.0, _UNPLUGGED_AT - _DROP * later)}
            elif self.paused_by == "too_hot":
                found["battery_temp"] = min(_HOT, _COOL + _WARMING * later)
            yield found


LENDERS = (Lender("healthy", None), Lender("unplugged", "not_charging"), Lender("heating up", "too_hot"))


@dataclass
class Harvest:
    """Watches the sessions; ends them when all that was to happen to them has happened."""

    console: Console
    pauses: dict[UUID, Lent] = field(default_factory=dict)
    _stopped: bool = False

    def watch(self, seen: Progress) -> None:
        """Remember every session as it was when it paused."""
        for lent in seen.lent:
            if lent.state == "paused":
                self.pauses.setdefault(lent.session_id, lent)

    def eventful(self, seen: Progress) -> bool:
        """Whether every device has come to what its trace is about."""
        return all(
            any(lent.verified_ms or lent.state == "running" for lent in _of(lender, seen))
            if lender.paused_by is None
            else any(lent.session_id in self.pauses for lent in _of(lender, seen))
            for lender in LENDERS
        )

    def stop(self, seen: Progress) -> None:
        """Ask every device to end its session, once. Raises VillageError."""
        if not self._stopped:
            self._stopped = True
            for lent in seen.lent:
                self.console.command(
                    "/v1/harvest/request_stop", {"session_id": str(lent.session_id), "reason": "demo_over"}
                )

    def over(self, seen: Progress) -> bool:
        """Whether every session is closed and rewarded."""
        return self._stopped and all(lent.state == "rewarded" for lent in seen.lent)


def lender_of(lent: Lent) -> Lender | None:
    """Which of the demo's devices a session is of."""
    return next((lender for lender in LENDERS if lender.owner_id == lent.owner_id), None)


def _of(lender: Lender, seen: Progress) -> Sequence[Lent]:
    return [lent for lent in seen.lent if lent.owner_id == lender.owner_id]
