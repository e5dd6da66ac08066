"""The aggregate base: stored names, independent copies, and a replay that equals what was lived."""

import copy
import dataclasses
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.kernel import Aggregate, Created, Value, event, new_scope, within
from domain.kernel.aggregate import event_classes
from domain.kernel.errors import UnreadableEvent
from domain.kernel.evolve import rehydrate
from domain.kernel.mapper import StrictMapper
from tests.facts import assert_replays, facts_of, mapper, names_of, replayed
from tests.ledger import Account, Overdrawn, Tag

NOW = datetime(2030, 5, 6, tzinfo=UTC)


@dataclasses.dataclass(frozen=True)
class Hold:
    grains: int


class Basket(Aggregate, context="aggregate_tests"):
    """Keeps the containers its events carry, as careless code would."""

    class Packed(Created):
        basket_id: UUID
        items: list[str]

    class Filled(Aggregate.Event):
        items: list[str]
        notes: dict[str, int]

    class Added(Aggregate.Event):
        item: str

    class Weighed(Aggregate.Event):
        weight: int

    @event(Packed)
    def __init__(self, basket_id: UUID, items: list[str]) -> None:
        self.items = items
        self.notes: dict[str, int] = {}
        self.holds: dict[str, Hold] = {}
        self.seen: set[str] = set()
        self.weight = 0

    @staticmethod
    def create_id(basket_id: UUID) -> UUID:
        return basket_id

    @event(Filled)
    def fill(self, items: list[str], notes: dict[str, int]) -> None:
        self.items = items
        self.notes = notes

    @event(Weighed)
    def weigh(self, weight: int) -> None:
        self.weight += weight

    @event(Added)
    def add(self, item: str) -> None:
        self.items.append(item)
        self.notes[item] = len(self.items)
        self.holds[item] = Hold(len(self.items))
        self.seen.add(item)


def basket(*items: str) -> Basket:
    return Basket(basket_id=uuid4(), items=list(items))


def account(balance: int = 0) -> Account:
    made = Account(account_id=uuid4(), owner="me")
    if balance:
        made.deposit(balance)
    return made


def test_stored_names_are_context_aggregate_and_event() -> None:
    assert {kind.TOPIC for kind in event_classes(Account)} == {  # type: ignore[attr-defined]
        "testing.Account.Opened", "testing.Account.Deposited", "testing.Account.Withdrawn", "testing.Account.Tagged",
    }  # fmt: skip


def test_the_context_is_the_package_under_domain_whatever_the_module_is_called() -> None:
    program = (
        "import sys, types\n"
        "for name in ('domain.pottery', 'domain.pottery.anything'):\n"
        "    sys.modules[name] = types.ModuleType(name)\n"
        "exec(compile('''\n"
        "from uuid import UUID\n"
        "from domain.kernel import Aggregate, Created, event\n"
        "class Vase(Aggregate):\n"
        "    class Thrown(Created):\n"
        "        vase_id: UUID\n"
        "    @event(Thrown)\n"
        "    def __init__(self, vase_id: UUID) -> None: ...\n"
        "''', 'vase', 'exec'), vars(sys.modules['domain.pottery.anything']))\n"
        "print(sys.modules['domain.pottery.anything'].Vase.Thrown.TOPIC)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "pottery.Vase.Thrown"


def test_a_new_aggregate_has_the_id_its_arguments_give_and_one_pending_fact() -> None:
    stream = uuid4()
    made = Account(account_id=stream, owner="me")
    assert (made.id, made.version) == (stream, 1)
    assert facts_of(made) == [(Account.Opened, {"account_id": stream, "owner": "me"})]


def test_a_fact_that_was_refused_leaves_neither_a_change_nor_a_pending_fact() -> None:
    made = account(balance=5)
    with pytest.raises(Overdrawn):
        made.withdraw(6)
    assert (made.balance, made.version, names_of(made)) == (5, 2, ["Opened", "Deposited"])


def test_a_copy_does_not_change_with_its_original_nor_the_original_with_its_copy() -> None:
    original = basket("a")
    copy = original.clone()
    assert copy == original
    original.add("b")
    assert (copy.items, copy.notes, copy.holds, copy.seen, copy.version) == (["a"], {}, {}, set(), 1)
    copy.add("c")
    assert (original.items, set(original.notes), original.seen) == (["a", "b"], {"b"}, {"b"})
    assert (names_of(original), names_of(copy)) == (["Packed", "Added"], ["Packed", "Added"])


def test_a_copy_shares_the_immutable_values_so_that_it_costs_little() -> None:
    original = basket()
    original.add("a")
    assert original.clone().holds["a"] is original.holds["a"]


def test_a_fact_that_reaches_no_container_leaves_them_shared_until_one_that_does() -> None:
    original = basket("a")
    copy = original.clone()
    copy.weigh(5)
    assert copy.items is original.items
    copy.add("b")
    assert ((copy.items, copy.weight), (original.items, original.weight)) == ((["a", "b"], 5), (["a"], 0))


def test_a_container_that_is_not_a_plain_one_is_copied_too() -> None:
    class Odd(list[int]):
        pass

    original = basket()
    original.odd = Odd([1])  # type: ignore[attr-defined]
    copy = original.clone()
    copy.add("a")
    copy.odd.append(2)  # type: ignore[attr-defined]
    assert original.odd == [1]  # type: ignore[attr-defined]


def test_a_copy_of_a_copy_shares_nothing_that_any_of_them_changes() -> None:
    original = basket("a")
    copy = original.clone()
    second = copy.clone()
    copy.add("b")
    second.add("c")
    original.add("d")
    assert [each.items for each in (original, copy, second)] == [["a", "d"], ["a", "b"], ["a", "c"]]


def test_a_fact_needs_all_the_fields_of_its_class_and_no_other() -> None:
    for fields in ({}, {"grains": 1, "colour": "red"}):
        with pytest.raises(TypeError, match="Deposited"):
            account().trigger_event(Account.Deposited, **fields)


def test_equality_ignores_the_marks_of_the_wall_clock() -> None:
    stream = uuid4()
    with within(new_scope("test", now=NOW)):
        first = Account(account_id=stream, owner="me")
    with within(new_scope("test", now=NOW + timedelta(days=1))):
        second = Account(account_id=stream, owner="me")
    assert first == second
    assert first.created_on != second.created_on


def test_equality_sees_every_other_difference() -> None:
    stream = uuid4()
    first, second = Account(account_id=stream, owner="me"), Account(account_id=stream, owner="me")
    second.deposit(1)
    assert first != second
    assert first != basket()


def test_facts_bear_the_time_of_the_running_command() -> None:
    with within(new_scope("test", now=NOW)):
        made = account(balance=1)
    assert {fact.timestamp for fact in made.pending_events} == {NOW}


def test_what_an_aggregate_does_later_does_not_change_the_facts_it_decided_before() -> None:
    made = basket("a")
    made.fill(["x"], {"x": 1})
    made.add("y")
    assert facts_of(made)[0][1]["items"] == ["a"]
    assert facts_of(made)[1][1] == {"items": ["x"], "notes": {"x": 1}}


def test_what_a_caller_does_with_a_list_it_gave_does_not_change_the_fact() -> None:
    items = ["a"]
    made = Basket(basket_id=uuid4(), items=items)
    loose = Basket.fact(Basket.Filled, uuid4(), items=items, notes={})
    items.append("b")
    assert facts_of(made)[0][1]["items"] == ["a"]
    assert loose.items == ["a"]


basket_steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.text(max_size=3)),
        st.tuples(st.just("fill"), st.lists(st.text(max_size=3), max_size=3)),
    ),
    max_size=12,
)


