"""Plugs the recorder into the library's Application by topic."""

from collections.abc import Callable
from typing import Any, NoReturn

from eventsourcing.persistence import (
    AggregateRecorder,
    ApplicationRecorder,
    InfrastructureFactory,
    ProcessRecorder,
    TrackingRecorder,
)

from domain.kernel.event_log import EventLog
from domain.kernel.personal import SubjectKeys
from domain.kernel.ports import Clock, system_clock
from infrastructure.database import Database

from .recorder import PostgresRecorder


class PostgresFactory(InfrastructureFactory[TrackingRecorder]):
    """Named by `PERSISTENCE_MODULE`. One recorder a process, whatever the library asks for."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.database = Database(self.env.get("LOG_URL") or "", application="event-log")
        self._recorder: PostgresRecorder | None = None

    def application_recorder(self) -> ApplicationRecorder:
        return self.process_recorder()

    def process_recorder(self) -> ProcessRecorder:
        if self._recorder is None:
            self._recorder = PostgresRecorder(self.database)
        return self._recorder

    def aggregate_recorder(self, purpose: str = "events") -> AggregateRecorder:
        return self.process_recorder()

    def tracking_recorder(self, tracking_recorder_class: Any = None) -> NoReturn:
        raise TypeError("cursors move with a command's own transaction, see CursorMove")

    def close(self) -> None:
        if self._recorder is not None:
            self._recorder.close()
        self.database.close()


def open_event_log(
    database_url: str,
    *,
    clock: Clock = system_clock,
    on_flush: Callable[[int, float], None] | None = None,
    subject_keys: SubjectKeys | None = None,
) -> EventLog:
    """The event log of one process on a migrated database. Close it to stop its writer thread.

    Args:
        clock: answers the present instant; `recorded_at` never runs behind it or behind an earlier fact.
        on_flush: told of every flush: how many commands it held, and how many seconds it waited for the lock.
        subject_keys: seal what is personal; without them such events are refused.
    """
    log = EventLog(
        {
            "PERSISTENCE_MODULE": "infrastructure.event_store.factory:PostgresFactory",
            "MAPPER_TOPIC": "domain.kernel.mapper:StrictMapper",
            "LOG_URL": database_url,
        }
    )
    recorder = log.recorder
    assert isinstance(recorder, PostgresRecorder)
    recorder.clock = clock
    recorder.on_flush = on_flush
    log.subject_keys = subject_keys
    return log
