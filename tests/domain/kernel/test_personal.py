"""Personal text opens only at the place it was sealed for, and in no other way comes out of an event."""

import base64
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from eventsourcing.persistence import JSONTranscoder
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from domain.kernel import Aggregate, Created, Personal, PersonalText, event
from domain.kernel.errors import SealingUnavailable, SubjectErased, UnrecordableEvent
from domain.kernel.mapper import StrictMapper, codec_of, decode_event
from domain.kernel.personal import Sealed, SealedText, Shown, place_of, sealed
from domain.tokenomics.transfer import Transfer
from infrastructure.subject_keys import KEY_BITS, open_under, seal_under
from tests.keys import HeldKeys

ANN, BOB = UUID(int=1), UUID(int=2)
KEY = AESGCM.generate_key(KEY_BITS)
SECRET = "the rent for June"

mapper = StrictMapper(transcoder=JSONTranscoder())
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


class Letter(Aggregate, context="personal_tests"):
    class Written(Created):
        letter_id: UUID
        body: PersonalText
        postscript: PersonalText | None

    @event(Written)
    def __init__(self, letter_id: UUID) -> None: ...

    @staticmethod
    def create_id(letter_id: UUID) -> UUID:
        return letter_id


def written(body: Any, postscript: Any = None) -> Any:
    return Letter.fact(Letter.Written, ANN, letter_id=ANN, body=body, postscript=postscript)


def sealed_by(keys: HeldKeys | None, fact: Any, event_id: UUID) -> Any:
    return sealed(fact, event_id, codec_of(fact.TOPIC).personal, keys)


def at(event_id: UUID, topic: str, field: str, text: str = SECRET) -> SealedText:
    return SealedText(event_id, topic, field, seal_under(KEY, ANN, text.encode(), place_of(event_id, topic, field)))


def test_a_recorded_event_holds_its_personal_fields_sealed_and_the_decided_one_stays_as_it_was() -> None:
    keys, event_id = HeldKeys(), uuid4()
    fact = written(Personal(ANN, SECRET), Personal(BOB, "PS"))
    stored = mapper.to_stored_event(sealed_by(keys, fact, event_id))
    assert SECRET.encode() not in stored.state
    found = decode_event(stored.topic, ANN, 1, stored.state)
    body = SealedText(event_id, stored.topic, "body", found.body)
    postscript = SealedText(event_id, stored.topic, "postscript", found.postscript)
    assert keys.open([body, postscript]) == {body: Shown(ANN, SECRET, False), postscript: Shown(BOB, "PS", False)}
    assert (fact.body, fact.postscript) == (Personal(ANN, SECRET), Personal(BOB, "PS"))


def test_an_absent_personal_field_needs_no_key() -> None:
    class Note(Aggregate, context="personal_tests"):
        class Kept(Created):
            text: PersonalText | None

        @event(Kept)
        def __init__(self) -> None: ...

    fact = Note.fact(Note.Kept, ANN, text=None)
    assert sealed_by(None, fact, uuid4()) is fact
    assert decode_event(fact.TOPIC, ANN, 1, mapper.to_stored_event(fact).state).text is None


def test_without_keys_or_after_the_erasure_nothing_is_sealed() -> None:
    keys = HeldKeys()
    keys.keys[ANN] = None
    with pytest.raises(SealingUnavailable):
        sealed_by(None, written(Personal(ANN, SECRET)), uuid4())
    with pytest.raises(SubjectErased):
        sealed_by(keys, written(Personal(ANN, SECRET)), uuid4())


def test_the_mapper_refuses_what_is_not_sealed_and_does_not_tell_it() -> None:
    with pytest.raises(UnrecordableEvent) as refused:
        mapper.to_stored_event(written(Personal(ANN, SECRET)))
    assert SECRET not in str(refused.value)


def test_what_is_sealed_for_one_event_is_not_recorded_in_another() -> None:
    with pytest.raises(UnrecordableEvent, match="no other place"):
        sealed_by(HeldKeys(), written(Sealed(ANN, "", "")), uuid4())


def test_half_a_character_is_no_text() -> None:
    with pytest.raises(UnrecordableEvent, match="proper text"):
        sealed_by(HeldKeys(), written(Personal(ANN, "\ud800")), uuid4())


