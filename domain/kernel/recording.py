"""What a command decided, made ready to be written, and what the cache learns when it was."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import count, repeat
from typing import Any
from uuid import UUID

from .cache import AggregateCache
from .ids import event_id_bytes
from .mapper import codec_of
from .personal import SubjectKeys, sealed
from .scope import CommandScope
from .unit import Decided, Held, exact_streams
from .write import Append, Written


def appends_of(facts: Sequence[Decided], asked: CommandScope, keys: SubjectKeys | None) -> list[Append]:
    """Facts encoded under the ids of their commands, personal text sealed.

    Raises:
        SealingUnavailable, SubjectErased: a personal text cannot be sealed.
    """
    exact: set[int] | None = None
    numbers: defaultdict[int, count[int]] = defaultdict(count)
    asked_id = asked.command_id.int
    kind: Any = None
    appends = []
    for fact in facts:
        event, of = fact.event, fact.scope
        if event.__class__ is not kind:  # mostly one of many in a row
            kind = event.__class__
            codec, commutes = codec_of(kind.TOPIC), kind.commutes
            topic, encode, personal = codec.topic, codec.encode, codec.personal
        command = asked_id if of is None else of.command_id.int
        named = event_id_bytes(command, next(numbers[command]))
        if personal:
            event = sealed(event, UUID(bytes=named), personal, keys)
        values = event.__dict__
        stream, version = values["originator_id"], None if fact.loose else values["originator_version"]
        if commutes and not fact.loose:
            exact = exact_streams(facts) if exact is None else exact
            version = version if stream.int in exact else None
        appends.append(Append(stream, version, topic, encode(values), named, fact.opener, of))
    return appends


def remember(
    cache: AggregateCache, held: Held, facts: Sequence[Decided], appends: Sequence[Append], written: Written
) -> None:
    """Keep what was recorded as decided, move on what loose facts came to, forget what others appended to or is over.

    A unit has moved its aggregates on by its loose facts, whose versions are known only now.
    """
    newest: dict[int, int] = {}
    over: set[int] = set()
    loose: dict[int, int] = {}
    told: list[tuple[int, int, Any]] = []
    for fact, append, version in zip(facts, appends, written.versions or repeat(0), strict=False):
        key = append.stream.int
        if append.version is None and not append.opener:
            if key not in held:
                told.append((key, version, fact.event))
                if version and key not in newest:
                    continue
            elif append.scope is not None:
                loose[key] = loose.get(key, 0) + 1
        if version or key not in newest:
            newest[key] = version
        if fact.event.closes:
            over.add(key)
    cache.move_on(told)
    gone = []
    for key, version in newest.items():
        aggregate = held.get(key)
        if aggregate is None:
            if not version:
                gone.append(key)
            continue
        if stands := version == aggregate._version + loose.get(key, 0):
            aggregate.version = version
        if stands and key not in over:
            cache.put(aggregate)
        else:
            gone.append(key)
    cache.drop_all(gone)
