"""Ids that are made from others are the same for ever."""

import os
import pickle
from uuid import RFC_4122, UUID, uuid5

from hypothesis import given
from hypothesis import strategies as st

from domain.kernel import derive
from domain.kernel.ids import event_id, namespace, random_id
from domain.kernel.ids import named as derived
from domain.kernel.write import MAX_EVENTS_PER_COMMAND


@given(command_id=st.uuids(), indices=st.sets(st.integers(0, MAX_EVENTS_PER_COMMAND - 1), max_size=9))
def test_the_events_of_a_command_have_ids_of_their_own_none_of_them_the_commands(
    command_id: UUID, indices: set[int]
) -> None:
    made = [event_id(command_id, index) for index in indices]
    assert len({command_id, *made}) == 1 + len(indices)
    assert {(each.version, each.variant) for each in made} <= {(command_id.version, command_id.variant)}
    assert made == [event_id(command_id, index) for index in indices]
    assert pickle.loads(pickle.dumps(made)) == [UUID(str(each)) for each in made]


@given(space=st.uuids(), name=st.text(st.characters(exclude_categories=["Cs"])))
def test_a_name_based_id_is_that_of_the_standard(space: UUID, name: str) -> None:
    made, named = derived(space, name), uuid5(space, name)
    assert (made, made.version, made.variant, str(made), hash(made)) == (
        named, 5, named.variant, str(named), hash(named),
    )  # fmt: skip


def test_random_ids_are_those_of_the_standard_and_never_given_twice_not_even_by_a_fork() -> None:
    drawn = [random_id() for _ in range(1_000)]
    assert {(each.version, each.variant) for each in drawn} == {(4, RFC_4122)}
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        os.write(write, b"".join(random_id().bytes for _ in range(100)))
        os._exit(0)
    os.waitpid(child, 0)
    told = os.read(read, 1_600)
    drawn += [UUID(bytes=told[at : at + 16]) for at in range(0, 1_600, 16)]
    drawn += [random_id() for _ in range(100)]
    assert len(set(drawn)) == 1_200


def test_the_same_kind_and_key_always_give_the_same_id_and_other_ones_another() -> None:
    assert derive("things.Thing", "a", 1) == derive("things.Thing", "a", "1")
    assert len({derive("things.Thing", "a"), derive("things.Thing", "b"), derive("things.Other", "a")}) == 3


def test_the_root_of_all_ids_never_changes_for_they_are_in_the_log() -> None:
    assert str(namespace("things.Thing")) == "67000e8e-3ea5-571d-b051-28440994f677"
    assert str(derive("things.Thing", "a")) == "8a27506a-997f-53ad-9774-fa248cddb08a"
