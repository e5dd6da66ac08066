"""Personal text: in the log only sealed under the key of the person it is about; without that key nobody reads it.

An event declares `memo: PersonalText | None`. A decision gives it a `Personal`, the event log seals that when the event
has its id, and whoever reads the log gets a `Sealed`. Aggregates never keep it, so no state of theirs depends on a key.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol
from uuid import UUID

from .errors import SealingUnavailable, UnrecordableEvent
from .events import Value


class Personal:
    """A text and the person it is about, in the clear. No encoder knows this type, and `repr` hides the text."""

    __slots__ = ("subject", "text")

    def __init__(self, subject: UUID, text: str) -> None:
        self.subject = subject
        self.text = text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Personal) and (self.subject, self.text) == (other.subject, other.text)

    def __hash__(self) -> int:
        return hash((self.subject, self.text))

    def __repr__(self) -> str:
        return f"Personal({self.subject})"


class Sealed(Value, frozen=True):
    """A personal text as an event stores it (AES-256-GCM, base64). It opens only at the place it was sealed for."""

    subject: UUID
    nonce: str
    ciphertext: str


PersonalText = Personal | Sealed
"""The type of an event's personal field: in the clear until it is recorded, sealed ever after."""


class SealedText(Value, frozen=True):
    """A sealed text with its place in the log, as read models keep it."""

    event_id: UUID
    topic: str
    field: str
    sealed: Sealed

    @property
    def place(self) -> bytes:
        return place_of(self.event_id, self.topic, self.field)


class Shown(Value, frozen=True):
    """A personal text as a reader may see it. `text` is None when its subject is erased, or its key is out of reach."""

    subject: UUID
    text: str | None
    erased: bool


def place_of(event_id: UUID, topic: str, field: str) -> bytes:
    """What a seal is bound to (its associated data): a version byte, event id, length of the topic, topic, field."""
    named = topic.encode()
    return b"\x01" + event_id.bytes + len(named).to_bytes(2, "big") + named + field.encode()


class SubjectKeys(Protocol):
    """Port: seals and opens texts under keys of their subjects, which are kept outside the log."""

    def seal(self, subject: UUID, text: bytes, place: bytes) -> Sealed:
        """Seal under the subject's key, made when there is none.

        Raises:
            SubjectErased: the subject is erased and gets no key again. SealingUnavailable: no key can be had now.
        """

    def open(self, texts: Iterable[SealedText]) -> Mapping[SealedText, Shown]:
        """What can be shown of these texts now."""


def sealed(event: Any, event_id: UUID, fields: Iterable[str], keys: SubjectKeys | None) -> Any:
    """An event that has been decided, with its personal fields sealed: a copy, for the event itself stays as it is.

    Raises:
        UnrecordableEvent: a field holds something else than a `Personal` of proper text.
        SubjectErased, SealingUnavailable: as the keys say.
    """
    given = {field: value for field in fields if (value := getattr(event, field)) is not None}
    if not given:
        return event
    if keys is None:
        raise SealingUnavailable(f"{event.TOPIC}: this event log has no keys of subjects")
    twin = object.__new__(type(event))
    twin.__dict__.update(vars(event))
    for field, value in given.items():
        if not isinstance(value, Personal):
            raise UnrecordableEvent(f"{event.TOPIC}.{field}: what is sealed already opens at no other place")
        try:
            text = value.text.encode()
        except UnicodeEncodeError:
            raise UnrecordableEvent(f"{event.TOPIC}.{field}: not a proper text") from None
        twin.__dict__[field] = keys.seal(value.subject, text, place_of(event_id, event.TOPIC, field))
    return twin


def sealed_text(fact: Any, field: str) -> SealedText | None:
    """A personal field of a recorded fact, with its place; None when it has none."""
    value: Sealed | None = getattr(fact.event, field)
    return None if value is None else SealedText(fact.event_id, fact.topic, field, value)
