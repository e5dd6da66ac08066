"""The mapper gives back exactly what was recorded, and refuses at once what it could not give back."""

import dataclasses
import json
import math
import uuid
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Literal
from uuid import UUID, uuid4

import pytest
from eventsourcing.persistence import JSONTranscoder, StoredEvent
from hypothesis import given
from hypothesis import strategies as st

from domain.kernel import Aggregate, Created, Instant, Value, event
from domain.kernel.errors import UnreadableEvent, UnrecordableEvent
from domain.kernel.mapper import Codec, StrictMapper, codec_of, decode_event

mapper = StrictMapper(transcoder=JSONTranscoder())


class Text(str):
    pass


class Inner(Value, frozen=True):
    label: str
    at: Instant


@dataclasses.dataclass(frozen=True)
class Plain:
    size: int
    inner: Inner


class Sample(Aggregate, context="mapper_tests"):
    class Made(Created):
        sample_id: UUID

    class Everything(Aggregate.Event):
        text: str
        number: int
        flag: bool
        measure: float
        id: UUID
        at: Instant
        maybe: UUID | None
        kind: Literal["a", "b"]
        words: list[str]
        ids: list[UUID]
        counts: dict[str, int]
        lists: dict[str, list[float]]
        inner: Inner
        inners: list[Inner]
        plain: Plain | None

    class Scalars(Aggregate.Event):
        text: str
        number: int
        flag: bool | None
        owner: UUID | None

    class Counted(Aggregate.Event):
        counts: dict[str, int]
        numbers: list[int]

    class Owned(Aggregate.Event):
        owner: UUID

    class Measured(Aggregate.Event):
        measure: float

    class MeasuredOrNot(Aggregate.Event):
        measure: float | None

    class Timed(Aggregate.Event):
        inner: Inner
        at: Instant

    class Renamed(Aggregate.Event):
        class_version = 3
        name: str
        length: int
        owner: UUID

        @staticmethod
        def upcast_v1_v2(state: dict[str, Any]) -> None:
            state["name"] = state.pop("title")

        @staticmethod
        def upcast_v2_v3(state: dict[str, Any]) -> None:
            state["length"] = len(state["name"])

    @event(Made)
    def __init__(self, sample_id: UUID) -> None: ...

    @staticmethod
    def create_id(sample_id: UUID) -> UUID:
        return sample_id


def stored(kind: type[Any], **fields: Any) -> StoredEvent:
    return mapper.to_stored_event(Sample.fact(kind, uuid4(), **fields))


def fields_of(fact: Any) -> dict[str, Any]:
    return {name: getattr(fact, name) for name in codec_of(type(fact).TOPIC).names}


instants = st.datetimes(
    min_value=datetime(1, 1, 2),  # noqa: DTZ001
    max_value=datetime(9999, 12, 30),  # noqa: DTZ001
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30)), timezone(timedelta(hours=-8))]),
)
# A zero character is refused, see below; lone surrogates are not text.
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
numbers = st.integers(-(2**63), 2**63 - 1)
floats = st.floats(allow_nan=False, allow_infinity=False)
inners = st.builds(Inner, label=texts, at=instants)


@given(
    text=texts,
    number=numbers,
    flag=st.booleans(),
    measure=floats,
    id=st.uuids(),
    at=instants,
    maybe=st.none() | st.uuids(),
    kind=st.sampled_from(["a", "b"]),
    words=st.lists(texts),
    ids=st.lists(st.uuids()),
    counts=st.dictionaries(texts, numbers),
    lists=st.dictionaries(texts, st.lists(floats)),
    inner=inners,
    inners=st.lists(inners),
    plain=st.none() | st.builds(Plain, size=numbers, inner=inners),
)
def test_whatever_an_event_may_carry_comes_back_equal_and_of_the_same_type(**fields: Any) -> None:
    fact = Sample.fact(Sample.Everything, uuid4(), **fields)
    back = mapper.to_domain_event(mapper.to_stored_event(fact))
    assert type(back) is Sample.Everything
    assert fields_of(back) == fields
    assert {name: type(value) for name, value in fields_of(back).items()} == {
        name: type(value) for name, value in fields.items()
    }


@given(number=st.integers())
def test_a_whole_number_of_any_size_comes_back_to_the_last_digit(number: int) -> None:
    row = stored(Sample.Counted, counts={"n": number}, numbers=[number])
    assert mapper.to_domain_event(row).numbers == [number]


