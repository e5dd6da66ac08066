"""What a training session is asked to do: round policy, training configuration, criteria; and what is refused."""

import math
from typing import Final

import msgspec

from domain.kernel import Refusal, Value

MAX_PARTICIPANTS = 10_000
MAX_ROUNDS = 10_000
MIN_TIMEOUT_MS, MAX_TIMEOUT_MS = 100, 86_400_000
MAX_CLIP_MICRO = 10**9
MAX_WEIGHT_CAPS = 2**40
"""Bound of max_participants x weight_cap: it leaves the aggregator at least 13 bits for every value."""
FRAMEWORKS = ("pytorch",)
"""What the devices of this village train with."""


class RoundPolicyInvalid(Refusal):
    """A round policy has 1 <= min_participants <= goal <= max_participants and lies within the village's limits."""


class TrainingConfigInvalid(Refusal):
    """A training configuration lies within its bounds."""


class ParticipantCriteriaInvalid(Refusal):
    """Participant criteria lie within the bounds of what devices can have."""


class StrategyUnsupported(Refusal):
    """The strategies are fedavg (proximal_mu is 0) and fedprox (proximal_mu is above 0)."""


class FrameworkUnsupported(Refusal):
    """The devices of this village train with pytorch."""


class SecureAggregationUnavailable(Refusal):
    """Secure aggregation is on by default and not available yet: say secure_aggregation=false."""


class DifferentialPrivacyUnavailable(Refusal):
    """Differential privacy is on by default and not available yet: say epsilon=null."""


class RoundPolicy(Value, frozen=True):
    """How many take part in a round, how long it waits, and how updates are weighed.

    A round is sealed with `goal` updates, or at its deadline with at least `min_participants`. `timeout_ms` is in
    ms. `clip_micro` is the largest absolute value of one coordinate of an update, times 10^6; an update weighs as
    many examples as it was trained on, at most `weight_cap`.
    """

    min_participants: int = 3
    max_participants: int = 20
    goal: int = 20
    timeout_ms: int = 600_000
    clip_micro: int = 1_000_000
    weight_cap: int = 10_000


class TrainingConfig(Value, frozen=True):
    """How a device trains in one round, by stochastic gradient descent."""

    epochs: int
    batch_size: int
    learning_rate: float
    momentum: float = 0.0
    proximal_mu: float = 0.0


class ParticipantCriteria(Value, frozen=True):
    """What a device needs to take part: memory in MiB, compute score in milli-units, frameworks, reputation in
    basis points; and what it has to have measured of itself, in MFLOP/s and MB/s. None is not asked.
    """

    min_memory_mb: int | None = None
    min_compute_capability: int | None = None
    required_frameworks: list[str] = msgspec.field(default_factory=lambda: ["pytorch"])
    min_trust_level: int | None = None
    min_matrix_mflops: int | None = None
    min_memory_mb_s: int | None = None
    min_disk_mb_s: int | None = None


_MOST: Final = {
    "min_memory_mb": 2**24,
    "min_compute_capability": 10**9,
    "min_trust_level": 10_000,
    "min_matrix_mflops": 10**7,
    "min_memory_mb_s": 10**6,
    "min_disk_mb_s": 200_000,
}


class Limits(Value, frozen=True):
    """What the village allows a session: participants per round, model size in bytes, sessions at once."""

    max_participants: int = 20
    max_model_bytes: int = 100_000_000
    max_sessions: int = 10


def check_policy(policy: RoundPolicy, limits: Limits) -> None:
    """Raises RoundPolicyInvalid."""
    if not 1 <= policy.min_participants <= policy.goal <= policy.max_participants:
        raise RoundPolicyInvalid("1 <= min_participants <= goal <= max_participants")
    if policy.max_participants > min(limits.max_participants, MAX_PARTICIPANTS):
        raise RoundPolicyInvalid(f"at most {limits.max_participants} participants a round")
    if not MIN_TIMEOUT_MS <= policy.timeout_ms <= MAX_TIMEOUT_MS:
        raise RoundPolicyInvalid(f"timeout_ms is {MIN_TIMEOUT_MS} to {MAX_TIMEOUT_MS}")
    if not 1 <= policy.clip_micro <= MAX_CLIP_MICRO:
        raise RoundPolicyInvalid(f"clip_micro is 1 to {MAX_CLIP_MICRO}")
    if policy.weight_cap < 1 or policy.weight_cap * policy.max_participants >= MAX_WEIGHT_CAPS:
        raise RoundPolicyInvalid(f"weight_cap is at least 1, and times max_participants below {MAX_WEIGHT_CAPS}")


def check_training(training: TrainingConfig, strategy: str) -> None:
    """Raises TrainingConfigInvalid or StrategyUnsupported."""
    if not (1 <= training.epochs <= 100 and 1 <= training.batch_size <= 65_536):
        raise TrainingConfigInvalid("epochs is 1 to 100, batch_size is 1 to 65536")
    if not (math.isfinite(training.learning_rate) and 0 < training.learning_rate <= 100):
        raise TrainingConfigInvalid("learning_rate is above 0 and at most 100")
    if not 0 <= training.momentum < 1:
        raise TrainingConfigInvalid("momentum is 0 to below 1")
    if not 0 <= training.proximal_mu <= 1_000:
        raise TrainingConfigInvalid("proximal_mu is 0 to 1000")
    if strategy != ("fedprox" if training.proximal_mu > 0 else "fedavg"):
        raise StrategyUnsupported(f"{strategy[:64]!r} with proximal_mu {training.proximal_mu}")


def check_criteria(criteria: ParticipantCriteria) -> None:
    """Raises ParticipantCriteriaInvalid or FrameworkUnsupported."""
    for framework in criteria.required_frameworks:
        if framework not in FRAMEWORKS:
            raise FrameworkUnsupported(f"{framework[:64]!r}")
    for name, most in _MOST.items():
        value = getattr(criteria, name)
        if value is not None and not 0 <= value <= most:
            raise ParticipantCriteriaInvalid(f"{name} is 0 to {most}")


def check_privacy(*, secure_aggregation: bool, epsilon: float | None) -> None:
    """Refuse what the village cannot give. Raises SecureAggregationUnavailable, DifferentialPrivacyUnavailable."""
    if secure_aggregation:
        raise SecureAggregationUnavailable("ask again with secure_aggregation=false")
    if epsilon is not None:
        raise DifferentialPrivacyUnavailable("ask again with epsilon=null")
