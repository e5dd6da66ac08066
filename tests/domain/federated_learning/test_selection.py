"""Selection depends on the seed and the snapshot alone, and is fair."""

from collections import Counter
from uuid import UUID, uuid4

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.federated_learning.policy import ParticipantCriteria, RoundPolicy
from domain.federated_learning.selection import Candidate, Survey, TooFewParticipants, ruleset_hash, seed_of, select

CRITERIA = ParticipantCriteria(min_memory_mb=1_024)


def policy(least: int, most: int) -> RoundPolicy:
    return RoundPolicy(min_participants=least, max_participants=most, goal=most)


def survey(*participations: int) -> Survey:
    candidates = [Candidate(device_id=UUID(int=index), participations=n) for index, n in enumerate(participations)]
    return Survey(candidates=candidates, position=42, refused={"min_memory_mb": 3})


@given(st.lists(st.integers(0, 5), min_size=3, max_size=30), st.integers(0, 2**63 - 1), st.randoms())
def test_the_same_seed_and_snapshot_always_give_the_same_devices(
    participations: list[int], seed: int, random: object
) -> None:
    seen = survey(*participations)
    shuffled = list(seen.candidates)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    chosen = select(seen, CRITERIA, policy(1, 5), seed)
    assert select(msgspec.structs.replace(seen, candidates=shuffled), CRITERIA, policy(1, 5), seed) == chosen
    assert len(chosen.device_ids) == min(5, len(participations))
    past = {candidate.device_id: candidate.participations for candidate in seen.candidates}
    left_out = [past[device_id] for device_id in past.keys() - set(chosen.device_ids)]
    assert not left_out or max(past[device_id] for device_id in chosen.device_ids) <= min(left_out)


def test_over_many_rounds_everybody_takes_part_equally_often() -> None:
    counts: Counter[int] = Counter(dict.fromkeys(range(10), 0))
    session_id = uuid4()
    for number in range(1, 21):
        seen = survey(*(counts[index] for index in range(10)))
        for device_id in select(seen, CRITERIA, policy(1, 5), seed_of(session_id, number)).device_ids:
            counts[device_id.int] += 1
    assert set(counts.values()) == {10}


def test_another_seed_gives_other_devices() -> None:
    seen = survey(*[0] * 100)
    assert select(seen, CRITERIA, policy(1, 10), 1).device_ids != select(seen, CRITERIA, policy(1, 10), 2).device_ids


def test_too_few_candidates_are_refused() -> None:
    with pytest.raises(TooFewParticipants):
        select(survey(0, 0), CRITERIA, policy(3, 5), 1)


def test_the_receipt_says_who_was_left_out_and_by_which_rules() -> None:
    chosen = select(survey(0, 0, 0, 0), CRITERIA, policy(1, 3), 1)
    assert chosen.refused == {"min_memory_mb": 3, "beyond_max_participants": 1}
    assert chosen.snapshot_position == 42
    assert chosen.ruleset_hash == ruleset_hash(CRITERIA, least=1, most=3)
    assert chosen.ruleset_hash != ruleset_hash(ParticipantCriteria(), least=1, most=3)
