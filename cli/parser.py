"""How each part of the command `village` reads its line."""

from typing import Annotated

import typer


def parser(about: str | None = None) -> typer.Typer:
    """A parser for a group of commands `about` something, or for one command that says it itself."""
    return typer.Typer(
        help=about, no_args_is_help=about is not None, pretty_exceptions_enable=False, add_completion=False
    )


def _told(reason: str) -> str:
    if not reason.strip():
        raise typer.BadParameter("say why")
    return reason


Reason = Annotated[str, typer.Option("--reason", callback=_told, help="Why; it is recorded.")]
