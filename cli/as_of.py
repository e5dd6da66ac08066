"""`village as-of`: any read model as it was at a position of the log or at an instant."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
import typer

from cli.errors import CommandFailed, told_plainly
from cli.parser import parser
from cli.parts import require_database
from infrastructure.settings import Settings

app = parser()

Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
WHEN = "A position of the log, or a time with its offset (2026-01-31T12:00:00Z)."


@app.command()
def as_of(
    when: Annotated[str, typer.Argument(help=WHEN)],
    read_model: Annotated[str, typer.Argument(help="Name of a read model (see `village projections list`).")],
    key: Annotated[str | None, typer.Argument(help="Key of one row: plain, or as JSON. All rows by default.")] = None,
    json_output: Json = False,
) -> None:
    """Show a read model, or one row of it, as it was."""
    from projections.as_of import row_at, rows_at
    from projections.catalogue import READ_MODELS

    models = {model.name: model for model in READ_MODELS}
    with told_plainly(), past(when) as (connection, position):
        if (model := models.get(read_model)) is None:
            raise CommandFailed(f"No read model is called {read_model!r}; there are {', '.join(models)}")
        if key is None:
            rows = list(rows_at(connection, model, position).values())
        else:
            row = row_at(connection, model, _key(model, key), position)
            rows = [] if row is None else [row]
    for found in rows:
        tell(msgspec.to_builtins(found), json_output)
    if not rows and not json_output:
        typer.echo(f"None at position {position}.")


@contextmanager
def past(when: str | None) -> Iterator[tuple[Any, int]]:
    """A connection that reads the log, and the position that is meant (None: the newest); refusals are told plainly."""
    import domain.topics  # noqa: F401
    from domain.kernel import Refusal
    from infrastructure.database import Database, Role
    from infrastructure.event_store.reader import LogReader
    from projections.as_of import position_at

    settings = require_database(Settings())
    assert settings.database_url is not None
    database = Database(settings.database_url.get_secret_value(), pool_size=1, application="village-as-of")
    with database.connect(Role.READER) as connection:
        try:
            if when is None:
                yield connection, LogReader(connection).head()
            elif re.fullmatch(r"\d{1,18}", when):
                yield connection, int(when)
            else:
                yield connection, position_at(connection, _instant(when))
        except Refusal as refusal:
            raise CommandFailed(f"{refusal.code}: {refusal}") from refusal


def tell(found: dict[str, Any], json_output: bool) -> None:
    """One thing, as a line of JSON or a line for each of its fields."""
    if json_output:
        typer.echo(json.dumps(found))
        return
    width = max(map(len, found), default=0)
    for name, value in found.items():
        typer.echo(f"{name:<{width}}  {value if isinstance(value, str) else json.dumps(value)}")
    typer.echo("")


def _instant(text: str) -> datetime:
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise CommandFailed(f"{text!r} is neither a position nor a time like 2026-01-31T12:00:00Z") from None
    if instant.tzinfo is None:
        raise CommandFailed(f"{text} has no offset: write {instant.isoformat()}Z for UTC")
    if instant > datetime.now(UTC):
        raise CommandFailed(f"{text} has not come")
    return instant


def _key(model: Any, text: str) -> Any:
    for written in (text, json.dumps(text)):
        try:
            return model.key_from(written)
        except msgspec.MsgspecError:
            continue
    raise CommandFailed(f"{text!r} is no key of {model.name}: ({', '.join(model.key)})")
