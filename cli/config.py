"""`village config`: what this village is set to, and whether that can work."""

import json
from typing import Annotated

import typer

from cli.contexts import chosen
from cli.errors import told_plainly
from cli.parser import parser
from infrastructure.settings import NOT_YET, PREFIX, UNUSED, Settings, shown, warnings

app = parser("Show or check the settings (VILLAGE_* variables).")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def show(json_output: Json = False) -> None:
    """Every setting with its value; secrets show only whether they are set."""
    with told_plainly():
        settings = Settings()
        values = shown(settings) | {"contexts": chosen(settings)}
    if json_output:
        typer.echo(json.dumps({"settings": values, "warnings": warnings()}, default=list))
        return
    for name, value in values.items():
        text = "" if value is None else ",".join(value) if isinstance(value, tuple) else str(value)
        unread = name in UNUSED or name in NOT_YET
        source = "unused" if unread else "set" if name in settings.model_fields_set else "default"
        typer.echo(f"{PREFIX + name.upper():<38} {source:<8} {text}")
    tell_warnings()


@app.command()
def check(json_output: Json = False) -> None:
    """Whether the settings are valid; exit code 1 if not. Variables without effect are named."""
    with told_plainly():
        chosen(Settings())
    if json_output:
        typer.echo(json.dumps({"ok": True, "warnings": warnings()}))
        return
    tell_warnings()
    typer.echo("The settings are valid.")


def tell_warnings() -> None:
    """Names the variables that have no effect, on stderr."""
    for warning in warnings():
        typer.echo(f"warning: {warning}", err=True)
