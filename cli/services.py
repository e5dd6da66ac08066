"""`village services`: which processes of the village answer on the bus, and where they run."""

import json
from typing import Annotated

import typer

from cli.errors import CommandFailed, told_plainly
from cli.parser import parser
from infrastructure.settings import Settings

app = parser()


@app.command()
def services(json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """What runs where: every process that answers on the bus within half a second."""
    from infrastructure.discovery import services as found
    from infrastructure.discovery import to_dicts

    with told_plainly():
        try:
            rows = to_dicts(found(_bus(Settings())))
        except ConnectionError as error:
            raise CommandFailed(str(error)) from error
    if json_output:
        typer.echo(json.dumps(rows))
        return
    for row in rows:
        where = f"{row['host']}, process {row['pid']}"
        typer.echo(f"{row['service']:<12} {row['version']}  {where}  since {row['started_at']}  {row['url']}".rstrip())
    if not rows:
        typer.echo("None.")


def _bus(settings: Settings) -> str:
    """The bus that is set, or that of the village which runs in this home."""
    if settings.nats_url is not None:
        return settings.nats_url.get_secret_value()
    try:
        return (settings.home / "nats.url").read_text().strip()
    except FileNotFoundError:
        raise CommandFailed(f"No bus runs in {settings.home}: start `village up`, or set VILLAGE_NATS_URL") from None