def test_a_stored_event_holds_the_stream_the_version_the_topic_and_json_of_the_fields_alone() -> None:
    owner = uuid4()
    row = stored(Sample.Owned, owner=owner)
    assert (row.topic, row.originator_version) == ("mapper_tests.Sample.Owned", 1)
    assert json.loads(row.state) == {"owner": str(owner)}


def test_a_decoded_event_takes_its_time_from_the_envelope() -> None:
    now = datetime(2030, 1, 2, tzinfo=UTC)
    row = stored(Sample.Owned, owner=uuid4())
    assert decode_event(row.topic, uuid4(), 7, row.state, now).timestamp == now


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (Sample.Owned, {"owner": "a string"}),
        (Sample.Owned, {"owner": str(uuid.UUID(int=7))}),
        (Sample.Owned, {"owner": None}),
        (Sample.Measured, {"measure": math.nan}),
        (Sample.Measured, {"measure": math.inf}),
        (Sample.Measured, {"measure": -math.inf}),
        (Sample.Measured, {"measure": True}),
        (Sample.MeasuredOrNot, {"measure": math.nan}),
        (Sample.Counted, {"counts": {}, "numbers": (1, 2)}),
        (Sample.Counted, {"counts": {}, "numbers": {1, 2}}),
        (Sample.Counted, {"counts": {}, "numbers": [1.5]}),
        (Sample.Counted, {"counts": {}, "numbers": [True]}),
        (Sample.Counted, {"counts": {}, "numbers": ["1"]}),
        (Sample.Counted, {"counts": {}, "numbers": None}),
        (Sample.Counted, {"counts": {1: 1}, "numbers": []}),
        (Sample.Counted, {"counts": {uuid.UUID(int=7): 1}, "numbers": []}),
        (Sample.Counted, {"counts": {"a": None}, "numbers": []}),
        (Sample.Counted, {"counts": [], "numbers": []}),
        (Sample.Counted, {"counts": len, "numbers": []}),
        (Sample.Timed, {"inner": Inner("a", datetime(2030, 1, 1)), "at": datetime(2030, 1, 1, tzinfo=UTC)}),  # noqa: DTZ001
        (Sample.Timed, {"inner": Inner("a", datetime(2030, 1, 1, tzinfo=UTC)), "at": datetime(2030, 1, 1)}),  # noqa: DTZ001
        (Sample.Timed, {"inner": Inner("a", datetime(2030, 1, 1, tzinfo=UTC)), "at": "2030-01-01T00:00:00Z"}),
        (Sample.Timed, {"inner": {"label": "a", "at": "x"}, "at": datetime(2030, 1, 1, tzinfo=UTC)}),
        (Sample.Timed, {"inner": Inner("\ud800", datetime(2030, 1, 1, tzinfo=UTC)), "at": datetime.now(UTC)}),
        (Sample.Timed, {"inner": Inner("a\0", datetime(2030, 1, 1, tzinfo=UTC)), "at": datetime.now(UTC)}),
    ],
    ids=lambda value: str(value)[:60].replace("\0", "zero").encode("ascii", "replace").decode(),
)
def test_a_value_that_would_not_come_back_as_it_is_cannot_be_recorded(kind: type[Any], fields: dict[str, Any]) -> None:
    with pytest.raises(UnrecordableEvent):
        stored(kind, **fields)


anything = st.one_of(
    st.text(st.characters(), max_size=3),
    st.integers(),
    st.sampled_from([10**4_299, 10**4_300, -(10**5_000)]),
    st.booleans(),
    st.uuids(),
    st.none(),
    st.floats(),
    st.just(Text("text")),
    st.just(b"bytes"),
)


@given(st.fixed_dictionaries(dict.fromkeys(("text", "number", "flag", "owner"), anything)))
def test_what_is_known_to_come_back_by_its_type_is_what_does_come_back(fields: dict[str, Any]) -> None:
    codec, proving = codec_of(Sample.Scalars.TOPIC), Codec(Sample.Scalars)  # type: ignore[attr-defined]
    proving.plain = proving.textless = frozenset()
    assert len(codec.plain) == 4
    try:
        expected = proving.encode(fields)
    except UnrecordableEvent:
        with pytest.raises(UnrecordableEvent):
            codec.encode(fields)
    else:
        assert codec.encode(fields) == expected


def test_a_backslash_before_what_looks_like_a_zero_character_is_text_like_any_other() -> None:
    row = stored(Sample.Timed, inner=Inner(r"\u0000", datetime(2030, 1, 1, tzinfo=UTC)), at=datetime.now(UTC))
    assert mapper.to_domain_event(row).inner.label == r"\u0000"


