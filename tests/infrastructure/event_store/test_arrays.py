"""Arrays packed by hand arrive as the driver's own would."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infrastructure.event_store.arrays import Bigints, Byteas, Packed, Texts, Uuids

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


@pytest.fixture(scope="module")
def connection(shared_database_url: str) -> psycopg.Connection[Any]:
    return psycopg.connect(shared_database_url, autocommit=True)


@pytest.mark.parametrize(
    ("kind", "of", "name"),
    [
        (Uuids, st.uuids(), "uuid"),
        (Bigints, st.integers(-(2**63), 2**63 - 1), "bigint"),
        (Byteas, st.binary(), "bytea"),
        (Texts, texts, "text"),
    ],
)
@given(data=st.data())
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_items_arrive_in_order(
    connection: psycopg.Connection[Any],
    kind: Callable[[list[Any]], Packed],
    of: st.SearchStrategy[Any],
    name: str,
    data: st.DataObject,
) -> None:
    items = data.draw(st.lists(of))
    row = connection.execute(
        f"SELECT %b::{name}[], pg_typeof(%b)::text".encode(), (kind(items), kind(items))
    ).fetchone()
    assert row == (items, f"{name}[]")
