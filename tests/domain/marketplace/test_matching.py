"""Matching: constraints are kept, the order is total, and the order of candidates changes nothing."""

import random
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

import domain.topics  # noqa: F401
from domain.kernel.mapper import codec_of
from domain.kernel.tokens import AmountNotPositive
from domain.marketplace.matching import (
    MAX_SHOWN,
    RULES,
    UNASKED,
    Candidate,
    Decision,
    KnownDevice,
    Snapshot,
    Wish,
    WishInvalid,
    checked,
    match,
    ruleset_hash,
)
from domain.marketplace.request import ServiceRequest
from tests.facts import assert_replays
from tests.trading import CUSTOMER, HOUR, HOUR_MS, NOW, PRICE, PROVIDER

WISH = Wish("compute_burst", 1, HOUR_MS, NOW + 2 * HOUR, 2 * PRICE)

ONLINE = KnownDevice(online=True)
MEASURED = replace(ONLINE, matrix_mflops=9_000, memory_mb_s=5_000)


def candidate(number: int = 1, **changes: Any) -> Candidate:
    usual: dict[str, Any] = {
        "offering_id": UUID(int=number), "provider_id": PROVIDER, "service_type": "compute_burst", "region": "eu-west",
        "ram_mb": 4_096, "cpu_cores": 4, "compute_score": 12_000, "free": 4, "price_grains_per_hour": PRICE,
        "uptime_bp": 9_990, "valid_until": NOW + 24 * HOUR,
        "device": ONLINE,
    }  # fmt: skip
    return Candidate(**usual | changes)


@pytest.mark.parametrize(
    ("wish", "change", "reason"),
    [
        ({}, {"service_type": "hidden_service"}, "service_type"),
        ({}, {"provider_id": CUSTOMER}, "self_dealing"),
        ({}, {"valid_until": NOW}, "valid_until"),
        ({"region": "us-east"}, {}, "region"),
        ({"min_ram_mb": 4_097}, {}, "min_ram_mb"),
        ({"min_cpu_cores": 5}, {}, "min_cpu_cores"),
        ({"min_compute_score": 12_001}, {}, "min_compute_score"),
        ({"min_uptime_bp": 9_991}, {}, "min_uptime_bp"),
        ({"min_matrix_mflops": 9_001}, {"device": MEASURED}, "min_matrix_mflops"),
        ({"min_memory_mb_s": 5_001}, {"device": MEASURED}, "min_memory_mb_s"),
        ({"min_disk_mb_s": 1}, {"device": MEASURED}, "min_disk_mb_s"),
        ({"min_matrix_mflops": 1}, {}, "min_matrix_mflops"),
        ({}, {"device": KnownDevice()}, "device_offline"),
        ({}, {"device": None}, "device_offline"),
        ({}, {"device": KnownDevice(online=True, rests=True)}, "device_rests"),
        ({"units": 5}, {}, "units"),
        ({}, {"price_grains_per_hour": 2 * PRICE + 1}, "max_price"),
        ({"duration_ms": 1}, {"price_grains_per_hour": 1}, "max_price"),
    ],
)
def test_an_offering_that_misses_a_constraint_is_rejected_by_its_name(
    wish: dict[str, Any], change: dict[str, Any], reason: str
) -> None:
    decided = match(replace(WISH, **wish), CUSTOMER, NOW, [candidate(**change)])
    assert (decided.winner, decided.rejected) == (None, {reason: 1})


