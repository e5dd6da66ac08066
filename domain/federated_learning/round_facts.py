"""What can happen to a training round: the events that `TrainingRound` records, under its own name."""

from uuid import UUID

from domain.kernel import Aggregate, Instant


class RoundFacts:
    """The events of a round. The aggregate that inherits them has them as its own, topics and all."""

    class ParticipantsSelected(Aggregate.Event):
        device_ids: list[UUID]
        snapshot_position: int
        ruleset_hash: str
        refused: dict[str, int]

    class UpdateAccepted(Aggregate.Event):
        device_id: UUID
        blob_hash: str
        bytes: int
        examples: int
        train_ms: int
        norm: float
        signature: str
        accepted_at: Instant

    class UpdateRejected(Aggregate.Event):
        """An accepted update that the aggregator could not read; `reason` is the code of the refusal."""

        device_id: UUID
        reason: str

    class ParticipantLeft(Aggregate.Event):
        """A device takes no part any more; what it has sent is not aggregated."""

        device_id: UUID
        reason: str

    class Sealed(Aggregate.Event):
        """`survivors` (sorted) are aggregated, `dropped` were asked and are not."""

        survivors: list[UUID]
        dropped: list[UUID]

    class Aggregated(Aggregate.Event):
        model_hash: str
        accumulator_hash: str
        clipped: int

    class Completed(Aggregate.Event):
        """`participants` (sorted) are the devices whose updates are in the model."""

        closes = True
        session_id: UUID
        number: int
        participants: list[UUID]
        model_metrics: dict[str, float]
        privacy_budget_consumed: float
        duration_ms: int

    class Abandoned(Aggregate.Event):
        closes = True
        session_id: UUID
        number: int
        reason: str
