"""What a command has decided and not yet recorded, and the unit of work that gathers several commands."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeGuard, cast

import msgspec

from .aggregate import Aggregate
from .errors import CommandTooLarge
from .events import Event, begun
from .scope import CommandScope, scope
from .write import MAX_EVENTS_PER_COMMAND, Receipt


@dataclass(frozen=True, slots=True)
class Opener:
    """The fact that opens a stream, written only if the stream does not exist yet."""

    event: Event


Recordable = Aggregate | Event | Opener
Held = dict[int, Aggregate]
"""Aggregates by the numbers of their streams: a UUID hashes slowly."""


class Decided(msgspec.Struct, frozen=True, gc=False):
    """One fact to record. A loose one was made without its aggregate, so it has no version of its own.

    `scope` is that of its command in a unit of work; otherwise that of the write.
    """

    event: Any
    loose: bool = False
    opener: bool = False
    scope: CommandScope | None = None


@dataclass(slots=True)
class Unit:
    """A unit of work: commands called inside it are recorded together, in one transaction.

    It may lie over another one, which shows through, until it is merged into that one or dropped.
    """

    below: "Unit | None" = None
    aggregates: Held = field(default_factory=dict)
    facts: list[Decided] = field(default_factory=list)
    loose: dict[int, list[Decided]] = field(default_factory=dict)
    receipt: Receipt | None = None

    def add(self, facts: Sequence[Decided], held: Held, receipt: Receipt) -> None:
        """Take over what one command decided.

        Raises:
            CommandTooLarge: all of them together have more events than one transaction takes.
        """
        asked = scope()
        self.facts.extend(Decided(fact.event, fact.loose, fact.opener, asked) for fact in facts)
        self.aggregates.update(held)
        for fact in facts:
            stream = fact.event.originator_id.int
            if fact.loose:
                self.loose.setdefault(stream, []).append(fact)
                if (aggregate := self.held(stream)) is not None:
                    _move_on(self.aggregates.setdefault(stream, aggregate), fact)
            elif stream not in self.aggregates:
                self.aggregates[stream] = begun(fact.event)
        self.receipt = receipt
        if len(self.facts) > MAX_EVENTS_PER_COMMAND:
            raise CommandTooLarge(f"{len(self.facts)} events, at most {MAX_EVENTS_PER_COMMAND}")

    def held(self, stream: int) -> Aggregate | None:
        """A copy of an aggregate that a command before has recorded (the unit's own one, where this unit has it)."""
        if stream in self.aggregates:
            return self.aggregates[stream]
        found = self.below.held(stream) if self.below is not None else None
        return None if found is None else found.clone()

    def merge(self) -> None:
        """Hand what was decided to the unit below."""
        assert self.below is not None
        self.below.facts.extend(self.facts)
        self.below.aggregates.update(self.aggregates)
        for stream, facts in self.loose.items():
            self.below.loose.setdefault(stream, []).extend(facts)
        self.below.receipt = self.receipt or self.below.receipt

    def moved_on(self, stream: int, aggregate: Aggregate | None) -> Aggregate | None:
        """An aggregate as it is after the loose facts of the commands before; their versions are not known yet."""
        if self.below is not None:
            aggregate = self.below.moved_on(stream, aggregate)
        for fact in self.loose.get(stream, ()):
            if aggregate is not None:
                _move_on(aggregate, fact)
            elif fact.opener:
                aggregate = begun(fact.event)
        return aggregate


def collected(things: Sequence[Recordable]) -> tuple[list[Decided], Held]:
    """Aggregates replaced by their pending events, in the order given; and the aggregates."""
    facts: list[Decided] = []
    held: Held = {}
    for thing in things:
        if is_aggregate(thing):
            held[thing._id.int] = thing
            facts.extend(map(Decided, thing.collect_events()))
        elif isinstance(thing, Opener):
            facts.append(Decided(thing.event, loose=True, opener=True))
        else:
            event = cast(Event, thing)
            assert event.commutes or hasattr(event, "originator_topic"), f"{type(event).__name__} needs its aggregate"
            facts.append(Decided(event, loose=event.commutes))
    return facts, held


def is_aggregate(thing: Any) -> TypeGuard[Aggregate]:
    """`isinstance`, asked once for each class: of an abstract one it takes long."""
    return _is_aggregate(thing.__class__)


@cache
def _is_aggregate(kind: Any) -> bool:
    return issubclass(kind, Aggregate)


def exact_streams(facts: Sequence[Decided]) -> set[int]:
    """Numbers of the streams with a fact of an aggregate that does not commute: appended at the exact version."""
    return {fact.event.originator_id.int for fact in facts if not fact.loose and not fact.event.commutes}


def _move_on(aggregate: Aggregate, fact: Decided) -> None:
    if not fact.opener:
        aggregate.evolve_by(fact.event)
