"""What a command decided, made ready to be written, and what the cache learns when it was."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import count, repeat
from uuid import UUID

from .aggregate import Aggregate
from .cache import AggregateCache
from .ids import event_id_bytes
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
    numbers: defaultdict[int, count[int]] = defaultdict(count)
    appends = []
    for fact in facts:
        event, command = fact.event, (fact.scope or asked).command_id.int
        codec, named = codec_of(event.TOPIC), event_id_bytes(command, next(numbers[command]))
        if codec.personal:
            event = sealed(event, UUID(bytes=named), codec.personal, keys)
        values = event.__dict__
        stream = values["originator_id"]
        version = None if fact.loose or stream.int not in exact else values["originator_version"]
        appends.append(Append(stream, version, codec.topic, codec.encode(values), named, fact.opener, fact.scope))
    return appends


def remember(
    cache: AggregateCache,
    held: Mapping[UUID, Aggregate],
    facts: Sequence[Decided],
    appends: Sequence[Append],
    written: Written,
) -> None:
    """Keep what was recorded as decided, move on what loose facts came to, forget what others appended to or is over.

    A unit has moved its aggregates on by its loose facts, whose versions are known only now.
    """
    aggregates = {stream.int: aggregate for stream, aggregate in held.items()}
    newest: dict[int, tuple[UUID, int]] = {}
    over: set[int] = set()
    loose: dict[int, int] = {}
    for fact, append, version in zip(facts, appends, written.versions or repeat(0), strict=False):
        key = append.stream.int
        if version or key not in newest:
            newest[key] = (append.stream, version)
        if fact.event.closes:
            over.add(key)
        if append.version is None and not append.opener:
            if key not in aggregates:
                cache.move_on(append.stream, version, fact.event)
            elif append.scope is not None:
                loose[key] = loose.get(key, 0) + 1
    for key, (stream, version) in newest.items():
        aggregate = aggregates.get(key)
        if aggregate is not None and version == aggregate.version + loose.get(key, 0):
            aggregate.version = version
            cache.drop(stream) if key in over else cache.put(aggregate)
        elif aggregate is not None or not version:
            cache.drop(stream)
