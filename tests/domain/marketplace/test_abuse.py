"""Tokens that come back: directly or through a third owner, by trades or payments, they are told from trade."""

from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

import domain.topics  # noqa: F401
from domain.kernel.mapper import codec_of
from domain.marketplace.dealing import MIN_TRADES, Dealing, Flows, around, is_wash
from tests.facts import assert_replays
from tests.trading import CUSTOMER, PROVIDER

LOW, HIGH = Dealing.between(PROVIDER, CUSTOMER)
SOLD = 1_000


def dealing(*flows: Flows, provider_id: UUID = PROVIDER) -> Dealing:
    """So many trades of one direction, and what was known of other flows at each."""
    found = Dealing(low_id=LOW, high_id=HIGH)
    for known in flows:
        found.count(uuid4(), provider_id, SOLD, known)
    return found


def test_a_provider_that_is_paid_and_gives_nothing_back_is_never_flagged() -> None:
    assert not dealing(*[Flows()] * 9).flagged
    assert not dealing(*[Flows(high_gave=9 * SOLD, high_around=9 * SOLD)] * 9).flagged  # the customer gives even more


@pytest.mark.parametrize("way", ["low_gave", "low_around"])
def test_tokens_given_back_by_a_payment_or_through_a_third_owner_are_flagged_with_what_was_known(way: str) -> None:
    back = Flows(position=7, **{way: MIN_TRADES * SOLD})
    found = dealing(*[Flows()] * (MIN_TRADES - 1), back)
    assert LOW == PROVIDER
    assert found.flagged
    flagged = found.pending_events[-1]
    assert isinstance(flagged, Dealing.Flagged)
    assert (flagged.rule, flagged.low_grains, flagged.high_grains, flagged.flows) == ("wash-2", 4 * SOLD, 0, back)
    assert_replays(found)


def test_a_dealing_is_flagged_once_and_for_good() -> None:
    back = Flows(low_gave=MIN_TRADES * SOLD)
    found = dealing(*[back] * MIN_TRADES, *[Flows()] * 3)
    assert [type(fact).__name__ for fact in found.pending_events].count("Flagged") == 1
    assert found.flagged


def test_what_one_owner_was_given_by_the_third_is_as_much_as_the_smaller_hop() -> None:
    assert around([]) == (0, 0)
    assert around([(5, 3), (2, 9)]) == (5, 0)
    assert around([(-5, -3), (2, -9), (-2, 9), (0, 4)]) == (0, 3)


amounts = st.integers(1, 10**6)


@given(
    st.lists(amounts, min_size=MIN_TRADES, max_size=12),
    st.lists(st.integers(0, 100), min_size=1, max_size=6),
    st.data(),
)
def test_all_that_comes_back_is_flagged_however_it_is_split_over_payments_trades_and_third_owners(
    sold: list[int], shares: list[int], data: st.DataObject
) -> None:
    total, weights = sum(sold), [*shares, 1]
    parts = [total * share // sum(weights) for share in weights]
    parts[-1] += total - sum(parts)
    ways = [data.draw(st.sampled_from(["trade", "payment", "third"])) for _ in parts]
    traded, gave = (
        sum(part for part, way in zip(parts, ways, strict=True) if way == one) for one in ("trade", "payment")
    )
    more = data.draw(st.integers(0, 10**6))  # a hop may carry what is not of this
    thirds = [(part + more, part) for part, way in zip(parts, ways, strict=True) if way == "third"]
    there, back = around(thirds)
    assert back == 0
    assert is_wash(len(sold), total, traded + gave + there)


@given(st.integers(MIN_TRADES, 50), amounts, st.integers(0, 80))
def test_where_a_fifth_of_what_was_paid_stays_nothing_is_flagged(trades: int, paid: int, percent: int) -> None:
    assert not is_wash(trades, paid, paid * percent // 100)


def test_what_was_flagged_by_the_first_rule_stays_readable() -> None:
    old = b'{"rule": "wash-1", "low_grains": 5, "high_grains": 5}'
    assert codec_of("marketplace.Dealing.Flagged").decode(old).flows == Flows()
