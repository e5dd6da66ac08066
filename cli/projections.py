"""`village projections`: how far the read models are, and the operator's hand on them."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from cli.errors import CommandFailed, told_plainly
from cli.parser import Reason, parser
from cli.parts import require_database
from infrastructure.settings import Settings

app = parser("See and operate the read models.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Name = Annotated[str, typer.Argument(help="Name of a read model (see `list`).")]
Wait = Annotated[bool, typer.Option(help="Show progress until it is done.")]

MAX_WAIT_S = 24 * 3_600
START_WITHIN_S = 30
POLL_S = 0.25

_STATES = """
SELECT c.name, c.partition, c.position, c.version, CASE WHEN c.leased_until > clock_timestamp() THEN c.owner END,
       (SELECT count(*) FROM engine.dead_letters d WHERE d.cursor = c.name AND d.poison) AS letters,
       coalesce((SELECT paused FROM read.projection_controls p WHERE p.projection = c.name), false) AS paused
FROM engine.cursors c WHERE c.name = ANY(%s) OR c.name LIKE 'rebuild:%%' ORDER BY c.name, c.partition
"""
_REBUILD = (
    "SELECT position, coalesce((SELECT paused FROM read.projection_controls WHERE projection = %s), false)"
    " FROM engine.cursors WHERE name = %s"
)
_LETTERS = "SELECT cursor, key, position, error FROM engine.dead_letters WHERE poison AND cursor = %s ORDER BY position"


@app.command("list")
def list_command(json_output: Json = False) -> None:
    """Every read model: position, lag, who folds it, what is wrong with it."""
    with told_plainly(), _connected() as (connection, names):
        head = _head(connection)
        columns = ("name", "partition", "position", "version", "worker", "dead_letters", "paused")
        rows = [dict(zip(columns, row, strict=True)) for row in connection.execute(_STATES, (names,))]
    for row in rows:
        row["lag"] = head - row["position"]
    if json_output:
        typer.echo(json.dumps({"head": head, "projections": rows}))
        return
    table = Table(title=f"Read models, the log is at {head}", title_justify="left")
    for column in ("name", "partition", "position", "lag", "dead letters", "state"):
        table.add_column(column, justify="left" if column in ("name", "state") else "right")
    for row in rows:
        state = "paused" if row["paused"] else "folding" if row["worker"] else "nobody folds it"
        figures = (row["partition"], row["position"], row["lag"], row["dead_letters"])
        table.add_row(row["name"], *map(str, figures), state)
    Console().print(table)


@app.command()
def letters(name: Name, json_output: Json = False) -> None:
    """The facts a read model could not fold, and why."""
    with told_plainly(), _connected() as (connection, names):
        _check(name, names)
        found = connection.execute(_LETTERS, (name,)).fetchall()
    for cursor, key, position, error in found:
        letter = {"projection": cursor, "key": key, "position": position, "error": error}
        typer.echo(json.dumps(letter) if json_output else f"fact {position} of row {key}: {error}")
    if not found and not json_output:
        typer.echo("None.")


@app.command()
def rebuild(name: Name, reason: Reason, wait: Wait = True) -> None:
    """Fold a read model anew beside the live one and swap them; reads go on throughout."""
    _operate("rebuild_projection", name, reason)
    if wait:
        with told_plainly(), _connected() as (connection, _):
            _show_rebuild(connection, name)


@app.command()
def pause(name: Name, reason: Reason) -> None:
    """Stop folding a read model (and its rebuild); reads go on with what is there."""
    _operate("pause_projection", name, reason)


@app.command()
def resume(name: Name, reason: Reason) -> None:
    """Go on folding a read model."""
    _operate("resume_projection", name, reason)


@app.command()
def retry(
    name: Name, key: Annotated[str, typer.Argument(help="Row key, as `letters` shows it.")], reason: Reason
) -> None:
    """Fold the facts of one row that were set aside again, in order."""
    _operate("retry_letter", name, reason, key=key)


@app.command()
def skip(
    name: Name,
    key: Annotated[str, typer.Argument(help="Row key, as `letters` shows it.")],
    position: Annotated[int, typer.Argument(help="Position of the fact to leave out.")],
    reason: Reason,
) -> None:
    """Leave one fact out of one row for good (rebuilds too), and fold those behind it."""
    _operate("skip_letter", name, reason, key=key, position=position)


def _operate(command: str, name: str, reason: str, **arguments: Any) -> None:
    import getpass

    from cli.parts import parts
    from domain.kernel import Refusal, new_scope, within

    with told_plainly():
        with parts(require_database(Settings()), "projections") as made:
            run: Callable[..., Any] = getattr(made.village.monitoring, command)
            try:
                with within(new_scope(f"operator:{getpass.getuser()}")):
                    receipt = run(name=name, reason=reason, **arguments)
            except Refusal as refusal:
                raise CommandFailed(f"{refusal.code}: {refusal}") from refusal
        typer.echo(f"Recorded at position {receipt.position}; the projector obeys within a second.")


def _show_rebuild(connection: Any, name: str) -> None:
    """A bar with the time that is left, until the swap."""
    begun = False
    deadline = time.monotonic() + MAX_WAIT_S
    start_by = time.monotonic() + START_WITHIN_S
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as bar:
        task = bar.add_task(f"rebuilding {name}", total=_head(connection))
        while time.monotonic() < deadline:
            row = connection.execute(_REBUILD, (name, f"rebuild:{name}")).fetchone()
            if row is not None:
                begun = True
                what = f"rebuilding {name}" + (", paused: `village projections resume`" if row[1] else "")
                bar.update(task, description=what, completed=row[0], total=_head(connection))
            elif begun or _is_obeyed(connection, name):
                bar.update(task, completed=_head(connection))
                return
            elif time.monotonic() > start_by:
                raise CommandFailed("No projector has begun: is one running? (`village projections list`)")
            time.sleep(POLL_S)
    raise CommandFailed(f"It still rebuilds {name}: `village projections list` tells how far it is")


def _is_obeyed(connection: Any, name: str) -> bool:
    row = connection.execute(
        "SELECT p.rebuild_at <= max(c.rebuilt_at) FROM read.projection_controls p"
        " JOIN engine.cursors c ON c.name = p.projection WHERE p.projection = %s GROUP BY p.rebuild_at",
        (name,),
    ).fetchone()
    return bool(row and row[0])


@contextmanager
def _connected() -> Iterator[tuple[Any, list[str]]]:
    from infrastructure.database import Database, Role
    from projections.catalogue import READ_MODELS

    settings = require_database(Settings())
    assert settings.database_url is not None
    database = Database(settings.database_url.get_secret_value(), pool_size=1, application="village-projections")
    with database.connect(Role.READER) as connection:
        yield connection, [model.name for model in READ_MODELS]


def _head(connection: Any) -> int:
    row = connection.execute("SELECT position FROM log.events ORDER BY position DESC LIMIT 1").fetchone()
    return int(row[0]) if row else 0


def _check(name: str, names: list[str]) -> None:
    if name not in names:
        raise CommandFailed(f"No read model is called {name!r}; there are {', '.join(names)}")
