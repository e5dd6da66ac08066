"""`village tokens`: balances and statements of wallets, exact at any position of the log."""

from typing import Annotated
from uuid import UUID

import typer

from cli.as_of import Json, past, tell
from cli.errors import CommandFailed, told_plainly
from cli.parser import parser

app = parser("See what wallets have.")

AsOf = Annotated[str | None, typer.Option("--as-of", help="A position, or a time with its offset; by default now.")]
Last = Annotated[int, typer.Option("--last", min=1, max=10_000, help="How many entries, from the newest back.")]


@app.callback()
def tokens() -> None:
    """See what wallets have."""


@app.command()
def statement(owner: UUID, as_of: AsOf = None, last: Last = 100, json_output: Json = False) -> None:
    """An owner's entries, the newest last, each with what the wallet had after it; folded from the log itself."""
    from domain.kernel.tokens import format_tokens
    from domain.tokenomics.accounts import wallet_id_of
    from projections.statement import entries_at

    account = wallet_id_of(owner)
    with told_plainly(), past(as_of) as (connection, position):
        entries = entries_at(connection, account, position, last)
    if not entries and not json_output:
        raise CommandFailed(f"No transfer has touched the wallet of {owner} by position {position}")
    for entry in entries:
        if json_output:
            tell(
                {
                    "position": entry.position,
                    "posted_at": entry.posted_at.isoformat(),
                    "kind": entry.kind,
                    "transfer_id": str(entry.transfer_id),
                    "grains": str(entry.grains),
                    "balance_grains": str(entry.balance),
                },
                True,
            )
        else:
            typer.echo(
                f"{entry.position:>10}  {entry.posted_at:%Y-%m-%d %H:%M:%S}Z  {entry.kind:<16}"
                f"{format_tokens(entry.grains):>22}{format_tokens(entry.balance):>22}"
            )
