"""`village subjects`: people whom texts are about. Erase one, see who is erased, wrap all keys anew."""

import getpass
import json
import time
from datetime import datetime
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from cli.errors import CommandFailed, told_plainly
from cli.parser import Reason, parser
from cli.parts import require_database
from infrastructure.settings import Settings

if TYPE_CHECKING:
    from infrastructure.subject_keys import KeyState

app = parser("Erase people, and operate the keys their texts are sealed under.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
MAX_LISTED = 1_000
WAIT_S = 15.0

_LIST = "SELECT subject_id, erased_at, actor, reason FROM read.subjects ORDER BY position DESC LIMIT %s"


@app.command()
def erase(
    subject: UUID,
    reason: Reason,
    json_output: Json = False,
) -> None:
    """Erase a person for good: nobody reads again what is sealed under their key. Waits until the key is destroyed.

    Name nobody in the reason: it stays.
    """
    from cli.parts import parts
    from domain.kernel import Refusal, new_scope, within

    with told_plainly(), parts(require_database(Settings()), "subjects") as made:
        try:
            with within(new_scope(f"operator:{getpass.getuser()}")):
                receipt = made.village.privacy.erase_subject(subject_id=subject, reason=reason)
        except Refusal as refusal:
            raise CommandFailed(f"{refusal.code}: {refusal}") from refusal
        until = time.monotonic() + WAIT_S
        while (erased_at := _erased_at(made.subject_keys.state(subject))) is None and time.monotonic() < until:
            time.sleep(0.1)
    if json_output:
        told = None if erased_at is None else erased_at.isoformat()
        typer.echo(json.dumps({"subject_id": str(subject), "position": receipt.position, "key_destroyed_at": told}))
    elif erased_at is not None:
        typer.echo(f"{subject} is erased; the key is destroyed.")
    else:
        typer.echo(f"{subject} is erased; the key will be destroyed when the projector and the clock run.")


@app.command("list")
def list_command(limit: Annotated[int, typer.Option(min=1, max=MAX_LISTED)] = 50, json_output: Json = False) -> None:
    """Who is erased, the newest first: when, by whom and why."""
    from infrastructure.database import Database

    with (
        told_plainly(),
        Database(_url(), pool_size=1, application="village-subjects") as database,
        database.reader.connection() as connection,
    ):
        rows = connection.execute(_LIST, (limit,)).fetchall()
    columns = ("subject_id", "erased_at", "actor", "reason")
    if json_output:
        typer.echo(json.dumps([dict(zip(columns, map(str, row), strict=True)) for row in rows]))
        return
    for subject_id, erased_at, actor, reason in rows:
        typer.echo(f"{subject_id}  {erased_at:%Y-%m-%d %H:%M:%S}  by {actor}: {reason}")
    if not rows:
        typer.echo("None.")


@app.command()
def show(subject: UUID, json_output: Json = False) -> None:
    """Whether a person has a key: none yet, since when, or destroyed."""
    from infrastructure.database import Database
    from infrastructure.subject_keys import KeyEncryptionKeys, SubjectKeyTable

    with told_plainly(), Database(_url(), pool_size=1, application="village-subjects") as database:
        state = SubjectKeyTable(database, KeyEncryptionKeys(Settings().home)).state(subject)
    if json_output:
        since, erased_at = (None, None) if state is None else (state.created_at.isoformat(), _erased_at(state))
        told = None if erased_at is None else erased_at.isoformat()
        typer.echo(json.dumps({"subject_id": str(subject), "created_at": since, "key_destroyed_at": told}))
    elif state is None:
        typer.echo(f"{subject} has no key: nothing is sealed for them.")
    elif state.erased_at is None:
        typer.echo(f"{subject} has a key since {state.created_at:%Y-%m-%d %H:%M:%S}.")
    else:
        typer.echo(f"{subject} has no key any more: it was destroyed at {state.erased_at:%Y-%m-%d %H:%M:%S}.")


@app.command()
def rekey(json_output: Json = False) -> None:
    """Make a new key that wraps the keys of all subjects, and wrap them anew. Names the older ones, to be deleted."""
    from domain.kernel.errors import SealingUnavailable
    from infrastructure.database import Database
    from infrastructure.keys import KeyStoreUnsafe
    from infrastructure.subject_keys import KeyEncryptionKeys, SubjectKeyTable

    wrapping = KeyEncryptionKeys(Settings().home)
    with told_plainly(), Database(_url(), pool_size=1, application="village-subjects") as database:
        try:
            wrapping.rotate()
            wrapped = SubjectKeyTable(database, wrapping).rewrap()
        except (KeyStoreUnsafe, SealingUnavailable) as error:
            raise CommandFailed(str(error)) from error
    *older, newest = map(str, wrapping.paths())
    if json_output:
        typer.echo(json.dumps({"wrapped": wrapped, "newest": newest, "older": older}))
        return
    typer.echo(f"{wrapped} keys are wrapped anew, by {newest}.")
    for path in older:
        typer.echo(f"{path} wraps nothing any more: delete it, and every copy of it.")


def _erased_at(state: "KeyState | None") -> datetime | None:
    return None if state is None else state.erased_at


def _url() -> str:
    url = require_database(Settings()).database_url
    assert url is not None
    return url.get_secret_value()