def test_the_highest_score_wins_then_the_lowest_price_then_the_lowest_id() -> None:
    cheap, safe = candidate(3, price_grains_per_hour=PRICE // 2), candidate(4, uptime_bp=10_000)
    twins = [candidate(2), candidate(1)]
    assert match(WISH, CUSTOMER, NOW, [*twins, cheap, safe]).winner == cheap.offering_id
    careful = replace(WISH, price_weight=0, uptime_weight=1)
    assert match(careful, CUSTOMER, NOW, [*twins, cheap, safe]).winner == safe.offering_id
    blind = replace(WISH, price_weight=0, uptime_weight=0)
    order = [one.offering_id.int for one in match(blind, CUSTOMER, NOW, [*twins, cheap, safe]).candidates]
    assert order == [3, 1, 2, 4]


def test_a_receipt_tells_what_the_devices_of_its_candidates_had_measured() -> None:
    wish = replace(WISH, min_matrix_mflops=9_000)
    decided = match(
        wish, CUSTOMER, NOW, [candidate(1, device=MEASURED), candidate(2, device=replace(ONLINE, matrix_mflops=9_001))]
    )
    measured = [{"matrix_mflops": 9_000, "memory_mb_s": 5_000}, {"matrix_mflops": 9_001}]
    assert [one.measured for one in decided.candidates] == measured


some = st.builds(
    candidate,
    st.integers(1, 10**6),
    free=st.integers(0, 4),
    price_grains_per_hour=st.integers(1, 3 * PRICE),
    uptime_bp=st.integers(9_000, 10_000),
    region=st.sampled_from(["eu-west", "us-east"]),
    device=st.builds(KnownDevice, st.booleans(), st.booleans(), st.integers(0, 3)),
)


@given(
    st.lists(some, max_size=30, unique_by=lambda one: one.offering_id),
    st.integers(0, 5),
    st.integers(0, 5),
    st.randoms(),
)
def test_permuting_candidates_changes_nothing_and_no_winner_violates_a_constraint(
    candidates: list[Candidate], price_weight: int, uptime_weight: int, chance: random.Random
) -> None:
    asked = {"units": 2, "region": "eu-west", "min_matrix_mflops": 2}
    wish = replace(WISH, **asked, price_weight=price_weight, uptime_weight=uptime_weight)
    decided = match(wish, CUSTOMER, NOW, candidates)
    shuffled = list(candidates)
    chance.shuffle(shuffled)
    assert match(wish, CUSTOMER, NOW, shuffled) == decided
    assert len(decided.candidates) <= MAX_SHOWN
    served = [one for one in candidates if one.offering_id == decided.winner]
    assert len(served) == (decided.winner is not None)
    for one in served:
        assert one.free >= 2
        assert one.region == "eu-west"
        assert one.device is not None
        assert one.device.online
        assert not one.device.rests
        assert one.device.matrix_mflops >= 2
        assert one.price_grains_per_hour * 2 <= wish.max_price_grains


@pytest.mark.parametrize(
    "change",
    [
        {"service_type": "mining"}, {"units": 0}, {"duration_ms": 0}, {"duration_ms": 2 * HOUR_MS + 1},
        {"deadline_at": NOW + timedelta(days=367)}, {"min_ram_mb": -1}, {"min_disk_mb_s": -1},
        {"price_weight": 101}, {"uptime_weight": -1},
    ],
)  # fmt: skip
def test_a_wish_out_of_bounds_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(WishInvalid):
        checked(replace(WISH, **change), NOW)
    with pytest.raises(AmountNotPositive):
        checked(replace(WISH, max_price_grains=0), NOW)


def test_a_receipt_holds_all_it_was_decided_on() -> None:
    decided = ServiceRequest.decide(uuid4(), CUSTOMER, WISH, Snapshot([candidate()], 7), NOW)
    assert (decided.snapshot_position, decided.decision.winner) == (7, UUID(int=1))
    assert decided.ruleset_hash == ruleset_hash(WISH) != ruleset_hash(replace(WISH, units=2))
    assert_replays(decided)


OLD = b"""{"request_id": "00000000-0000-0000-0000-000000000009", "customer_id": "00000000-0000-0000-0000-000000000002",
"wish": {"service_type": "compute_burst", "units": 1, "duration_ms": 3600000, "deadline_at": "2026-01-01T02:00:00Z",
"max_price_grains": 72000000, "region": null, "min_ram_mb": 0, "min_cpu_cores": 0, "min_compute_score": 0,
"min_uptime_bp": 0, "price_weight": 1, "uptime_weight": 1}, "asked_at": "2026-01-01T00:00:00Z",
"snapshot_position": 7, "ruleset_hash": "261f2234ec7de17f230bdf6aaf203f3711630f8f6012643786f3ef229c84cca6",
"candidates": [{"offering_id": "00000000-0000-0000-0000-000000000001", "score": 14990, "saving": 5000,
"uptime": 9990, "price_grains": 36000000}], "rejected": {}, "winner": "00000000-0000-0000-0000-000000000001"}"""
"""A receipt as it was stored before devices were looked at."""


def test_an_old_receipt_is_read_and_hashed_by_the_rules_it_was_decided_by() -> None:
    old = codec_of("marketplace.ServiceRequest.MatchDecided").decode(OLD)
    assert (old.wish, old.rules, old.known_at) == (WISH, 1, {})
    assert ruleset_hash(old.wish, old.rules) == old.ruleset_hash != ruleset_hash(old.wish)
    again = match(old.wish, old.customer_id, NOW, [candidate(device=None)], old.rules)
    assert again == Decision(old.candidates, old.rejected, old.winner)


def test_rules_2_did_not_ask_whether_a_device_is_there() -> None:
    unseen = candidate(device=replace(MEASURED, online=False, rests=True))
    assert match(WISH, CUSTOMER, NOW, [unseen], rules=2).winner == unseen.offering_id
    assert len({ruleset_hash(WISH, rules) for rules in RULES}) == len(RULES)


def test_the_hash_of_the_rules_covers_what_is_asked_of_measured_values() -> None:
    assert len({ruleset_hash(replace(WISH, **{name: value})) for name in UNASKED for value in (0, 1)}) == 4


def test_an_old_burst_asks_nothing_of_measured_values() -> None:
    wish = {"service_type": "compute_burst", "units": 1, "duration_ms": 1, "deadline_at": "2026-01-01T02:00:00Z"}
    asked = {"nodes": 1, "wish": wish | {"max_price_grains": 1}}
    old = {"burst_id": str(UUID(int=1)), "customer_id": str(CUSTOMER), "request": asked, "nodes": []}
    request = codec_of("marketplace.Burst.Requested").decode(msgspec.json.encode(old)).request
    assert {getattr(request.wish, name) for name in UNASKED} == {0}
