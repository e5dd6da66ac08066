"""`village bus`, as an operator calls it."""

import json
from pathlib import Path

import psycopg
import pytest

from infrastructure.bus_status import RELAY
from tests.cli.villages import environment
from tests.commands import village

LETTER = (
    "INSERT INTO engine.bus_dead_letters (consumer, message_id, stream, sequence, subject, deliveries, reason)"
    " VALUES ('books', 'x', 's', 1, 'log.a.B.C', 6, 'poison')"
)


@pytest.fixture
def env(tmp_path: Path, database_url: str) -> dict[str, str]:
    return environment(tmp_path, database_url=database_url)


def write(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as owner:
        for statement in statements:
            owner.execute(statement)


def test_before_the_relay_has_run_the_status_says_what_to_do(env: dict[str, str]) -> None:
    done = village("bus", "status", env=env)
    assert done.returncode == 1
    assert "The relay has never run" in done.stderr


def test_the_status_tells_position_failure_and_dead_letters(env: dict[str, str], database_url: str) -> None:
    write(
        database_url,
        f"INSERT INTO engine.cursors (name, position) VALUES ('{RELAY}', 7)",
        f"INSERT INTO engine.bus_relays (name, failing, error) VALUES ('{RELAY}', true, 'BusUnavailable: no broker')",
        LETTER,
    )
    done = village("bus", "status", env=env)
    assert done.returncode == 1
    assert "up to position 7" in done.stdout
    assert "It fails: BusUnavailable: no broker" in done.stdout
    assert "books could not handle 1" in done.stdout
    write(database_url, "UPDATE engine.bus_relays SET failing = false")
    done = village("bus", "status", "--json", env=env)
    assert done.returncode == 0
    told = json.loads(done.stdout)
    assert (told["position"], told["failing"], told["dead_letters"]) == (7, False, {"books": 1})


def test_the_letters_are_listed_with_their_reasons(env: dict[str, str], database_url: str) -> None:
    assert village("bus", "letters", env=env).stdout == "None.\n"
    write(database_url, LETTER)
    (letter,) = json.loads(village("bus", "letters", "--json", env=env).stdout)
    assert (letter["consumer"], letter["subject"], letter["reason"]) == ("books", "log.a.B.C", "poison")
    assert "poison" in village("bus", "letters", env=env).stdout