@given(start=st.lists(st.text(max_size=3), max_size=3), steps=basket_steps)
def test_replay_equals_life_even_for_an_aggregate_that_keeps_its_events_containers(
    start: list[str], steps: list[tuple[str, Any]]
) -> None:
    texts = [*start, *(text for _, given in steps for text in given)]
    if any("\0" in text or not text.isprintable() for text in texts):
        return
    made = basket(*start)
    for name, given_items in steps:
        made.add(given_items) if name == "add" else made.fill(given_items, {})
    assert_replays(made)


commands = st.lists(
    st.one_of(
        st.tuples(st.just("deposit"), st.integers(1, 10)),
        st.tuples(st.just("withdraw"), st.integers(1, 12)),
        st.tuples(st.just("tag"), st.lists(st.builds(Tag, name=st.sampled_from("abc"), weight=st.integers()))),
    ),
    max_size=25,
)


@given(steps=commands)
def test_replaying_the_facts_of_any_commands_gives_the_aggregate_that_decided_them(
    steps: list[tuple[str, Any]],
) -> None:
    lived = account()
    for name, argument in steps:
        try:
            match name:
                case "deposit":
                    lived.deposit(argument)
                case "withdraw":
                    lived.withdraw(argument)
                case _:
                    lived.tag(argument, {"n": len(argument)}, None, NOW)
        except Overdrawn:
            pass
    assert lived.balance >= 0
    assert_replays(lived)
    folded = replayed(lived.pending_events[:1])
    assert isinstance(folded, Account)
    for fact in lived.pending_events[1:]:
        folded.evolve_by(mapper.to_domain_event(mapper.to_stored_event(fact)))
    assert (folded.balance, folded.tags) == (lived.balance, lived.tags)


@given(start=st.lists(st.text(max_size=3), max_size=3), items=st.lists(st.text(max_size=3), max_size=5))
def test_facts_and_aggregates_are_those_that_the_library_itself_makes(start: list[str], items: list[str]) -> None:
    lived = basket(*start)
    for item in items:
        lived.add(item)
    pending = copy.deepcopy(lived.pending_events)
    theirs = [type(fact)(**vars(fact)) for fact in pending]
    assert [vars(fact) for fact in theirs] == [vars(fact) for fact in pending]
    replayed_by_library: Any = theirs[0].mutate(None)
    for fact in theirs[1:]:
        fact.mutate(replayed_by_library)
    assert vars(replayed_by_library).keys() == vars(lived).keys()
    assert replayed_by_library == lived
    assert (replayed_by_library.version, replayed_by_library.modified_on) == (lived.version, lived.modified_on)


def test_a_stream_with_a_missing_version_cannot_be_loaded() -> None:
    lived = account(balance=7)
    lived.withdraw(3)
    rows = [mapper.to_stored_event(fact) for fact in lived.pending_events]
    with pytest.raises(UnreadableEvent, match="lacks version 2"):
        rehydrate(lived.id, [rows[0], rows[2]])


def test_a_stream_without_its_first_fact_cannot_be_loaded() -> None:
    lived = account(balance=7)
    rows = [mapper.to_stored_event(fact) for fact in lived.pending_events]
    with pytest.raises(UnreadableEvent, match="opens"):
        rehydrate(lived.id, rows[1:])


def test_no_rows_are_no_aggregate() -> None:
    assert rehydrate(uuid4(), []) is None


def test_the_mapper_of_the_tests_is_the_one_of_the_log() -> None:
    assert type(mapper) is StrictMapper


def test_a_value_cannot_be_changed() -> None:
    class Size(Value, frozen=True):
        width: int

    with pytest.raises(AttributeError):
        Size(1).width = 2  # type: ignore[misc]
