"""What a session may ask for: bounds that hold, and by name what the village cannot do."""

from typing import Any

import msgspec
import pytest

from domain.federated_learning.policy import (
    DifferentialPrivacyUnavailable,
    FrameworkUnsupported,
    Limits,
    ParticipantCriteria,
    ParticipantCriteriaInvalid,
    RoundPolicy,
    RoundPolicyInvalid,
    SecureAggregationUnavailable,
    StrategyUnsupported,
    TrainingConfig,
    TrainingConfigInvalid,
    check_criteria,
    check_policy,
    check_privacy,
    check_training,
)
from domain.kernel import Refusal

LIMITS = Limits()
TRAINING = TrainingConfig(epochs=2, batch_size=20, learning_rate=0.1)


def test_the_defaults_of_the_village_are_within_its_limits() -> None:
    check_policy(RoundPolicy(), LIMITS)
    check_training(TRAINING, "fedavg")
    check_criteria(ParticipantCriteria())
    check_privacy(secure_aggregation=False, epsilon=None)


@pytest.mark.parametrize(
    "changes",
    [
        {"min_participants": 0},
        {"min_participants": 21},
        {"goal": 2},
        {"goal": 21},
        {"max_participants": 21},
        {"timeout_ms": 99},
        {"timeout_ms": 86_400_001},
        {"clip_micro": 0},
        {"clip_micro": 10**9 + 1},
        {"weight_cap": 0},
        {"weight_cap": 2**40},
    ],
)
def test_a_round_policy_out_of_bounds_is_refused(changes: dict[str, int]) -> None:
    with pytest.raises(RoundPolicyInvalid):
        check_policy(msgspec.structs.replace(RoundPolicy(), **changes), LIMITS)


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": 0},
        {"epochs": 101},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"learning_rate": float("inf")},
        {"momentum": 1.0},
        {"momentum": float("nan")},
        {"proximal_mu": -0.1},
        {"proximal_mu": float("nan")},
    ],
)
def test_a_training_configuration_out_of_bounds_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(TrainingConfigInvalid):
        check_training(msgspec.structs.replace(TRAINING, **changes), "fedavg")


def test_fedprox_is_fedavg_with_a_proximal_term_and_nothing_else_is_a_strategy() -> None:
    proximal = msgspec.structs.replace(TRAINING, proximal_mu=0.5)
    check_training(proximal, "fedprox")
    for training, strategy in ((proximal, "fedavg"), (TRAINING, "fedprox"), (TRAINING, "krum"), (TRAINING, "")):
        with pytest.raises(StrategyUnsupported):
            check_training(training, strategy)


@pytest.mark.parametrize(
    ("refusal", "criteria"),
    [
        (FrameworkUnsupported, ParticipantCriteria(required_frameworks=["tensorflow"])),
        (FrameworkUnsupported, ParticipantCriteria(required_frameworks=["pytorch", "jax"])),
        (ParticipantCriteriaInvalid, ParticipantCriteria(min_memory_mb=-1)),
        (ParticipantCriteriaInvalid, ParticipantCriteria(min_compute_capability=10**9 + 1)),
        (ParticipantCriteriaInvalid, ParticipantCriteria(min_trust_level=10_001)),
        (ParticipantCriteriaInvalid, ParticipantCriteria(min_matrix_mflops=10**7 + 1)),
        (ParticipantCriteriaInvalid, ParticipantCriteria(min_memory_mb_s=-1)),
        (ParticipantCriteriaInvalid, ParticipantCriteria(min_disk_mb_s=200_001)),
    ],
)
def test_criteria_no_device_here_can_meet_are_refused(refusal: type[Refusal], criteria: ParticipantCriteria) -> None:
    with pytest.raises(refusal):
        check_criteria(criteria)


def test_privacy_that_is_not_built_is_refused_rather_than_ignored() -> None:
    with pytest.raises(SecureAggregationUnavailable):
        check_privacy(secure_aggregation=True, epsilon=None)
    for epsilon in (1.0, 0.0, float("inf")):
        with pytest.raises(DifferentialPrivacyUnavailable):
            check_privacy(secure_aggregation=False, epsilon=epsilon)
