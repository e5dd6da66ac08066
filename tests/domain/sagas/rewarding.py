"""A village in which rounds of training have been completed and are to be rewarded."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from domain.device_registry.reputation import Reputation
from domain.device_registry.service import DeviceRegistryService
from domain.federated_learning.policy import RoundPolicy
from domain.federated_learning.round import TrainingRound
from domain.federated_learning.selection import Selection
from domain.federated_learning.update import Update
from domain.kernel import new_scope, within
from domain.sagas.deadline import Deadlines
from domain.sagas.operations import SagaOperations
from domain.sagas.reward_training import RewardTraining, saga_id_of
from domain.sagas.village import Village
from domain.tokenomics.reward_claim import RewardClaim, claim_id_of
from tests.devices import enrol
from tests.economy import Books, Economy, MemoryEconomy

TEN_MINUTES = 600_000


def completed_round(
    books: Books,
    devices: Sequence[UUID],
    *,
    rejected: Sequence[UUID] = (),
    train_ms: int = TEN_MINUTES,
    took_ms: int = TEN_MINUTES,
    examples: Sequence[int] = (),
) -> UUID:
    """A round that these devices completed, each after `took_ms`; updates of `rejected` were refused."""
    answering = [*devices, *rejected]
    policy = RoundPolicy(
        min_participants=1,
        max_participants=len(answering),
        goal=len(answering),
        timeout_ms=10 * TEN_MINUTES,
        clip_micro=10**6,
        weight_cap=100,
    )
    opened_at, answered_at = books.now, books.now + timedelta(milliseconds=took_ms)
    with within(new_scope("test", now=books.now)):
        done = TrainingRound(
            round_id=uuid4(),
            session_id=uuid4(),
            owner_id=uuid4(),
            number=1,
            model_hash="0" * 64,
            policy=policy,
            deadline_at=opened_at + timedelta(milliseconds=policy.timeout_ms),
            seed=7,
            opened_at=opened_at,
        )
        done.select(Selection(sorted(answering), 0, "rules", {}))
        for index, device_id in enumerate(answering):
            update = Update(
                blob_hash="1" * 64,
                bytes=1_000,
                examples=examples[index] if examples else 100,
                train_ms=train_ms,
                norm=1.0,
            )
            done.accept(device_id, update, "", answered_at)
        for device_id in rejected:
            done.reject(device_id, "update_not_finite")
        done.complete("2" * 64, "3" * 64, 0, {"accuracy": 0.9}, answered_at)
        books.log.record(done)
    return done.id


class Rewarding(Books):
    """Rounds are completed by their aggregate; the saga is on a stage."""

    def __init__(self, *where: Any, **policy: Any) -> None:
        super().__init__(*where, **policy)
        self.registry = DeviceRegistryService(self.log)
        unused: Any = None
        sagas = SagaOperations(self.log)
        village = Village(
            self.log, self.registry, self.service, unused, unused, Deadlines(self.log), unused, sagas, unused, unused
        )
        self.stage = self.staged([RewardTraining], village)

    def close(self) -> None:
        self.stage.close()
        super().close()

    def device(self, owner_id: UUID | None = None) -> UUID:
        """An enrolled device."""
        return enrol(self.registry, owner_id=owner_id, now=self.now)

    def completed_round(self, devices: Sequence[UUID], **how: Any) -> UUID:
        return completed_round(self, devices, **how)

    def saga(self, round_id: UUID) -> RewardTraining:
        return self.log.load(RewardTraining, saga_id_of(round_id))

    def claim(self, round_id: UUID, device_id: UUID) -> RewardClaim:
        return self.log.load(RewardClaim, claim_id_of("fl_participation", round_id, device_id))

    def steps(self, round_id: UUID) -> list[str]:
        """The names of the saga's own facts."""
        return self.names(saga_id_of(round_id))

    def reputation_bp(self, device_id: UUID) -> int:
        stream = Reputation.create_id(device_id, "federated_learning")
        return self.log.load(Reputation, stream).standing.score_bp


class MemoryRewarding(Rewarding, MemoryEconomy):
    """In memory."""


class StoredRewarding(Rewarding, Economy):
    """In a database."""
