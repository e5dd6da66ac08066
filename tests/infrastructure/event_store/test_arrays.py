"""Values packed by hand arrive as the driver's own would."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infrastructure.event_store.arrays import bigint, bigints, byteas, instant, texts, uuids
from infrastructure.event_store.exchange import Exchange

some_texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
some_bigints = st.integers(-(2**63), 2**63 - 1)


@pytest.fixture(scope="module")
def connection(shared_database_url: str) -> psycopg.Connection[Any]:
    return psycopg.connect(shared_database_url, autocommit=True)


def arrived(connection: psycopg.Connection[Any], kind: str, packed: bytes) -> Any:
    exchange = Exchange(connection)
    answer = exchange.ask(f"SELECT $1::{kind}", packed)
    exchange.end()
    return answer.rows()[0][0]


@pytest.mark.parametrize(
    ("pack", "of", "kind"),
    [
        (uuids, st.uuids(), "uuid[]"),
        (bigints, some_bigints, "bigint[]"),
        (byteas, st.binary(), "bytea[]"),
        (texts, some_texts, "text[]"),
    ],
)
@given(data=st.data())
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_items_arrive_in_order_and_as_often_as_asked(
    connection: psycopg.Connection[Any],
    pack: Callable[..., bytes],
    of: st.SearchStrategy[Any],
    kind: str,
    data: st.DataObject,
) -> None:
    items = data.draw(st.lists(of))
    assert arrived(connection, kind, pack(items)) == items
    times = data.draw(st.lists(st.integers(0, 3), min_size=len(items), max_size=len(items)))
    repeated = [item for item, count in zip(items, times, strict=True) for _ in range(count)]
    assert arrived(connection, kind, pack(items, times)) == repeated


@given(st.datetimes(timezones=st.just(UTC)), some_bigints)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_number_and_any_instant_arrive(connection: psycopg.Connection[Any], moment: datetime, number: int) -> None:
    assert arrived(connection, "timestamptz", instant(moment)) == moment
    assert arrived(connection, "bigint", bigint(number)) == number
