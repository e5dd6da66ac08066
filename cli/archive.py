"""`village db archive`: what closed streams said long ago moves from the database to Parquet files."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated

import psycopg
import typer

from cli.db import reachable_database
from cli.errors import CommandFailed, told_plainly
from infrastructure.settings import Settings

Days = Annotated[int, typer.Option("--older-than", min=0, max=36_500, help="Days since a stream was closed.")]


def archive_command(
    older_than: Days = 90,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be archived.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Move what streams closed long ago say to Parquet files, from which everything still reads it."""
    import domain.topics  # noqa: F401
    from domain.kernel.catalogue import closing_topics
    from infrastructure.archive import archive_store
    from infrastructure.archiver import ArchiverBusy, NotAsSealed, archive_closed
    from infrastructure.database import Database

    settings = Settings()
    before = datetime.now(UTC) - timedelta(days=older_than)
    with told_plainly(), reachable_database() as url, Database(url, application="village-archiver") as database:
        blobs = archive_store(settings.blob_url, settings.home)
        try:
            with _bar() as progress:
                done = archive_closed(database, blobs, closing_topics(), before, dry_run=dry_run, progress=progress)
        except (ArchiverBusy, NotAsSealed) as error:
            raise CommandFailed(str(error)) from error
        if done.files:
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("VACUUM (ANALYZE) log.events")  # so that new facts use the room
    if json_output:
        answer = {"streams": done.streams, "facts": done.facts, "bytes": done.state_bytes, "files": done.files}
        typer.echo(json.dumps(answer))
    else:
        did = "would be" if dry_run else "are"
        typer.echo(f"{done.facts} facts of {done.streams} closed streams ({done.state_bytes} bytes) {did} archived.")


@contextmanager
def _bar() -> Iterator[Callable[[int, int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("positions searched", total=None)
        yield lambda position, until: bar.update(task, completed=position, total=until)
