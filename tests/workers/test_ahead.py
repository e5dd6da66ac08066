"""Reading ahead: what was read early is what would have been read, and nothing is missed after it."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest

from infrastructure.database import Database, Role
from infrastructure.event_store import open_event_log
from tests.ledger import Ledger
from tests.running import opened
from workers.ahead import ReadAhead

TOPIC = "testing.Account.Opened"


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    with closing(open_event_log(database_url)) as log:
        yield Ledger(log)


@pytest.fixture
def connections() -> list[psycopg.Connection[Any]]:
    return []


@pytest.fixture
def reader(database: Database, connections: list[psycopg.Connection[Any]]) -> Iterator[ReadAhead]:
    def connect() -> psycopg.Connection[Any]:
        connections.append(database.connect(Role.PROJECTOR))
        return connections[-1]

    with closing(ReadAhead(connect, {TOPIC})) as reader:
        yield reader


def several(ledger: Ledger, count: int) -> None:
    for _ in range(count):
        opened(ledger)


def positions(reader: ReadAhead, start: int, limit: int) -> list[int]:
    reader.begin(start, limit)
    return taken(reader, start, limit)


def taken(reader: ReadAhead, start: int, limit: int) -> list[int]:
    chapter = reader.take(start, limit)
    assert chapter is not None
    return [fact.position for fact in chapter.facts.get(TOPIC, [])]


def test_chapters_follow_each_other_without_a_gap_also_when_the_log_grows_meanwhile(
    ledger: Ledger, reader: ReadAhead
) -> None:
    several(ledger, 5)
    assert [positions(reader, start, 2) for start in (0, 2)] == [[1, 2], [3, 4]]
    several(ledger, 2)
    read: list[int] = []
    while found := positions(reader, 4 + len(read), 2):
        read += found
    assert read == [5, 6, 7]


def test_what_was_not_begun_is_not_there_and_what_was_is_taken_once(ledger: Ledger, reader: ReadAhead) -> None:
    several(ledger, 4)
    reader.begin(2, 2)
    assert reader.take(1, 2) is None
    assert taken(reader, 2, 2) == [3, 4]
    assert reader.take(2, 2) is None


def test_of_more_than_two_begun_the_oldest_is_forgotten(ledger: Ledger, reader: ReadAhead) -> None:
    several(ledger, 4)
    for start in (0, 1, 2):
        reader.begin(start, 2)
    assert reader.take(0, 2) is None
    assert [taken(reader, start, 2) for start in (1, 2)] == [[2, 3], [3, 4]]


def test_a_lost_connection_is_an_error_once_and_then_another_is_opened(
    ledger: Ledger, reader: ReadAhead, database: Database, connections: list[psycopg.Connection[Any]]
) -> None:
    several(ledger, 2)
    assert positions(reader, 0, 5) == [1, 2]
    with psycopg.connect(database.url, autocommit=True) as admin:
        admin.execute("SELECT pg_terminate_backend(%s, 10000)", (connections[0].info.backend_pid,))
    with pytest.raises(psycopg.OperationalError):
        positions(reader, 0, 5)
    assert positions(reader, 0, 5) == [1, 2]
