"""`village market`: whether a match is what the log makes of it."""

from typing import Annotated
from uuid import UUID

import msgspec
import typer

from cli.errors import CommandFailed, told_plainly
from cli.parser import parser
from cli.parts import require_database
from infrastructure.settings import Settings

app = parser("Check the market.")


@app.callback()
def _market() -> None:
    """A command of its own, so that the first one has a name."""


@app.command("verify-match")
def verify_match(
    request_id: UUID, json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
) -> None:
    """Decide a matched request again, from the log alone; exit code 1 when the receipt says something else."""
    import domain.topics  # noqa: F401
    from domain.kernel import Refusal
    from infrastructure.database import Database, Role
    from projections.matching import verify_match as decide_again

    with told_plainly():
        settings = require_database(Settings())
        assert settings.database_url is not None
        database = Database(settings.database_url.get_secret_value(), pool_size=1, application="village-market")
        with database.connect(Role.READER) as connection:
            try:
                verdict = decide_again(connection, request_id)
            except Refusal as refusal:
                raise CommandFailed(f"{refusal.code}: {refusal}") from refusal
    if json_output:
        typer.echo(msgspec.json.encode(verdict).decode())
    elif verdict.honest:
        typer.echo(f"The facts up to position {verdict.snapshot_position} give this match: {verdict.recorded.winner}.")
    else:
        why = "its decision is another" if verdict.same_rules else "it followed other rules"
        typer.echo(f"The facts up to position {verdict.snapshot_position} do not give this match: {why}.")
    if not verdict.honest:
        raise typer.Exit(1)
