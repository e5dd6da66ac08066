"""Cursors: each value comes back as it went in, and nothing else is taken for a cursor."""

from contextlib import suppress
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.edge.connection import CursorInvalid, Keyset, Source, equals

KEYSET = Keyset("things", ("made_at", "size", "name", "thing_id"), (datetime, int, str, UUID))
INSTANTS = st.datetimes(timezones=st.just(UTC))
INTEGERS = st.integers(-(2**62), 2**62)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@given(INSTANTS, INTEGERS, NAMES, st.uuids())
def test_a_cursor_gives_back_the_values_of_its_row(at: datetime, size: int, name: str, thing: UUID) -> None:
    cursor = KEYSET.cursor([at, size, name, thing])
    assert KEYSET.values(cursor) == (at, size, name, thing)
    assert cursor.isascii()
    assert not set(cursor) & set("+/= ")


@given(st.one_of(st.text(), st.text("ABCDefgh0123-_", max_size=80)))
def test_what_is_no_cursor_is_refused_and_breaks_nothing(text: str) -> None:
    with suppress(CursorInvalid):
        assert [type(value) for value in KEYSET.values(text)] == [datetime, int, str, UUID]


@given(INSTANTS, INTEGERS, NAMES, st.uuids(), st.data())
def test_a_cursor_with_one_character_changed_is_refused_or_well_formed(
    at: datetime, size: int, name: str, thing: UUID, data: st.DataObject
) -> None:
    cursor = KEYSET.cursor([at, size, name, thing])
    where = data.draw(st.integers(0, len(cursor) - 1))
    other = data.draw(st.sampled_from("ABCxyz019-_!é"))
    with suppress(CursorInvalid):
        values = KEYSET.values(cursor[:where] + other + cursor[where + 1 :])
        assert [type(value) for value in values] == [datetime, int, str, UUID]


def test_no_condition_is_forgotten_for_another_of_the_same_name() -> None:
    own, asked = equals("subject_id", 1), equals("subject_id", 2)
    with pytest.raises(AssertionError, match="two conditions give subject_id"):
        Source("read.things", ("thing_id",), [*own, *asked]).count()
    assert Source("read.things", ("thing_id",), [*own, *own]).count()[1] == {"subject_id": 1}
