"""Puts the parts together: which service, store and port each process of a village gets. Nothing else decides that."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import psycopg
from pydantic import SecretStr

from cli import contexts
from cli.errors import CommandFailed
from infrastructure.archive import archive_store, read_archive_at
from infrastructure.settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI

    from domain.kernel import EventLog
    from domain.sagas.village import Village
    from infrastructure.blobs import BlobStore
    from infrastructure.database import Database
    from infrastructure.subject_keys import SubjectKeyTable

# A part of a worker: runs until the event is set.
Runner = Callable[[threading.Event], None]


def running_database_url(settings: Settings) -> str | None:
    """The database that is set, or else that of a village which runs in this home; None when there is none."""
    if settings.database_url is not None:
        return settings.database_url.get_secret_value()
    try:
        url = (settings.home / "database.url").read_text().strip()
        psycopg.connect(url, connect_timeout=3).close()
    except (FileNotFoundError, psycopg.OperationalError):
        return None
    return url


def require_database(settings: Settings) -> Settings:
    """The settings with the database to use, whose archive is found from here on.

    Raises:
        CommandFailed: none is set and none runs here.
    """
    url = running_database_url(settings)
    if url is None:
        raise CommandFailed(
            f"No village runs in {settings.home}: start one with `village up`, or set VILLAGE_DATABASE_URL"
        )
    read_archive_at(lambda: archive_store(settings.blob_url, settings.home))
    return settings.model_copy(update={"database_url": SecretStr(url)})


@dataclass(frozen=True)
class Parts:
    """What every process of a village shares."""

    settings: Settings
    database: "Database"
    log: "EventLog"
    village: "Village"
    blobs: "BlobStore"
    subject_keys: "SubjectKeyTable"


@contextmanager
def parts(settings: Settings, name: str) -> Iterator[Parts]:
    """The services on their log and stores, closed at the end. `name` shows in the database's session list."""
    import domain.topics  # noqa: F401  (every stored topic must resolve)
    from cli.assembly import assemble
    from infrastructure.blobs import BlobStore
    from infrastructure.database import Database
    from infrastructure.event_store import open_event_log
    from infrastructure.metrics import flushed
    from infrastructure.subject_keys import KeyEncryptionKeys, SubjectKeyTable

    assert settings.database_url is not None, "require_database comes first"
    url = settings.database_url.get_secret_value()
    with ExitStack() as ends:
        database = ends.enter_context(Database(url, pool_size=settings.pool_size, application=f"village-{name}"))
        subject_keys = SubjectKeyTable(database, KeyEncryptionKeys(settings.home))
        log = open_event_log(url, on_flush=flushed, subject_keys=subject_keys)
        ends.callback(log.close)
        blobs = BlobStore.open(settings.blob_url, home=settings.home)
        village = assemble(settings, database, log, blobs)
        yield Parts(settings, database, log, village, blobs, subject_keys)


@contextmanager
def api_app(settings: Settings) -> "Iterator[FastAPI]":
    """The API of the contexts that run here."""
    import api.audit
    import api.blobs
    from api.app import ApiContext, create_app
    from cli.edge_ports import EnrolledDevices
    from infrastructure.keys import load_keys
    from infrastructure.sealing_keys import load_sealing_keys

    with parts(settings, "api") as made:
        ctx = ApiContext(
            village=made.village,
            database=made.database,
            blobs=made.blobs,
            keys=load_keys(settings.home),
            settings=settings,
            devices=EnrolledDevices(made.log),
            verifiers=lambda: load_sealing_keys(settings.home, settings.log_origin).verifiers,
            subject_keys=made.subject_keys,
            elsewhere=contexts.elsewhere(settings),
        )
        served, ctx.left_out = contexts.modules("api", contexts.running(settings))
        yield create_app(ctx, [api.audit, api.blobs, *served])


@contextmanager
def _projector(settings: Settings) -> Iterator[Sequence[Runner]]:
    import domain.topics  # noqa: F401
    from infrastructure.database import Database
    from workers.projector import Projector

    assert settings.database_url is not None
    url = settings.database_url.get_secret_value()
    with Database(url, pool_size=settings.pool_size, application="village-projector") as database:
        yield [Projector(database, contexts.read_models(settings)).run]


@contextmanager
def _saga_runner(settings: Settings) -> Iterator[Sequence[Runner]]:
    from domain.sagas.coordinate_training import CoordinateTraining
    from domain.sagas.reward_training import RewardTraining
    from workers.saga_runner import Handler, SagaRunner

    with parts(settings, "saga-runner") as made:
        every: list[Handler] = [CoordinateTraining, RewardTraining, *made.village.sagas.plans]
        yield [SagaRunner(made.log, made.database, contexts.sagas(settings, every), made.village).run]


@contextmanager
def _aggregator(settings: Settings) -> Iterator[Sequence[Runner]]:
    from workers.aggregator.worker import Aggregator

    with parts(settings, "aggregator") as made:
        yield [Aggregator(made.log, made.database, made.village.federated_learning, made.blobs).run]


@contextmanager
def _clock(settings: Settings) -> Iterator[Sequence[Runner]]:
    from infrastructure.sealing_keys import load_sealing_keys
    from workers.log_sealer import LogSealer

    with parts(settings, "clock") as made, _bus_relay(made) as relay:
        sealer = LogSealer(made.database, lambda: load_sealing_keys(settings.home, settings.log_origin))
        yield [*contexts.clocks(made), sealer.run, *relay]


@contextmanager
def _bus_relay(made: Parts) -> Iterator[Sequence[Runner]]:
    """The way from the log to the bus; nothing where no bus is given."""
    from infrastructure.bus import Bus
    from infrastructure.bus_letters import DeadLetterRouter
    from workers.bus_relay import BusRelay

    url, settings = made.settings.nats_url, made.settings
    if url is None:
        yield []
        return
    with Bus(url.get_secret_value(), settings.event_stream_name, name="village-relay") as bus:
        relay = BusRelay(made.database, bus, made.blobs, origin=settings.log_origin)
        yield [relay.run, DeadLetterRouter(bus, made.database).run]


WORKERS: Final[Mapping[str, Callable[[Settings], AbstractContextManager[Sequence[Runner]]]]] = {
    "projector": _projector,
    "saga-runner": _saga_runner,
    "aggregator": _aggregator,
    "clock": _clock,
}
