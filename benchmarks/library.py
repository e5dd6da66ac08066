"""The peer: the plain `eventsourcing` library, its default mapper and its own Postgres recorder, on the same server."""

from uuid import UUID

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from psycopg.conninfo import conninfo_to_dict


class Meter(Aggregate):
    """The same meter as `benchmarks.meter.Meter`, the library's own way."""

    def __init__(self) -> None:
        self.stands_at = 0

    @event("Advanced")
    def advance(self, by: int) -> None:
        self.stands_at += by


class Meters(Application[UUID]):
    """The library's application: loads, lets the aggregate decide, saves."""

    def install(self) -> UUID:
        meter = Meter()
        self.save(meter)
        return meter.id

    def advance(self, meter_id: UUID) -> None:
        meter: Meter = self.repository.get(meter_id)
        meter.advance(1)
        self.save(meter)


def environment(url: str, **more: str) -> dict[str, str]:
    """What makes the library's applications use the database at `url`."""
    at = conninfo_to_dict(url)
    return {
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "POSTGRES_DBNAME": str(at["dbname"]),
        "POSTGRES_HOST": str(at["host"]),
        "POSTGRES_PORT": str(at.get("port") or 5432),
        "POSTGRES_USER": str(at["user"]),
        "POSTGRES_PASSWORD": str(at.get("password") or "none"),
        **more,
    }


def advanced(times: int) -> Meter:
    """A new meter with so many events not yet saved, besides its first."""
    meter = Meter()
    for _ in range(times):
        meter.advance(1)
    return meter
