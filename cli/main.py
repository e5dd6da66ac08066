"""The command `village`. What needs much is imported when it is used, so that every call starts fast."""

import importlib
import json
import os
from collections.abc import Mapping
from typing import Annotated

import typer

from cli import archive, config, db
from cli.errors import told_plainly

app = typer.Typer(
    name="village",
    help="AI Village: devices train models together and get paid for it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(config.app, name="config")
db.app.command("archive")(archive.archive_command)
app.add_typer(db.app, name="db")

# The rest of the line belongs to a part with a parser of its own, in cli/<name>.py.
PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False}
PARTS = {
    "demo": "Train a real model across devices on this machine, and pay for it.",
    "device": "Run a volunteer device.",
    "devices": "Decide over the devices of the village.",
    "token": "Give people and programs access.",
    "tokens": "See what wallets have, now and at any time.",
    "audit": "Check the log and what follows from it.",
    "projections": "See and operate the read models.",
    "sagas": "See and operate the sagas.",
    "market": "Check the market.",
    "services": "See what runs where.",
    "incidents": "See and deal with what is wrong.",
    "subjects": "Erase people.",
    "bus": "See the bus.",
    "as-of": "See a read model as it was at a position or a time.",
    "stream": "See an aggregate, as it is or as it was.",
}

Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
Contexts = Annotated[
    str | None,
    typer.Option(help="The part of the village to run, by commas; all of it by default (VILLAGE_CONTEXTS)."),
]
Supervised = Annotated[bool, typer.Option("--supervised", hidden=True)]


@app.command()
def up(json_output: Json = False, contexts: Contexts = None) -> None:
    """Run a whole village on this machine until it is stopped (Ctrl-C)."""
    from cli.up import log_to_stderr
    from cli.up import up as run_village
    from infrastructure.settings import Settings

    def tell(what: str, facts: Mapping[str, str]) -> None:
        if json_output:
            typer.echo(json.dumps({"event": what, **facts}))
        elif what == "ready":
            typer.echo(f"The village is up at {facts['url']}")
            typer.echo(f"Log in (once, within 15 minutes): {facts['login_url']}")
            typer.echo("Stop it with Ctrl-C.")
        else:
            typer.echo("The village has stopped.")

    log_to_stderr(as_json=json_output)
    with told_plainly():
        _choose(contexts)
        config.tell_warnings()
        run_village(Settings(), tell)


@app.command()
def api(contexts: Contexts = None, supervised: Supervised = False) -> None:
    """Run only the API, on servers that run already (VILLAGE_DATABASE_URL)."""
    from cli.processes import run_api

    with told_plainly():
        _choose(contexts)
        run_api(supervised=supervised)


@app.command()
def worker(
    name: Annotated[str, typer.Argument(help="projector, saga-runner, aggregator or clock")],
    contexts: Contexts = None,
    supervised: Supervised = False,
) -> None:
    """Run only one worker, on servers that run already (VILLAGE_DATABASE_URL)."""
    from cli.processes import run_worker

    with told_plainly():
        _choose(contexts)
        run_worker(name, supervised=supervised)


def _choose(contexts: str | None) -> None:
    """As if it had been set in the environment."""
    if contexts is not None:
        os.environ["VILLAGE_CONTEXTS"] = contexts


def _pass_on(ctx: typer.Context) -> None:
    part = importlib.import_module(f"cli.{str(ctx.info_name).replace('-', '_')}")
    part.app(ctx.args, prog_name=f"village {ctx.info_name}")


for _name, _what in PARTS.items():
    app.command(_name, help=_what, context_settings=PASSED_ON, add_help_option=False)(_pass_on)


if __name__ == "__main__":
    app()
