"""`village db`: the schema of the database, its newest revision and the one it is at."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from cli.compose import running_database_url
from cli.errors import told_plainly
from infrastructure.database import head, migrate, revision
from infrastructure.embedded.postgres import EmbeddedPostgres
from infrastructure.settings import Settings

app = typer.Typer(help="Migrate the database, or ask where it is.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@contextmanager
def reachable_database() -> Iterator[str]:
    """The database that is set or running, or else the embedded one, started for as long as this takes."""
    settings = Settings()
    running = running_database_url(settings)
    if running is not None:
        yield running
        return
    with EmbeddedPostgres(settings.home, user=settings.server_user) as server:
        yield server.url


@app.command("migrate")
def migrate_command(json_output: Json = False) -> None:
    """Bring the database to the newest schema."""
    with told_plainly(), reachable_database() as url:
        before = revision(url)
        migrate(url)
        after = revision(url)
    _tell(json_output, {"before": before, "now": after}, f"The database is at {after} (it was at {before or 'none'}).")


@app.command()
def status(json_output: Json = False) -> None:
    """The revision of the database and the newest one; exit code 1 when they differ."""
    with told_plainly(), reachable_database() as url:
        now, newest = revision(url), head()
    _tell(json_output, {"now": now, "newest": newest}, f"The database is at {now or 'none'}, the newest is {newest}.")
    if now != newest:
        raise typer.Exit(1)


def _tell(json_output: bool, answer: dict[str, str | None], sentence: str) -> None:
    typer.echo(json.dumps(answer) if json_output else sentence)
