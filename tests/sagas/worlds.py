"""What a stage stands on: a log, and a clock that moves only when told."""

from datetime import UTC, datetime
from typing import Protocol

from domain.kernel import EventLog
from infrastructure.database import Database

START = datetime(2026, 1, 1, tzinfo=UTC)


class World(Protocol):
    """What a stage stands on: a log, and the instant its clock shows."""

    now: datetime
    log: EventLog


class StoredWorld(World, Protocol):
    """Its log is in a database."""

    database: Database


class Projects(Protocol):
    """What folds read models."""

    def run_once(self) -> object: ...

    def close(self) -> None: ...
