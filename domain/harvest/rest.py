"""Rest: when the policy of a session forbade its device to work."""

from collections.abc import Iterable
from datetime import datetime

from domain.kernel import Fact

from .session import HarvestSession
from .states import (
    BATTERY_LOW,
    CPU_BUSY,
    IN_USE,
    METERED,
    NOT_CHARGING,
    OFF_SCHEDULE,
    PAUSED,
    SENSOR_UNKNOWN,
    TOO_HOT,
)

SAFETY = frozenset(
    {TOO_HOT, BATTERY_LOW, NOT_CHARGING, CPU_BUSY, IN_USE, OFF_SCHEDULE, METERED, SENSOR_UNKNOWN}
)  # fmt: skip
"""What a policy rests for. A device that fell silent does not rest: nobody knows what it does."""


def rests(facts: Iterable[Fact], until: datetime) -> list[tuple[datetime, datetime]]:
    """The stretches of rest in the facts of a device's sessions, in order; what goes on ends at `until`."""
    found: list[tuple[datetime, datetime]] = []
    since: datetime | None = None
    for fact in facts:
        match fact.event:
            case HarvestSession.SafetyTripped(to=to, kind=kind, at=at):
                ends, begins = at, at if to == PAUSED and kind in SAFETY else None
            case HarvestSession.SafetyCleared(at=at) | HarvestSession.SessionClosed(closed_at=at):
                ends, begins = at, None
            case HarvestSession.StopRequested():
                ends, begins = fact.recorded_at, None
            case _:
                continue
        if since is not None and since < ends:
            found.append((since, ends))
        since = begins
    if since is not None and since < until:
        found.append((since, until))
    return found
