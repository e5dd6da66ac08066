"""`village db`: the schema of the database, its newest revision and the one it is at."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import psycopg
import typer

from cli.errors import CommandFailed, told_plainly
from cli.parser import parser
from cli.parts import running_database_url
from infrastructure.database import head, migrate, revision
from infrastructure.embedded.postgres import EmbeddedPostgres
from infrastructure.settings import Settings

app = parser("Migrate, back up and restore the database.")

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


@app.command("backup")
def backup_command(
    file: Annotated[Path, typer.Argument(help="The file to write; it must not exist.")], json_output: Json = False
) -> None:
    """Write everything that cannot be folded anew to one file, while the village runs."""
    from infrastructure.backup import backup

    with told_plainly(), reachable_database() as url, _bar() as progress:
        try:
            manifest = backup(url, file, progress)
        except OSError as error:
            raise CommandFailed(str(error)) from error
    answer = {"file": str(file), "head": str(manifest.head), "revision": manifest.revision}
    others = f"The keys of subjects are in {file}.keys. Keys, blobs and the archive: copy them too."
    _tell(json_output, answer, f"{file} holds all facts up to position {manifest.head}. {others}")


@app.command("restore")
def restore_command(
    file: Annotated[Path, typer.Argument(help="A file that `backup` wrote.")], json_output: Json = False
) -> None:
    """Put a backup into a database without facts; read models are folded anew when the village starts."""
    from infrastructure.archive import archive_store, missing_files
    from infrastructure.backup import BackupInvalid, TargetNotEmpty, keys_beside, restore

    settings = Settings()
    with told_plainly(), reachable_database() as url:
        try:
            with _bar() as progress:
                manifest = restore(url, file, progress)
        except (BackupInvalid, TargetNotEmpty) as error:
            raise CommandFailed(str(error)) from error
        with psycopg.connect(url) as connection:
            missing = missing_files(connection, archive_store(settings.blob_url, settings.home))
    answer = {"file": str(file), "head": str(manifest.head), "revision": manifest.revision}
    _tell(json_output, answer, f"Restored all facts up to position {manifest.head}.")
    if not keys_beside(file).exists():
        typer.echo(f"Without {keys_beside(file)} what is personal stays sealed", err=True)
    if missing:
        typer.echo(f"{len(missing)} files of the archive are not in {settings.home / 'archive'} yet", err=True)


@contextmanager
def _bar() -> Iterator[Callable[[str, int], None]]:
    """Tells how many bytes of which table are done, where a person looks on."""
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda table, done: bar.update(task, description=table, completed=done)


def _tell(json_output: bool, answer: Mapping[str, str | None], sentence: str) -> None:
    typer.echo(json.dumps(answer) if json_output else sentence)
