"""Failures that a person can act on are told in one line and exit code 1, without a stack trace."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pydantic
import typer

from infrastructure.archive import ArchiveUnreadable
from infrastructure.embedded.place import HomeInUse, ServerFailed
from infrastructure.settings import PREFIX


class CommandFailed(Exception):
    """What was asked cannot be done now; the message says why and what to do."""


@contextmanager
def told_plainly() -> Iterator[None]:
    """Turns the expected failures of a command into a line on stderr and exit code 1."""
    try:
        yield
    except pydantic.ValidationError as error:
        for problem in error.errors(include_input=False, include_url=False):
            name = PREFIX + "_".join(str(part) for part in problem["loc"]).upper()
            typer.echo(f"{name}: {problem['msg']}", err=True)
        raise typer.Exit(1) from None
    except psycopg.OperationalError as error:
        typer.echo(f"The database does not answer: {str(error).splitlines()[0]}", err=True)
        raise typer.Exit(1) from None
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn) as error:
        why = error.diag.message_primary
        typer.echo(f"The database is of another release ({why}): see `village db status`", err=True)
        raise typer.Exit(1) from None
    except (ArchiveUnreadable, CommandFailed, HomeInUse, ServerFailed) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