@pytest.mark.parametrize(
    "hint", [datetime, tuple[int, ...], set[int], dict[UUID, int], dict[int, int], bytes, object, Any, list[datetime]]
)
def test_an_event_class_with_a_field_that_json_does_not_give_back_is_refused_by_name(hint: Any) -> None:
    class Holder(Aggregate, context=f"mapper_tests_{abs(hash(hint))}"):
        class Bad(Aggregate.Event):
            field: hint

    with pytest.raises(TypeError, match=r"Bad\.field"):
        codec_of(Holder.Bad.TOPIC)  # type: ignore[attr-defined]


def test_an_unknown_field_in_the_log_is_refused_on_load() -> None:
    state = json.dumps({"owner": str(uuid4()), "more": 1}).encode()
    with pytest.raises(UnreadableEvent, match="more"):
        decode_event("mapper_tests.Sample.Owned", uuid4(), 1, state)


@pytest.mark.parametrize("state", [b"{}", b"[]", b"", b"{", b'{"owner": 1}', b'{"owner": "not an id"}', b"\xff"])
def test_bytes_that_do_not_fit_the_class_are_refused_on_load(state: bytes) -> None:
    with pytest.raises(UnreadableEvent, match=r"mapper_tests\.Sample\.Owned"):
        decode_event("mapper_tests.Sample.Owned", uuid4(), 1, state)


@pytest.mark.parametrize("topic", ["mapper_tests.Sample.Nothing", "mapper_tests.Sample", "os:system", "", "é"])
def test_a_topic_that_is_no_event_of_the_village_is_refused_on_load(topic: str) -> None:
    with pytest.raises(UnreadableEvent):
        decode_event(topic, uuid4(), 1, b"{}")


def test_an_event_stored_at_an_older_version_is_upcast_step_by_step() -> None:
    owner = uuid4()
    first = json.dumps({"title": "abc", "owner": str(owner)}).encode()
    second = json.dumps({"name": "abcd", "owner": str(owner), "class_version": 2}).encode()
    assert fields_of(decode_event("mapper_tests.Sample.Renamed", uuid4(), 1, first)) == {
        "name": "abc", "length": 3, "owner": owner,
    }  # fmt: skip
    assert fields_of(decode_event("mapper_tests.Sample.Renamed", uuid4(), 1, second))["length"] == 4


def test_an_event_of_a_class_that_has_changed_stores_its_version_and_comes_back() -> None:
    row = stored(Sample.Renamed, name="n", length=1, owner=uuid4())
    assert json.loads(row.state)["class_version"] == 3
    assert mapper.to_domain_event(row).name == "n"


@pytest.mark.parametrize("title", [{"title": 5}, {"titel": "abc"}, {"title": "abc", "more": 1}])
def test_what_an_upcaster_makes_is_decoded_as_strictly_as_the_newest_version(title: dict[str, Any]) -> None:
    state = json.dumps({**title, "owner": str(uuid4())}).encode()
    with pytest.raises(UnreadableEvent, match="Renamed"):
        decode_event("mapper_tests.Sample.Renamed", uuid4(), 1, state)


@pytest.mark.parametrize(
    ("topic", "state"),
    [
        ("mapper_tests.Sample.Owned", {"owner": str(uuid.UUID(int=7)), "class_version": 2}),
        ("mapper_tests.Sample.Renamed", {"name": "a", "length": 1, "owner": str(uuid.UUID(int=7)), "class_version": 4}),
    ],
)
def test_an_event_of_a_newer_version_than_the_code_says_so(topic: str, state: dict[str, Any]) -> None:
    with pytest.raises(UnreadableEvent, match="newer"):
        decode_event(topic, uuid4(), 1, json.dumps(state).encode())


@pytest.mark.parametrize("version", [0, -1])
def test_a_version_before_the_first_one_is_refused(version: int) -> None:
    state = json.dumps({"name": "a", "length": 1, "owner": str(uuid4()), "class_version": version}).encode()
    with pytest.raises(UnreadableEvent):
        decode_event("mapper_tests.Sample.Renamed", uuid4(), 1, state)


def test_a_class_that_lacks_an_upcaster_is_refused_before_anything_of_it_is_written() -> None:
    class Careless(Aggregate, context="mapper_tests"):
        class Changed(Aggregate.Event):
            class_version = 2
            name: str

    with pytest.raises(TypeError, match="upcast_v1_v2"):
        codec_of(Careless.Changed.TOPIC)  # type: ignore[attr-defined]
