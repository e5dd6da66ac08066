"""`village audit`: is the log what was sealed, are the read models what the log says, and why is a thing as it is?"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import msgspec
import psycopg
import typer
from rich.console import Console
from rich.progress import Progress

from cli.errors import CommandFailed, told_plainly
from cli.parser import parser
from cli.parts import require_database
from infrastructure.settings import Settings

if TYPE_CHECKING:
    from projections.explain import Link

app = parser("Check the log and what follows from it.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Keys = Annotated[
    Path | None,
    typer.Option("--verifiers", help="File of verifier keys, one a line (from `village audit keys`, kept elsewhere)."),
]

Kept = Annotated[
    Path | None,
    typer.Option("--checkpoint", help="A checkpoint kept elsewhere (from `village audit checkpoint`)."),
]

LISTED = 3


@app.command()
def verify(verifiers: Keys = None, checkpoint: Kept = None, json_output: Json = False) -> None:
    """Recompute the Merkle tree and check every checkpoint; exit code 1 names the first position that is a lie."""
    from domain.audit.checkpoint import CheckpointInvalid
    from infrastructure.audit import audit

    with told_plainly(), _reader() as (settings, connection), _bar("verifying") as progress:
        try:
            kept = None if checkpoint is None else checkpoint.read_text()
            verdict = audit(connection, _trusted(settings, verifiers), progress, kept)
        except (CheckpointInvalid, OSError) as error:
            raise CommandFailed(f"{checkpoint}: {error}") from error
    if json_output:
        typer.echo(msgspec.json.encode({**msgspec.structs.asdict(verdict), "honest": verdict.honest}).decode())
    elif verdict.honest:
        typer.echo(
            f"Honest: {verdict.facts} facts, {verdict.sealed} of them sealed; checkpoints: {verdict.checkpoints}."
        )
    else:
        typer.echo(f"The first lie is at position {verdict.first_lie}: {verdict.reason}.")
    if not verdict.honest:
        raise typer.Exit(1)


@app.command()
def replay(
    until: Annotated[int | None, typer.Option(help="Position to replay to; the present one by default.")] = None,
    diff: Annotated[bool, typer.Option("--diff", help="Show every row that differs.")] = False,
    json_output: Json = False,
) -> None:
    """Rebuild every read model from the log and compare it with the live one; exit code 1 when they differ.

    With --until alone, tell how many rows there were; with --diff too, compare the rows that nothing has touched since.
    """
    import domain.topics  # noqa: F401
    from projections.catalogue import READ_MODELS
    from projections.replay import compare, replayed

    with told_plainly(), _reader() as (_, connection), _refusals(), _bar("replaying") as progress:
        if until is not None and not diff:
            counts = {model.name: len(rows) for model, rows in replayed(connection, READ_MODELS, until, progress)}
        else:
            comparison = compare(connection, READ_MODELS, until, progress)
    if until is not None and not diff:
        typer.echo(json.dumps(counts) if json_output else _table(counts, f"rows at position {until}"))
        return
    if json_output:
        typer.echo(msgspec.json.encode(comparison, enc_hook=str).decode())
    else:
        compared = "" if until is None else f" of those that no later fact has touched ({comparison.moved} were)"
        typer.echo(
            f"{comparison.facts} facts give {comparison.rows} rows; "
            f"{len(comparison.differences)}{compared} differ from the live."
        )
        for difference in comparison.differences if diff else ():
            typer.echo(
                f"{difference.model} {difference.key}\n  live    {difference.live}\n  log     {difference.rebuilt}"
            )
    if comparison.differences:
        raise typer.Exit(1)


@app.command()
def explain(
    what: Annotated[UUID, typer.Argument(help="Id of a transfer, a contract, a round, a claim or any other stream.")],
    verifiers: Keys = None,
    full: Annotated[bool, typer.Option("--full", help="Show long lists whole.")] = False,
    json_output: Json = False,
) -> None:
    """Show how a thing came to be: its facts, their causes, who acted, and which of them are sealed."""
    from projections.explain import explain as explain_stream

    with told_plainly(), _reader() as (settings, connection), _refusals():
        links = _opened(settings, explain_stream(connection, what, _trusted(settings, verifiers)))
    if json_output:
        typer.echo(msgspec.json.encode(links).decode())
        return
    at = {link.event_id: link.position for link in links}
    for link in links:
        mark = "sealed" if link.proof else "not sealed yet"
        cause = f"  because of {at[link.causation_id]}" if link.causation_id in at else ""
        typer.echo(f"{link.position:>8}  {link.recorded_at}  {link.topic}  by {link.actor}{cause}  ({mark})")
        typer.echo(f"          stream {link.stream}, version {link.version}")
        for name, value in link.state.items():
            typer.echo(f"          {name}: {json.dumps(value) if full else shortened(value)}")


def shortened(value: object) -> str:
    if not isinstance(value, list) or len(value) <= LISTED:
        return json.dumps(value)
    return f"{json.dumps(value[:LISTED])[:-1]}, ... {len(value) - LISTED} more (--full shows them)]"


@app.command()
def prove(position: int, verifiers: Keys = None) -> None:
    """Print the inclusion proof of one fact (JSON); exit code 1 while it is not sealed."""
    from projections.explain import prove as prove_fact

    with told_plainly(), _reader() as (settings, connection), _refusals():
        proof = prove_fact(connection, position, _trusted(settings, verifiers))
        if proof is None:
            raise CommandFailed(f"Fact {position} is not sealed, or does not exist")
    typer.echo(msgspec.json.encode(proof).decode())


@app.command()
def consistency(old: int, new: int) -> None:
    """Print the proof (JSON) that the log only grew from one checkpoint to another, by their sizes."""
    from projections.explain import prove_growth

    with told_plainly(), _reader() as (_, connection), _refusals():
        growth = prove_growth(connection, old, new)
        if growth is None:
            raise CommandFailed(f"No checkpoint has the size {new}")
    typer.echo(msgspec.json.encode(growth).decode())


@app.command()
def checkpoint(
    size: Annotated[int | None, typer.Option(help="Of so many facts; the newest by default.")] = None,
) -> None:
    """Print a signed checkpoint. Keep one now and then where the database's owner cannot."""
    from infrastructure.audit import SealedLog

    with told_plainly(), _reader() as (_, connection):
        sealed = SealedLog(connection)
        _, note = sealed.newest_checkpoint() or (0, None) if size is None else (size, sealed.checkpoint(size))
        if note is None:
            raise CommandFailed("Nothing is sealed yet" if size is None else f"No checkpoint has the size {size}")
    typer.echo(note, nl=False)


