"""A fact: one recorded event with its envelope, as projections, sagas, feeds and audits read it."""

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec


class Fact(msgspec.Struct, frozen=True, gc=False):
    """One row of the log, decoded. Positions are gapless from 1; `recorded_at` never runs backwards."""

    position: int
    stream: UUID
    version: int
    topic: str
    event: Any
    event_id: UUID
    command_id: UUID
    correlation_id: UUID
    causation_id: UUID | None
    actor: str
    recorded_at: datetime
