"""Instants: aware UTC datetimes, the only kind an event may carry."""

from datetime import UTC, datetime
from typing import Annotated

import msgspec

Instant = Annotated[datetime, msgspec.Meta(tz=True)]
"""An aware datetime; a naive one is refused before it is recorded."""


def utc(year: int, month: int, day: int, hour: int = 0, minute: int = 0, second: int = 0) -> datetime:
    """An instant in UTC."""
    return datetime(year, month, day, hour, minute, second, tzinfo=UTC)


def milliseconds(start: datetime, end: datetime) -> int:
    """Whole milliseconds from start to end, rounded down, negative when end is earlier."""
    elapsed = end - start
    return (elapsed.days * 86_400_000_000 + elapsed.seconds * 1_000_000 + elapsed.microseconds) // 1_000
