"""One process of a village: the API or a worker, run until it is asked to stop."""

import gc
import os
import signal
import threading
from collections.abc import Sequence
from typing import Final

import structlog

from cli import contexts
from cli.children import end_with_supervisor
from cli.compose import WORKERS, api_app
from cli.errors import CommandFailed
from cli.parts import Runner, require_database
from infrastructure.embedded.place import write_private
from infrastructure.settings import Settings

VERSION: Final = "0.1.0"

log = structlog.get_logger("village")


def bus_of(settings: Settings) -> str | None:
    """Where this process is to be found."""
    return None if settings.nats_url is None else settings.nats_url.get_secret_value()


def run_worker(name: str, *, supervised: bool) -> None:
    """Runs a worker by name; raises CommandFailed when there is none, or when it ended without being asked to."""
    from api.edge.logs import configure
    from infrastructure import traces
    from infrastructure.discovery import registered
    from infrastructure.metrics import served

    compose = WORKERS.get(name)
    if compose is None:
        raise CommandFailed(f"There is no worker {name!r}: {', '.join(WORKERS)}")
    given = Settings()
    if name not in contexts.workers(given, WORKERS):
        raise CommandFailed(f"The worker {name} belongs to none of the contexts {', '.join(contexts.chosen(given))}")
    settings = require_database(given)
    configure(settings.log_level)
    traces.configure(settings.otlp_url, name)
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    if supervised:
        end_with_supervisor(stopping)
    with (
        compose(settings) as runners,
        served(settings.home, name, metrics_port(settings, name)) as address,
        registered(bus_of(settings), name, VERSION, address),
    ):
        log.info("started", worker=name, pid=os.getpid())
        run_all(runners, stopping)


def metrics_port(settings: Settings, name: str) -> int:
    """Where a worker shows its metrics: each has a port of its own; 0 is a free one."""
    return settings.metrics_port and settings.metrics_port + list(WORKERS).index(name)


def run_all(runners: Sequence[Runner], stopping: threading.Event) -> None:
    """Runs each in a thread of its own. One that ends early ends all: half a worker is worse than a restart."""
    failures: list[BaseException] = []

    def run(runner: Runner) -> None:
        try:
            runner(stopping)
        except BaseException as error:
            failures.append(error)
        finally:
            stopping.set()

    threads = [threading.Thread(target=run, args=[runner], name=f"runner {n}") for n, runner in enumerate(runners)]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():  # in slices, so that a signal is handled meanwhile
            thread.join(0.5)
    if failures:
        raise failures[0]


def run_api(*, supervised: bool) -> None:
    """Runs the API until a signal; its address is written to home/api.url once it listens."""
    from api.edge.logs import configure
    from api.server import listen, server
    from infrastructure import traces
    from infrastructure.discovery import registered
    from infrastructure.metrics import announced

    given = Settings()
    contexts.chosen(given)
    settings = require_database(given)
    configure(settings.log_level)
    traces.configure(settings.otlp_url, "api")
    with api_app(settings) as app:
        try:
            listening, url = listen(settings.api_host, settings.api_port)
        except OSError as error:
            raise CommandFailed(f"{settings.api_host}:{settings.api_port}: {error.strerror}") from error
        settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(settings.home / "api.url", f"{url}\n", None)
        if supervised:
            end_with_supervisor(threading.Event())
        serving = server(app)
        for number in (signal.SIGINT, signal.SIGTERM):
            # uvicorn raises the signal once more when it has shut down, and the log is still to be closed then.
            signal.signal(number, lambda *_: setattr(serving, "should_exit", True))
        with (
            announced(settings.home, "api", url.removeprefix("http://")),
            registered(bus_of(settings), "api", VERSION, url),
        ):
            log.info("listening", url=url, pid=os.getpid())
            gc.collect()
            gc.freeze()  # to look through what lives as long as the process would hold requests up
            serving.run(sockets=[listening])
