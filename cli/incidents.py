"""`village incidents`: what is wrong by which rule, and an operator's word on it."""

import json
from typing import Annotated, Any
from uuid import UUID

import typer

from cli.errors import CommandFailed, told_plainly
from cli.parser import Reason, parser
from cli.parts import require_database
from infrastructure.settings import Settings

app = parser("See and deal with what is wrong.")

MAX_LISTED = 1_000
_COLUMNS = ("incident_id", "rule", "subject", "number", "severity", "state", "summary", "value", "opened_at")
_LIST = (
    f"SELECT {', '.join(_COLUMNS)} FROM read.incidents"
    " WHERE (%s::text IS NULL AND state <> 'resolved') OR state = %s::text OR %s::text = 'all'"
    " ORDER BY position DESC LIMIT %s"
)


@app.command("list")
def list_command(
    state: Annotated[str | None, typer.Option(help="opened, acknowledged, resolved or all; else what stands.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=MAX_LISTED)] = 50,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """The newest incidents; without --state those that are not resolved."""
    from infrastructure.database import Database, Role

    with told_plainly():
        settings = require_database(Settings())
        assert settings.database_url is not None
        database = Database(settings.database_url.get_secret_value(), pool_size=1, application="village-incidents")
        with database.connect(Role.READER) as connection:
            rows = connection.execute(_LIST.encode(), (state, state, state, limit)).fetchall()
    if json_output:
        typer.echo(json.dumps([dict(zip(_COLUMNS, row, strict=True)) for row in rows], default=str))
        return
    for incident_id, rule, subject, number, severity, at, summary, value, opened_at in rows:
        what = f"{rule} of {subject} (no. {number}, {severity}): {summary}, measured {value:g}"
        typer.echo(f"{incident_id}  {opened_at:%Y-%m-%d %H:%M:%S}  {at}  {what}")
    if not rows:
        typer.echo("None.")


@app.command()
def ack(incident_id: UUID, note: Annotated[str, typer.Option("--note", help="Who does what; recorded.")]) -> None:
    """Say that somebody looks after it."""
    _do("acknowledge_incident", incident_id=incident_id, note=note)


@app.command()
def resolve(incident_id: UUID, reason: Reason) -> None:
    """Say that it is over; while its cause stands, its rule opens the next one."""
    _do("resolve_incident", incident_id=incident_id, reason=reason)


def _do(command: str, **arguments: Any) -> None:
    import getpass

    from cli.parts import parts
    from domain.kernel import Refusal, new_scope, within

    with told_plainly(), parts(require_database(Settings()), "incidents") as made:
        try:
            with within(new_scope(f"operator:{getpass.getuser()}")):
                receipt = getattr(made.village.monitoring, command)(**arguments)
        except Refusal as refusal:
            raise CommandFailed(f"{refusal.code}: {refusal}") from refusal
        typer.echo(f"Recorded at position {receipt.position}.")