def test_a_personal_text_is_printed_and_encoded_by_nobody() -> None:
    text = Personal(ANN, SECRET)
    assert SECRET not in f"{text} {text!r} {[text]}"
    for encode in (msgspec.json.encode, msgspec.to_builtins):
        with pytest.raises(TypeError):
            encode(text)


@pytest.mark.parametrize("hint", [Personal, Sealed, Personal | None, list[PersonalText], dict[str, Sealed]])
def test_personal_text_is_a_field_of_its_own_or_the_class_is_no_event(hint: Any) -> None:
    class Odd(Aggregate, context=f"personal_tests_{uuid4().hex}"):
        class Made(Created):
            text: hint

    with pytest.raises(TypeError, match="cannot carry"):
        codec_of(Odd.Made.TOPIC)  # type: ignore[attr-defined]


def test_an_aggregate_that_keeps_personal_text_is_our_mistake() -> None:
    class Opener(Aggregate, context="personal_tests"):
        class Opened(Created):
            text: PersonalText

        class Told(Aggregate.Event):
            text: PersonalText | None

        @event(Opened)
        def __init__(self, text: PersonalText) -> None: ...

        @event(Told)
        def _told(self, text: PersonalText | None) -> None: ...

    for kind in (Opener.Opened, Opener.Told):
        with pytest.raises(TypeError, match="does not keep personal text"):
            codec_of(kind.TOPIC)  # type: ignore[union-attr]


@given(text=texts, event_id=st.uuids(), topic=names, field=names)
def test_what_is_sealed_opens_at_its_place_to_the_letter(text: str, event_id: UUID, topic: str, field: str) -> None:
    assert open_under(KEY, at(event_id, topic, field, text)) == text


@given(here=st.tuples(st.uuids(), names, names), there=st.tuples(st.uuids(), names, names), moved=st.integers(1, 7))
def test_what_is_moved_to_another_event_topic_or_field_does_not_open(
    here: tuple[UUID, str, str], there: tuple[UUID, str, str], moved: int
) -> None:
    place = tuple(new if moved & 1 << index else old for index, (old, new) in enumerate(zip(here, there, strict=True)))
    elsewhere = SealedText(place[0], place[1], place[2], at(*here).sealed)  # type: ignore[arg-type]
    assert open_under(KEY, elsewhere) == (SECRET if place == here else None)


@given(one=st.tuples(st.uuids(), names, names), other=st.tuples(st.uuids(), names, names))
def test_no_two_places_read_alike(one: tuple[UUID, str, str], other: tuple[UUID, str, str]) -> None:
    assert (place_of(*one) == place_of(*other)) == (one == other)
    event_id, topic, field = one
    assert place_of(event_id, topic + field, "") != place_of(event_id, topic, field) or not field


@given(bit=st.integers(0, 8 * (len(SECRET) + 28) - 1))
def test_a_changed_bit_of_nonce_text_or_tag_does_not_open(bit: int) -> None:
    text = at(ANN, "t", "f")
    whole = bytearray(base64.b64decode(text.sealed.nonce) + base64.b64decode(text.sealed.ciphertext))
    whole[bit // 8] ^= 1 << bit % 8
    nonce, ciphertext = (base64.b64encode(part).decode() for part in (whole[:12], whole[12:]))
    assert open_under(KEY, replace(text, sealed=Sealed(ANN, nonce, ciphertext))) is None


def test_what_is_no_base64_or_too_short_or_of_another_key_does_not_open() -> None:
    text = at(ANN, "t", "f")
    assert open_under(AESGCM.generate_key(KEY_BITS), text) is None
    for nonce, ciphertext in (("%", text.sealed.ciphertext), (text.sealed.nonce, "AAAA"), ("", text.sealed.ciphertext)):
        assert open_under(KEY, replace(text, sealed=Sealed(ANN, nonce, ciphertext))) is None


def test_the_same_text_is_never_sealed_alike() -> None:
    assert len({at(ANN, "t", "f").sealed for _ in range(50)}) == 50


def test_a_transfer_recorded_before_memos_were_sealed_is_loaded_with_its_memo_as_a_note() -> None:
    state = (
        b'{"transfer_id":"00000000-0000-0000-0000-000000000009","kind":"payment","legs":[],"memo":"epoch 7",'
        b'"cause_event_id":null}'
    )
    posted = decode_event(Transfer.Posted.TOPIC, UUID(int=9), 1, state)  # type: ignore[attr-defined]
    assert (posted.memo, posted.note) == (None, "epoch 7")
