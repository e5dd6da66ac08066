"""`village sagas`: how the sagas stand, the timeline of one, and a decision over one that is parked."""

import getpass
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
import typer

from cli.errors import CommandFailed, told_plainly
from cli.parser import Reason, parser
from cli.parts import require_database
from infrastructure.settings import Settings

app = parser("See and operate the sagas.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Action = Literal["retry", "compensate", "skip", "abandon"]
State = Literal["running", "compensating", "completed", "compensated", "parked"]
MAX_LISTED = 1_000

_LIST = (
    "SELECT saga_id, kind, state, step, reason, steps, started_at, updated_at FROM read.sagas"
    " WHERE %s::text IS NULL OR state = %s ORDER BY position DESC LIMIT %s"
)
_NEXT = (
    "SELECT d.kind, due_at FROM read.deadlines d JOIN read.sagas s USING (saga_id) WHERE saga_id = %s AND NOT elapsed"
    " AND s.state NOT IN ('completed', 'compensated') ORDER BY due_at LIMIT 10"
)


@app.command("list")
def list_command(
    state: Annotated[State | None, typer.Option(help="Only those that stand so.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=MAX_LISTED)] = 50,
    json_output: Json = False,
) -> None:
    """The newest sagas, and where each stands."""
    with told_plainly(), _connection() as connection:
        rows = connection.execute(_LIST, (state, state, limit)).fetchall()
    columns = ("saga_id", "kind", "state", "step", "reason", "steps", "started_at", "updated_at")
    if json_output:
        typer.echo(json.dumps([dict(zip(columns, map(str, row), strict=True)) for row in rows]))
        return
    for saga_id, kind, at, step, reason, _, _, updated_at in rows:
        why = f" ({reason})" if reason else ""
        typer.echo(f"{saga_id}  {updated_at:%Y-%m-%d %H:%M:%S}  {kind}: {at}, newest step {step}{why}")
    if not rows:
        typer.echo("None.")


@app.command()
def show(saga_id: UUID, json_output: Json = False) -> None:
    """The timeline of a saga: each of its steps, and its deadlines to come."""
    from infrastructure.event_store import LogReader

    with told_plainly(), _connection() as connection:
        records = LogReader(connection).of_streams([saga_id])
        waiting = connection.execute(_NEXT, (saga_id,)).fetchall()
        if not records:
            raise CommandFailed(f"There is no saga {saga_id}")
    steps = [
        {
            "position": record.position,
            "recorded_at": record.recorded_at.isoformat(),
            "step": record.topic.rpartition(".")[2],
            "actor": record.actor,
            "facts": msgspec.json.decode(record.state),
        }
        for record in records
    ]
    due = [{"kind": kind, "due_at": due_at.isoformat()} for kind, due_at in waiting]
    if json_output:
        typer.echo(json.dumps({"saga_id": str(saga_id), "steps": steps, "waits_for": due}))
        return
    for step in steps:
        typer.echo(f"{step['position']:>8}  {step['recorded_at']}  {step['step']}  by {step['actor']}")
        for name, value in step["facts"].items():
            typer.echo(f"          {name}: {json.dumps(value)}")
    for one in due:
        typer.echo(f"has a deadline at {one['due_at']} ({one['kind']})")


@app.command()
def resolve(
    process_id: UUID,
    action: Annotated[Action, typer.Argument(help="retry, compensate, skip (what cannot be taken back) or abandon.")],
    reason: Reason,
) -> None:
    """Decide over a process that is parked."""
    from cli.parts import parts
    from domain.kernel import Refusal, new_scope, within

    with told_plainly(), parts(require_database(Settings()), "sagas") as made:
        try:
            with within(new_scope(f"operator:{getpass.getuser()}")):
                receipt = made.village.sagas.resolve_process(process_id=process_id, action=action, reason=reason)
        except Refusal as refusal:
            raise CommandFailed(f"{refusal.code}: {refusal}") from refusal
        typer.echo(f"Recorded at position {receipt.position}.")


@contextmanager
def _connection() -> Iterator[Any]:
    from infrastructure.database import Database, Role

    settings = require_database(Settings())
    assert settings.database_url is not None
    database = Database(settings.database_url.get_secret_value(), pool_size=1, application="village-sagas")
    with database.connect(Role.READER) as connection:
        yield connection
