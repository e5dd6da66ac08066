"""Statements that share a round trip: answered in order, and none is tried behind one that failed."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from infrastructure.event_store.arrays import bigint
from infrastructure.event_store.exchange import Answer, Exchange


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    connection = psycopg.connect(database_url, autocommit=True)
    yield connection
    connection.close()


def test_each_statement_gets_its_own_answer_however_often_it_is_asked(connection: psycopg.Connection[Any]) -> None:
    for _ in range(3):
        exchange = Exchange(connection)
        answers = [exchange.ask("SELECT generate_series(1, $1::bigint)", bigint(number)) for number in range(3)]
        nothing = exchange.ask("SET statement_timeout = 0")
        exchange.end()
        assert [answer.rows() for answer in answers] == [[], [(1,)], [(1,), (2,)]]
        assert nothing.rows() == Answer().rows() == []
    assert connection.execute("SELECT 1").fetchone() == (1,)


def test_behind_a_statement_that_fails_none_is_tried(connection: psycopg.Connection[Any], database_url: str) -> None:
    exchange = Exchange(connection)
    exchange.ask("CREATE SCHEMA before")
    exchange.ask("SELECT 1 / $1::bigint", bigint(0))
    exchange.ask("CREATE SCHEMA behind")
    with pytest.raises(psycopg.errors.DivisionByZero):
        exchange.end()
    with psycopg.connect(database_url) as other:
        found = other.execute("SELECT nspname FROM pg_namespace WHERE nspname IN ('before', 'behind')").fetchall()
    assert found == []


def test_what_is_asked_outside_of_a_block_is_one_transaction_and_its_commit_may_fail(
    connection: psycopg.Connection[Any], database_url: str
) -> None:
    connection.execute("CREATE TABLE chosen (number bigint UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    exchange = Exchange(connection)
    for _ in range(2):
        assert exchange.ask("INSERT INTO chosen VALUES ($1::bigint)", bigint(7)).result is None
    with pytest.raises(psycopg.errors.UniqueViolation):
        exchange.end()
    with psycopg.connect(database_url) as other:
        assert other.execute("SELECT * FROM chosen").fetchall() == []


def test_a_connection_that_ends_meanwhile_is_an_operational_error(
    connection: psycopg.Connection[Any], database_url: str
) -> None:
    exchange = Exchange(connection)
    exchange.ask("SELECT pg_terminate_backend(pg_backend_pid())")
    with pytest.raises(psycopg.OperationalError):
        exchange.end()
    assert connection.broken
