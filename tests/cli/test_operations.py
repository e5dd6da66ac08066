"""What the operator's guide says of read models, sagas, audits and backups, typed at a village that runs."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from domain.tokenomics.transfer import transfer_id_of
from tests.cli.villages import environment, eventually, running, village

pytestmark = pytest.mark.slow

GENESIS_ID = transfer_id_of("genesis")


class Operator:
    """Somebody who types `village ...` at one home."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.env = environment(home)

    def types(self, *words: str, code: int = 0) -> str:
        done = village(*words, env=self.env)
        assert done.returncode == code, done.stderr + done.stdout
        return done.stdout if code == 0 else done.stderr + done.stdout

    def asks(self, *words: str) -> Any:
        return json.loads(self.types(*words, "--json"))

    def projections(self) -> dict[str, dict[str, Any]]:
        return {row["name"]: row for row in self.asks("projections", "list")["projections"]}

    def sql(self, statement: str) -> list[Any]:
        with psycopg.connect((self.home / "database.url").read_text().strip()) as connection:
            found = connection.execute(statement.encode())
            return found.fetchall() if found.description else []


@pytest.fixture(scope="module")
def operator(short_home: Path) -> Iterator[Operator]:
    home = short_home / "operations"
    with running(environment(home)):
        operator = Operator(home)
        assert eventually(lambda: all(row["lag"] == 0 and row["worker"] for row in operator.projections().values()), 60)
        yield operator


def test_the_list_names_every_read_model_with_its_lag(operator: Operator) -> None:
    assert {"wallets", "accounts", "devices", "training_rounds", "sagas"} <= operator.projections().keys()
    assert "wallets" in operator.types("projections", "list")


def test_a_rebuild_is_followed_to_its_end(operator: Operator) -> None:
    assert "obeys within a second" in operator.types("projections", "rebuild", "accounts", "--reason", "a drill")
    assert "rebuild:accounts" not in operator.projections()
    assert operator.asks("audit", "replay")["differences"] == []


def test_a_read_model_is_paused_and_resumed(operator: Operator) -> None:
    operator.types("projections", "pause", "epochs", "--reason", "a drill")
    assert eventually(lambda: operator.projections()["epochs"]["paused"])
    assert "projection_already_paused" in operator.types("projections", "pause", "epochs", "--reason", "again", code=1)
    operator.types("projections", "resume", "epochs", "--reason", "the drill is over")
    assert eventually(lambda: not operator.projections()["epochs"]["paused"])


def test_a_read_model_nobody_has_is_named(operator: Operator) -> None:
    assert "projection_unknown" in operator.types("projections", "pause", "nothing", "--reason", "?", code=1)
    assert "No read model is called" in operator.types("projections", "letters", "nothing", code=1)


def test_dead_letters_are_shown_and_skipped_by_a_reasoned_command(operator: Operator) -> None:
    assert operator.types("projections", "letters", "wallets") == "None.\n"
    operator.types("projections", "retry", "wallets", '"x"', "--reason", "a drill")
    operator.types("projections", "skip", "wallets", '"x"', "1", "--reason", "a drill")
    assert "letter_already_skipped" in operator.types(
        "projections", "skip", "wallets", '"x"', "1", "--reason", "again", code=1
    )


def test_sagas_are_listed_and_only_parked_processes_resolved(operator: Operator) -> None:
    assert operator.asks("sagas", "list") == []
    assert "There is no saga" in operator.types("sagas", "show", "1" * 32, code=1)
    assert "aggregate_not_found" in operator.types(
        "sagas", "resolve", str(GENESIS_ID), "retry", "--reason", "a drill", code=1
    )


def test_a_log_is_verified_with_keys_kept_elsewhere(operator: Operator, tmp_path: Path) -> None:
    (tmp_path / "verifiers").write_text(operator.types("audit", "keys"))
    assert eventually(lambda: operator.asks("audit", "verify")["sealed"] > 0)
    assert "Honest" in operator.types("audit", "verify", "--verifiers", str(tmp_path / "verifiers"))


