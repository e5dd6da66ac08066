"""`village bus`: how far the relay is, and what consumers could not handle."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from cli.errors import CommandFailed, told_plainly
from cli.parser import parser
from cli.parts import require_database
from infrastructure.settings import Settings

app = parser("See the bus.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
MAX_LETTERS = 1_000

_LETTERS = """
SELECT consumer, message_id, subject, deliveries, reason, created_at FROM engine.bus_dead_letters
WHERE resolved_at IS NULL ORDER BY created_at LIMIT %s
"""


@app.command()
def status(json_output: Json = False) -> None:
    """How far the relay from the log to the bus is. Exit code 1 while it fails, or before it has ever run."""
    from infrastructure.bus_status import dead_letters, relay_status

    with told_plainly():
        with _connected() as connection:
            relay, letters = relay_status(connection), dead_letters(connection)
        if relay is None:
            raise CommandFailed("The relay has never run: does `village worker clock`, with VILLAGE_NATS_URL set?")
    if json_output:
        typer.echo(json.dumps({**asdict(relay), "dead_letters": letters}, default=str))
    else:
        late = "" if relay.lag_s is None else f", the oldest for {relay.lag_s:.0f} s"
        typer.echo(f"Published up to position {relay.position}; {relay.lag_events} facts wait{late}.")
        if relay.failing:
            typer.echo(f"It fails: {relay.error}")
        for consumer, number in letters.items():
            typer.echo(f"{consumer} could not handle {number}: see `village bus letters`.")
    if relay.failing:
        raise typer.Exit(1)


@app.command("letters")
def letters_command(json_output: Json = False) -> None:
    """Messages that a consumer could not handle in any delivery, the oldest first, at most 1,000."""
    columns = ("consumer", "message_id", "subject", "deliveries", "reason", "created_at")
    with told_plainly(), _connected() as connection:
        rows = [dict(zip(columns, row, strict=True)) for row in connection.execute(_LETTERS, (MAX_LETTERS,))]
    if json_output:
        typer.echo(json.dumps(rows, default=str))
        return
    if not rows:
        typer.echo("None.")
        return
    table = Table(title="Dead letters of the bus", title_justify="left")
    for column in columns[:5]:
        table.add_column(column.replace("_", " "), justify="right" if column == "deliveries" else "left")
    for row in rows:
        table.add_row(*(str(row[column]) for column in columns[:5]))
    Console().print(table)


@contextmanager
def _connected() -> Iterator[Any]:
    from infrastructure.database import Database, Role

    settings = require_database(Settings())
    assert settings.database_url is not None
    database = Database(settings.database_url.get_secret_value(), pool_size=1, application="village-bus")
    with database.connect(Role.READER) as connection:
        yield connection
