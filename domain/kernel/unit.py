"""What a command has decided and not yet recorded, and the unit of work that gathers several commands."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from uuid import UUID

import msgspec

from .aggregate import Aggregate, Event, detached
from .evolve import evolve_by
from .write import Receipt


@dataclass(frozen=True, slots=True)
class Opener:
    """The fact that opens a stream, written only if the stream does not exist yet."""

    event: Event


Recordable = Aggregate | Event | Opener


class Decided(msgspec.Struct, frozen=True, gc=False):
    """One fact to record. A loose one was made without its aggregate, so it has no version of its own."""

    event: Any
    loose: bool = False
    opener: bool = False


@dataclass(slots=True)
class Unit:
    """A unit of work: commands called inside it are recorded together, in one transaction."""

    aggregates: dict[UUID, Aggregate] = field(default_factory=dict)
    facts: list[Decided] = field(default_factory=list)
    loose: dict[UUID, list[Decided]] = field(default_factory=dict)
    receipt: Receipt | None = None

    def add(self, facts: Sequence[Decided], held: dict[UUID, Aggregate], receipt: Receipt) -> None:
        """Take over what one command decided."""
        self.facts.extend(facts)
        self.aggregates.update(held)
        for fact in facts:
            stream = fact.event.originator_id
            if fact.loose:
                self.loose.setdefault(stream, []).append(fact)
                if stream in self.aggregates:
                    _move_on(self.aggregates[stream], fact)
        self.receipt = receipt

    def copy(self) -> "Unit":
        """The unit as it is now, to go back to when a command of it is refused."""
        aggregates = {stream: aggregate.clone() for stream, aggregate in self.aggregates.items()}
        loose = {stream: list(facts) for stream, facts in self.loose.items()}
        return Unit(aggregates, list(self.facts), loose, self.receipt)

    def moved_on(self, stream: UUID, aggregate: Aggregate | None) -> Aggregate | None:
        """An aggregate as it is after the loose facts of the commands before; their versions are not known yet."""
        for fact in self.loose.get(stream, ()):
            if aggregate is not None:
                _move_on(aggregate, fact)
            elif fact.opener:
                aggregate = cast(Aggregate, detached(fact.event).mutate(None))
        return aggregate


def collected(things: Sequence[Recordable]) -> list[Decided]:
    """Aggregates replaced by their pending events, in the order given."""
    return [fact for thing in things for fact in _facts(thing)]


def exact_streams(facts: Sequence[Decided]) -> set[UUID]:
    """Streams with at least one fact of an aggregate that does not commute: appended at the exact version."""
    return {fact.event.originator_id for fact in facts if not fact.loose and not fact.event.commutes}


def _facts(thing: Recordable) -> Iterator[Decided]:
    if isinstance(thing, Aggregate):
        yield from map(Decided, thing.collect_events())
    elif isinstance(thing, Opener):
        yield Decided(thing.event, loose=True, opener=True)
    else:
        assert thing.commutes or hasattr(thing, "originator_topic"), f"{type(thing).__name__} needs its aggregate"
        yield Decided(thing, loose=thing.commutes)


def _move_on(aggregate: Aggregate, fact: Decided) -> None:
    if not fact.opener:
        evolve_by(aggregate, fact.event)
