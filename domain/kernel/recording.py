"""What a command decided, made ready to be written, and what the cache learns when it was."""

from collections import Counter
from collections.abc import Mapping, Sequence
from uuid import UUID

from .aggregate import Aggregate
from .cache import AggregateCache
from .ids import event_id
from .mapper import codec_of
from .personal import SubjectKeys, sealed
from .scope import CommandScope
from .unit import Decided, exact_streams
from .write import Append, Written


def appends_of(facts: Sequence[Decided], asked: CommandScope, keys: SubjectKeys | None) -> list[Append]:
    """Facts encoded under the ids of their commands, personal text sealed.

    Raises:
        SealingUnavailable, SubjectErased: a personal text cannot be sealed.
    """
    exact = exact_streams(facts)
    counts: Counter[int] = Counter()
    appends = []
    for fact in facts:
        command_id = (fact.scope or asked).command_id
        event, codec, number = fact.event, codec_of(fact.event.TOPIC), counts.get(command_id.int, 0)
        counts[command_id.int] = number + 1
        named = event_id(command_id, number)
        if codec.personal:
            event = sealed(event, named, codec.personal, keys)
        stream = event.originator_id
        version = event.originator_version if stream in exact and not fact.loose else None
        appends.append(Append(stream, version, codec.topic, codec.encode(vars(event)), named, fact.opener, fact.scope))
    return appends


def remember(
    cache: AggregateCache,
    held: Mapping[UUID, Aggregate],
    facts: Sequence[Decided],
    appends: Sequence[Append],
    written: Written,
) -> None:
    """Keep what was recorded as decided, move on what loose facts came to, forget what others appended to.

    A unit has moved its aggregates on by its loose facts, whose versions are known only now.
    """
    newest = dict.fromkeys([append.stream for append in appends], 0)
    loose: Counter[UUID] = Counter()
    for fact, append, version in zip(facts, appends, written.versions, strict=False):
        if version:
            newest[append.stream] = version
        if append.version is None and not append.opener:
            if append.stream not in held:
                cache.move_on(append.stream, version, fact.event)
            elif append.scope is not None:
                loose[append.stream] += 1
    for stream, version in newest.items():
        aggregate = held.get(stream)
        if aggregate is not None and version == aggregate.version + loose[stream]:
            aggregate.version += loose[stream]
            cache.put(aggregate)
        elif aggregate is not None or not version:
            cache.drop(stream)
