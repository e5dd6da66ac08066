"""Ids that are made from others are the same for ever."""

import pickle
from uuid import UUID, uuid5

from hypothesis import given
from hypothesis import strategies as st

from domain.kernel import derive
from domain.kernel.ids import event_id, namespace


@given(command_id=st.uuids(), index=st.integers(0, 4_095))
def test_the_id_of_an_event_is_the_name_based_one_of_its_command(command_id: UUID, index: int) -> None:
    made, named = event_id(command_id, index), uuid5(command_id, str(index))
    assert (made, made.version, made.variant, str(made), hash(made)) == (
        named, 5, named.variant, str(named), hash(named),
    )  # fmt: skip
    assert pickle.loads(pickle.dumps(made)) == named


def test_the_same_kind_and_key_always_give_the_same_id_and_other_ones_another() -> None:
    assert derive("things.Thing", "a", 1) == derive("things.Thing", "a", "1")
    assert len({derive("things.Thing", "a"), derive("things.Thing", "b"), derive("things.Other", "a")}) == 3


def test_the_root_of_all_ids_never_changes_for_they_are_in_the_log() -> None:
    assert str(namespace("things.Thing")) == "67000e8e-3ea5-571d-b051-28440994f677"
    assert str(derive("things.Thing", "a")) == "8a27506a-997f-53ad-9774-fa248cddb08a"
