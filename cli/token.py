"""`village token`: access for people and programs, by tokens and login links."""

import json
import re
from datetime import timedelta
from typing import Annotated, Literal

import typer

from cli.errors import CommandFailed, told_plainly
from cli.parser import parser
from cli.parts import require_database
from infrastructure.settings import Settings

app = parser("Give people and programs access.")

Role = Literal["operator", "member"]
RoleOption = Annotated[Role, typer.Option("--role", help="operator: everything; member: what an owner owns.")]
SubjectOption = Annotated[
    str, typer.Option("--subject", help="An operator's name, or the UUID of a member's owner id.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


@app.command()
def issue(
    role: RoleOption,
    subject: SubjectOption,
    expires_in: Annotated[str, typer.Option(help="How long it is valid: 90s, 30m, 12h, 7d.")] = "12h",
    json_output: Json = False,
) -> None:
    """Print a bearer token, signed with the key in VILLAGE_HOME/keys. Whoever has it is the subject."""
    with told_plainly():
        life = duration(expires_in)
        token = _issued(role, subject, life)
        told = {"token": token, "role": role, "subject": subject, "expires_in_s": int(life.total_seconds())}
        typer.echo(json.dumps(told) if json_output else token)


@app.command()
def login(role: RoleOption = "operator", subject: SubjectOption = "operator", json_output: Json = False) -> None:
    """Print a link that logs a browser in once, within 15 minutes. The village must run."""
    from api.edge.login import create_login_code
    from api.edge.principals import InvalidSubject
    from infrastructure.database import Database

    with told_plainly():
        settings = require_database(Settings())
        assert settings.database_url is not None
        url = _api_url(settings)
        with Database(settings.database_url.get_secret_value(), pool_size=1, application="village-token") as database:
            try:
                code = create_login_code(database.writer, role=role, subject=subject)
            except InvalidSubject as error:
                raise CommandFailed(str(error)) from error
        link = f"{url}/login?code={code}"
        typer.echo(json.dumps({"login_url": link}) if json_output else link)


def duration(text: str) -> timedelta:
    """`90s`, `30m`, `12h` or `7d`; raises CommandFailed for anything else."""
    found = re.fullmatch(r"(\d{1,9})([smhd])", text)
    if found is None:
        raise CommandFailed(f"{text!r} is no duration: write 90s, 30m, 12h or 7d")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def _issued(role: str, subject: str, life: timedelta) -> str:
    from api.edge.principals import Tokens
    from infrastructure.keys import KeyStoreUnsafe, load_keys

    try:
        return Tokens(load_keys(Settings().home)).issue(role=role, subject=subject, expires_in=life)
    except (ValueError, KeyStoreUnsafe) as error:
        raise CommandFailed(str(error)) from error


def _api_url(settings: Settings) -> str:
    if settings.public_url:
        return settings.public_url.rstrip("/")
    try:
        return (settings.home / "api.url").read_text().strip()
    except FileNotFoundError as error:
        raise CommandFailed(f"No API runs in {settings.home}: start one with `village up`") from error
