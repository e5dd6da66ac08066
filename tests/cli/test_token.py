"""`village token`: what it prints lets in whom it names."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from typer.testing import CliRunner

from api.edge.principals import Tokens
from cli.token import app
from infrastructure.keys import load_keys

run = CliRunner()


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VILLAGE_HOME", str(tmp_path))


def test_an_issued_token_speaks_for_its_subject(tmp_path: Path) -> None:
    printed = run.invoke(app, ["issue", "--role", "operator", "--subject", "ada", "--expires-in", "30m"])
    assert printed.exit_code == 0
    principal = Tokens(load_keys(tmp_path)).principal(printed.stdout.strip())
    assert principal.actor == "operator:ada"
    assert principal.expires_at is not None
    assert timedelta(minutes=29) < principal.expires_at - datetime.now(UTC) <= timedelta(minutes=30)


def test_a_member_is_named_by_its_owner_id(tmp_path: Path) -> None:
    owner = uuid4()
    printed = run.invoke(app, ["issue", "--role", "member", "--subject", str(owner), "--json"])
    token = json.loads(printed.stdout)["token"]
    assert Tokens(load_keys(tmp_path)).principal(token).owner == owner


@pytest.mark.parametrize(
    "arguments",
    [
        ["--role", "member", "--subject", "ada"],
        ["--role", "operator", "--subject", "a b"],
        ["--role", "operator", "--subject", "ada", "--expires-in", "soon"],
        ["--role", "operator", "--subject", "ada", "--expires-in", "0s"],
        ["--role", "operator", "--subject", "ada", "--expires-in", "9999d"],
        ["--role", "root", "--subject", "ada"],
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(arguments: list[str]) -> None:
    printed = run.invoke(app, ["issue", *arguments])
    assert printed.exit_code != 0
    assert "Traceback" not in printed.output
    assert printed.exception is None or isinstance(printed.exception, SystemExit)


def test_a_login_link_is_printed_for_a_village_that_runs(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VILLAGE_DATABASE_URL", database_url)
    assert "No API runs" in run.invoke(app, ["login"]).output
    (tmp_path / "api.url").write_text("http://127.0.0.1:8420\n")
    printed = run.invoke(app, ["login", "--subject", "ada"])
    assert printed.stdout.startswith("http://127.0.0.1:8420/login?code=")
