"""`village demo`: a whole village on this machine trains a model across devices and pays for it."""

import json
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console as Screen

from cli.assembly import policy_of
from cli.console import Console, VillageError
from cli.demo_beside import scenes, token_of
from cli.demo_check import Found, Outcome, examine
from cli.demo_progress import DemoFailed, DemoStopped
from cli.demo_run import LAYERS, Agents, Plan, Run, running_agents
from cli.demo_view import open_view, print_outcome
from cli.device import configure_logging
from cli.errors import told_plainly
from cli.parser import parser
from cli.up import Supervisor, login_url, stop_on_signals
from infrastructure.settings import Settings

app = parser()

LOG_WIDTH = 120
SECONDS_PER_ROUND = 30.0
SECONDS_BESIDE_ROUNDS = 120.0


@dataclass(frozen=True)
class Wishes:
    """What the caller asked for."""

    plan: Plan
    keep: bool
    least_accuracy: float


@app.command()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the village running, and print a login link.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print only the summary, as one JSON object.")] = False,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Rounds of training.")] = 20,
    devices: Annotated[int, typer.Option(min=3, max=90, help="Devices that train.")] = 20,
    processes: Annotated[int, typer.Option(min=1, max=32, help="Agent processes that host them.")] = 4,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port of the API; 0 is a free one.")] = 0,
    home: Annotated[Path | None, typer.Option(help="Folder of the village; a temporary one by default.")] = None,
    training_only: Annotated[bool, typer.Option("--training-only", help="No lending and no market.")] = False,
    accuracy: Annotated[float, typer.Option(min=0, max=1, help="Least test accuracy for success.")] = 0.85,
) -> None:
    """Boot a village, enrol devices, train on the MNIST digits, pay for it, and check every grain and every row.

    Meanwhile three more devices lend themselves under a policy, and one owner buys a burst over two others.
    Exit code 0 says that all of it held.
    """
    place = home or Path(tempfile.gettempdir()) / f"village-demo-{secrets.token_hex(4)}"
    wishes = Wishes(Plan(devices, rounds, processes, beside=not training_only), keep, accuracy)
    configure_logging(json_output)
    screen = Screen(stderr=json_output, quiet=json_output, highlight=False)
    if not screen.is_terminal:
        screen = Screen(stderr=json_output, quiet=json_output, highlight=False, width=LOG_WIDTH)
    with told_plainly():
        outcome = _perform(_embedded(place, port, devices), wishes, screen, _json_line if json_output else _nothing)
    if outcome is None or not outcome.ok:
        typer.echo(f"The logs are in {place}", err=True)
        raise typer.Exit(1)
    if home is None:
        shutil.rmtree(place, ignore_errors=True)


def _embedded(home: Path, port: int, devices: int) -> Settings:
    """Settings of a village with its own servers. They go through the environment, which its processes inherit."""
    for name in ("DATABASE_URL", "NATS_URL", "BLOB_URL", "PUBLIC_URL"):
        os.environ[f"VILLAGE_{name}"] = ""
    os.environ["VILLAGE_HOME"] = str(home)
    os.environ["VILLAGE_API_PORT"] = str(port)
    os.environ["VILLAGE_MAX_PARTICIPANTS_PER_ROUND"] = str(max(devices, Settings().max_participants_per_round))
    return Settings()


def _perform(
    settings: Settings, wishes: Wishes, screen: Screen, tell: Callable[[Mapping[str, Any]], None]
) -> Outcome | None:
    """Run the village in this thread and the demo in another; answers None when the demo came to no outcome."""
    outcomes: list[Outcome] = []
    supervisor = Supervisor(settings)
    stop_on_signals(supervisor.stopping)

    def act() -> None:
        try:
            _act(supervisor, wishes, screen, outcomes, tell)
        except DemoStopped:
            screen.print("Stopped.")
        except (DemoFailed, VillageError) as error:
            screen.print(f"The demo failed: {error}", markup=False)
        finally:
            supervisor.stopping.set()

    screen.print("Starting Postgres, NATS, the API and the workers ...")
    try:
        supervisor.start()
        actor = threading.Thread(target=act, name="demo")
        actor.start()
        try:
            supervisor.run()
        finally:
            supervisor.stopping.set()
            actor.join()
    finally:
        supervisor.stop()
    return outcomes[0] if outcomes else None


def _act(
    supervisor: Supervisor,
    wishes: Wishes,
    screen: Screen,
    outcomes: list[Outcome],
    tell: Callable[[Mapping[str, Any]], None],
) -> None:
    with Console(supervisor.url, token_of(supervisor.settings, "operator", "demo")) as console:
        run = Run(console, wishes.plan, supervisor.stopping)
        hosts = run.claim_devices(supervisor.settings.home / "devices")
        with running_agents(hosts, supervisor.url) as agents:
            outcomes.append(_train(run, agents, supervisor, wishes, screen))
            page = login_url(supervisor) if wishes.keep else None
            tell({**outcomes[0].summary(), **({"login_url": page} if page else {})})
            if page:
                screen.print(f"The village stays up. Its page: {page}\n(the link works once, within 15 minutes)")
                home = supervisor.settings.home
                screen.print(f"Other commands reach it with VILLAGE_HOME={home}. Stop it with Ctrl-C.", soft_wrap=True)
                supervisor.stopping.wait()


def _train(run: Run, agents: Agents, supervisor: Supervisor, wishes: Wishes, screen: Screen) -> Outcome:
    plan, started = wishes.plan, time.monotonic()
    with open_view(screen, plan) as view:
        view.step(f"The village is up at {supervisor.url}; enrolling {plan.everyone} devices ...")
        run.wait_online(agents)
        layers = "-".join(map(str, LAYERS))
        view.step(f"All of them are online, in {len(agents)} processes; training {layers} for {plan.rounds} rounds ...")
        limit_s = SECONDS_BESIDE_ROUNDS + plan.rounds * SECONDS_PER_ROUND
        session_id = run.start_training()
        playing = scenes(run, agents, supervisor.settings, supervisor.url) if plan.beside else nullcontext()
        with playing as beside:
            last = run.follow(session_id, agents, view.progress, limit_s, beside)
        done = "Trained, lent, traded" if plan.beside else "Trained"
        view.step(f"{done} and paid; replaying the log to compare every read model ...")
    found = Found(last, beside.harvest.pauses if beside else {}, policy_of(supervisor.settings))
    outcome = examine(run, found, supervisor.database_url, wishes.least_accuracy, time.monotonic() - started)
    print_outcome(screen, outcome)
    return outcome


def _json_line(summary: Mapping[str, Any]) -> None:
    with suppress(BrokenPipeError):
        typer.echo(json.dumps(summary))


def _nothing(summary: Mapping[str, Any]) -> None:
    return None
