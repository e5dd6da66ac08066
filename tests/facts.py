"""Facts in, facts out: what the tests of aggregates say about decisions."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import pytest
from eventsourcing.persistence import JSONTranscoder

from domain.kernel import Aggregate, Refusal
from domain.kernel.evolve import rehydrate
from domain.kernel.mapper import StrictMapper, codec_of
from domain.kernel.personal import sealed
from tests.keys import HeldKeys

FactIn = tuple[type[Any], dict[str, Any]]

KEYS = HeldKeys()
mapper = StrictMapper(transcoder=JSONTranscoder())


def facts_of(aggregate: Aggregate) -> list[FactIn]:
    """What an aggregate has decided and not yet recorded, oldest first: `(Wallet.FundsHeld, {"grains": 5, ...})`."""
    return [(type(fact), _fields(fact)) for fact in aggregate.pending_events]


def names_of(aggregate: Aggregate) -> list[str]:
    """The names of the facts not yet recorded, oldest first: `["Opened", "FundsHeld"]`."""
    return [type(fact).__name__ for fact in aggregate.pending_events]


def assert_replays(aggregate: Aggregate) -> None:
    """Storing and replaying an aggregate's facts rebuilds an equal one.

    The aggregate was made in the test, so that all its facts are still pending.
    """
    rebuilt = replayed(aggregate.pending_events)
    assert rebuilt is not None
    assert rebuilt.state() == aggregate.state()
    assert rebuilt == aggregate


def replayed(facts: Sequence[Any]) -> Aggregate | None:
    """The aggregate whose whole stream these facts are, rebuilt from the bytes the log would hold."""
    rows = [mapper.to_stored_event(sealed(fact, uuid4(), codec_of(fact.TOPIC).personal, KEYS)) for fact in facts]
    return rehydrate(facts[0].originator_id, rows) if rows else None


@contextmanager
def refuses(rule: type[Refusal], *aggregates: Aggregate) -> Iterator[None]:
    """The block is refused by exactly this rule, and the aggregates have decided and changed nothing."""
    before = [(copy.deepcopy(aggregate), len(aggregate.pending_events)) for aggregate in aggregates]
    with pytest.raises(rule) as refusal:
        yield
    assert refusal.type is rule
    for aggregate, (was, pending) in zip(aggregates, before, strict=True):
        assert aggregate == was
        assert len(aggregate.pending_events) == pending


def _fields(fact: Any) -> dict[str, Any]:
    return {name: getattr(fact, name) for name in codec_of(type(fact).TOPIC).names}