@app.command()
def keys(rotate: Annotated[bool, typer.Option("--rotate", help="Make a new sealing key first.")] = False) -> None:
    """Print the public keys that sign checkpoints, oldest first. Keep them where the database's owner cannot."""
    from infrastructure.sealing_keys import load_sealing_keys, rotate_sealing_key

    with told_plainly():
        settings = Settings()
        change = rotate_sealing_key if rotate else load_sealing_keys
        for verifier in change(settings.home, settings.log_origin).verifiers:
            typer.echo(verifier.text())


@contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Tells how far it is, where a person looks on."""
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def _reader() -> Iterator[tuple[Settings, psycopg.Connection[Any]]]:
    from infrastructure.database import Database, Role

    settings = require_database(Settings())
    assert settings.database_url is not None
    database = Database(settings.database_url.get_secret_value(), pool_size=1, application="village-audit")
    with database.connect(Role.READER) as connection:
        yield settings, connection


@contextmanager
def _refusals() -> Iterator[None]:
    from domain.audit.checkpoint import CheckpointInvalid
    from domain.kernel import Refusal
    from projections.explain import NothingToExplain

    try:
        yield
    except NothingToExplain as refusal:
        raise CommandFailed(f"Nothing in the log has the id {refusal}") from refusal
    except Refusal as refusal:
        raise CommandFailed(f"{refusal.code}: {refusal}") from refusal
    except CheckpointInvalid as error:
        raise CommandFailed(f"The newest checkpoint: {error}") from error


def _opened(settings: Settings, links: "list[Link]") -> "list[Link]":
    """The links with their personal fields opened, all by one question to the keys."""
    import domain.topics  # noqa: F401  (which fields are personal, their classes say)
    from infrastructure.database import Database
    from infrastructure.subject_keys import KeyEncryptionKeys, SubjectKeyTable
    from projections.personal import sealed_in, shown_in

    sealed = [sealed_in(link.topic, link.event_id, link.state) for link in links]
    assert settings.database_url is not None
    with Database(settings.database_url.get_secret_value(), pool_size=1, application="village-audit") as database:
        keys = SubjectKeyTable(database, KeyEncryptionKeys(settings.home))
        shown = keys.open(text for fields in sealed for text in fields.values())
    return [
        msgspec.structs.replace(link, state=shown_in(link.state, {name: shown[text] for name, text in fields.items()}))
        for link, fields in zip(links, sealed, strict=True)
    ]


def _trusted(settings: Settings, path: Path | None) -> list[Any]:
    from domain.audit.checkpoint import CheckpointInvalid, Verifier
    from infrastructure.sealing_keys import load_sealing_keys

    if path is None:
        return list(load_sealing_keys(settings.home, settings.log_origin).verifiers)
    try:
        return [Verifier.parse(line) for line in path.read_text().splitlines() if line.strip()]
    except (OSError, CheckpointInvalid) as error:
        raise CommandFailed(f"{path}: {error}") from error


def _table(counts: dict[str, int], title: str) -> str:
    width = max(map(len, counts), default=0)
    return "\n".join([title, *(f"  {name:<{width}}  {count}" for name, count in counts.items())])