def test_the_genesis_is_explained_and_proved(operator: Operator) -> None:
    told = operator.types("audit", "explain", str(GENESIS_ID))
    assert "tokenomics.Transfer.Posted" in told
    assert eventually(lambda: "sealed" in operator.types("audit", "explain", str(GENESIS_ID)))
    assert json.loads(operator.types("audit", "prove", "1"))["leaf"] == 0
    assert "Nothing in the log has the id" in operator.types("audit", "explain", "0" * 32, code=1)


def test_read_models_are_replayed_to_a_past_position(operator: Operator) -> None:
    counts = json.loads(operator.types("audit", "replay", "--until", "1", "--json"))
    assert counts["devices"] == 0


def test_what_closed_streams_say_is_archived_and_read_on(operator: Operator) -> None:
    operator.types("projections", "retry", "wallets", '"x"', "--reason", "so that the newest fact is another one")
    assert eventually(lambda: operator.asks("db", "archive", "--older-than", "0", "--dry-run")["facts"] > 0)
    assert operator.asks("db", "archive")["facts"] == 0, "nothing is old"
    assert operator.asks("db", "archive", "--older-than", "0")["facts"] > 0
    assert "Honest" in operator.types("audit", "verify")
    assert operator.asks("audit", "replay")["differences"] == []
    assert "legs" in operator.types("audit", "explain", str(GENESIS_ID))
    (file, *_) = (operator.home / "archive").glob("??/*")
    kept = file.rename(file.with_name("kept"))
    assert "The first lie is at position" in operator.types("audit", "verify", code=1)
    assert file.name in operator.types("audit", "explain", str(GENESIS_ID), code=1)
    kept.rename(file)
    assert "Honest" in operator.types("audit", "verify")


def test_a_read_model_is_shown_as_it_was_at_a_position_or_a_time(operator: Operator) -> None:
    (at, posted_at) = operator.sql(
        "SELECT position, recorded_at FROM log.events WHERE topic = 'tokenomics.Transfer.Posted' ORDER BY 1 LIMIT 1"
    )[0]
    assert operator.asks("as-of", str(at), "transfers")["transfer_id"] == str(GENESIS_ID)
    assert operator.asks("as-of", posted_at.isoformat(), "transfers", str(GENESIS_ID))["position"] == at
    assert operator.types("as-of", str(at - 1), "transfers") == f"None at position {at - 1}.\n"
    assert "position_ahead" in operator.types("as-of", "999999", "transfers", code=1)
    assert "no offset" in operator.types("as-of", "2026-01-01T00:00:00", "transfers", code=1)
    assert "No read model is called" in operator.types("as-of", "1", "nothing", code=1)
    assert "is no key of" in operator.types("as-of", "1", "transfers", "x", code=1)


def test_an_aggregate_is_shown_as_it_is_and_as_it_was(operator: Operator) -> None:
    (stream, first) = operator.sql("SELECT stream, position FROM log.events WHERE version = 2 ORDER BY 2 LIMIT 1")[0]
    assert operator.asks("stream", str(stream), "--as-of", str(first))["version"] == 2
    assert operator.asks("stream", str(stream), "--as-of", str(first - 1))["version"] == 1
    assert operator.asks("stream", str(GENESIS_ID))["type"] == "tokenomics.Transfer"
    assert "aggregate_not_found" in operator.types("stream", str(stream), "--as-of", "0", code=1)


def test_a_village_is_restored_from_its_backup_in_another_home(
    operator: Operator, short_home: Path, tmp_path: Path
) -> None:
    file = tmp_path / "village.backup"
    head = operator.asks("db", "backup", str(file))["head"]
    assert "exists already" in operator.types("db", "backup", str(file), code=1)
    other = Operator(short_home / "restored-operations")
    assert other.asks("db", "restore", str(file))["head"] == head
    assert "has facts already" in other.types("db", "restore", str(file), code=1)


def test_a_lie_ends_with_exit_code_one_and_its_position(operator: Operator) -> None:
    """Last: this village cannot be trusted afterwards."""
    assert eventually(lambda: operator.asks("audit", "verify")["sealed"] > 0)
    operator.sql("UPDATE log.events SET actor = 'nobody' WHERE position = 1")
    assert "The first lie is at position 1" in operator.types("audit", "verify", code=1)
