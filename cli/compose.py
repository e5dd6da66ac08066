"""Puts the parts together: which service, store and port each process of a village gets. Nothing else decides that."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Final

from cli import contexts
from cli.parts import Parts, Runner, parts
from infrastructure.settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI


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
