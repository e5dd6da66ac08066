"""Reputation: exact integers, the same in any partition of the evidence."""

from fractions import Fraction
from itertools import pairwise
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.device_registry.reputation import (
    NEWCOMER_BP,
    RULE_VERSION,
    EvidenceWeightInvalid,
    Reputation,
    ReputationServiceUnknown,
    Standing,
    check_evidence,
)
from domain.device_registry.reputation_rule import RULES, ReputationRuleUnknown, rule_of
from tests.facts import assert_replays, facts_of, refuses

CAUSE = UUID(int=7)
EVIDENCE = st.lists(st.tuples(st.booleans(), st.integers(1, 10_000)), max_size=60)


def reputation() -> Reputation:
    return Reputation(device_id=uuid4(), service="federated_learning")


def after(standing: Standing, evidence: list[tuple[bool, int]]) -> Standing:
    for good, weight_bp in evidence:
        standing = standing.after(good=good, weight_bp=weight_bp, rule_version=RULE_VERSION)
    return standing


def test_a_newcomer_has_a_quarter_and_the_first_good_work_lifts_it_to_two_fifths() -> None:
    assert NEWCOMER_BP == 2_500
    assert after(Standing(), [(True, 10_000)]).score_bp == 4_000
    assert after(Standing(), [(False, 10_000)]).score_bp == 2_000


def test_evidence_fades_by_a_fiftieth_with_every_later_piece() -> None:
    assert after(Standing(), [(True, 10_000), (False, 10_000)]) == Standing(good=980_000_000, bad=1_000_000_000)


def test_evidence_is_recorded_with_the_rule_that_weighs_it() -> None:
    held = reputation()
    held.weigh(good=True, weight_bp=5_000, cause_event_id=CAUSE)
    kind, fields = facts_of(held)[-1]
    assert kind is Reputation.EvidenceRecorded
    assert fields == {
        "device_id": held.device_id,
        "service": "federated_learning",
        "good": True,
        "weight_bp": 5_000,
        "cause_event_id": CAUSE,
        "rule_version": 1,
    }
    assert_replays(held)


@pytest.mark.parametrize("weight_bp", [0, -1, 10_001, True])
def test_evidence_of_another_weight_is_refused(weight_bp: int) -> None:
    held = reputation()
    with refuses(EvidenceWeightInvalid, held):
        held.weigh(good=True, weight_bp=weight_bp, cause_event_id=CAUSE)


def test_a_service_nobody_works_for_gives_no_reputation() -> None:
    with pytest.raises(ReputationServiceUnknown):
        check_evidence("gossip", 10_000)


@given(evidence=EVIDENCE, cuts=st.lists(st.integers(0, 60), max_size=5))
def test_folding_the_evidence_in_any_partition_gives_the_same_bits(
    evidence: list[tuple[bool, int]], cuts: list[int]
) -> None:
    held = reputation()
    for good, weight_bp in evidence:
        held.weigh(good=good, weight_bp=weight_bp, cause_event_id=CAUSE)
    bounds = sorted({0, *cuts, len(evidence)})
    standing = Standing()
    for start, end in pairwise(bounds):
        standing = after(standing, evidence[start:end])
    assert standing == held.standing
    assert_replays(held)


@given(evidence=EVIDENCE)
def test_the_score_follows_the_exact_rule_to_a_basis_point_and_never_leaves_zero_to_one(
    evidence: list[tuple[bool, int]],
) -> None:
    good = bad = Fraction(0)
    for is_good, weight_bp in evidence:
        good, bad = good * Fraction(98, 100), bad * Fraction(98, 100)
        good, bad = (good + Fraction(weight_bp, 10_000), bad) if is_good else (good, bad + Fraction(weight_bp, 10_000))
    exact = (good + 1) / (good + bad + 4) * 10_000
    score = after(Standing(), evidence).score_bp
    assert abs(score - exact) <= 1
    assert 0 < score < 10_000


@given(evidence=EVIDENCE)
def test_every_rule_keeps_the_score_between_zero_and_one_and_says_how_it_came_about(
    evidence: list[tuple[bool, int]],
) -> None:
    for version, rule in RULES.items():
        standing = Standing()
        for good, weight_bp in evidence:
            standing = standing.after(good=good, weight_bp=weight_bp, rule_version=version)
        assert 0 < standing.score_under(rule) < 10_000
    standing = after(Standing(), evidence)
    assert standing.reckoning().endswith(f"= {standing.score_bp}")


@given(works=st.lists(st.integers(0, 4), min_size=1, max_size=40), weight_bp=st.integers(1, 10_000))
def test_farming_work_over_several_identities_lifts_none_of_them_above_one_that_did_it_all(
    works: list[int], weight_bp: int
) -> None:
    whole = after(Standing(), [(True, weight_bp)] * len(works))
    for identity in range(5):
        share = [(True, weight_bp)] * works.count(identity)
        assert after(Standing(), share).score_bp <= whole.score_bp


@given(evidence=EVIDENCE)
def test_a_new_identity_gains_no_trust_that_good_work_has_not_earned(evidence: list[tuple[bool, int]]) -> None:
    standing = after(Standing(), evidence)
    if all(good for good, _ in evidence):
        assert standing.score_bp >= NEWCOMER_BP
    assert after(Standing(), [one for one in evidence if not one[0]]).score_bp <= NEWCOMER_BP


def test_a_rule_that_is_not_written_down_is_refused_by_name() -> None:
    assert rule_of(RULE_VERSION) is RULES[RULE_VERSION]
    with pytest.raises(ReputationRuleUnknown):
        rule_of(99)
