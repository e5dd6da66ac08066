"""`village stream`: any aggregate, as it is or as it was at a position of the log or at an instant."""

from typing import Annotated
from uuid import UUID

import msgspec
import typer

from cli.as_of import WHEN, Json, past, tell
from cli.errors import told_plainly
from cli.parser import parser

app = parser()


@app.command()
def stream(
    stream_id: Annotated[UUID, typer.Argument(help="Id of a wallet, a transfer, a round, a device, a saga, ...")],
    as_of: Annotated[str | None, typer.Option("--as-of", help=f"{WHEN} The newest position by default.")] = None,
    json_output: Json = False,
) -> None:
    """Show an aggregate, rebuilt from its facts."""
    from domain.kernel import Aggregate
    from infrastructure.event_store import LogReader
    from projections.as_of import aggregate_at

    with told_plainly(), past(as_of or "0") as (connection, position):
        at = position if as_of else LogReader(connection).head()
        found = aggregate_at(connection, Aggregate, stream_id, at)
    state = {name.lstrip("_"): value for name, value in found.state().items()}
    shown = {"type": found.topic, "position": at} | state
    tell(msgspec.to_builtins(shown, str_keys=True, enc_hook=str), json_output)
