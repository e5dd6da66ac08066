"""A fact: one recorded event with its envelope, as projections, sagas, feeds and audits read it."""

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec


class Envelope:
    """The ids of a row of the log. `ids` is their bytes one after the other; a UUID is made when one is asked for."""

    __slots__ = ()
    ids: bytes

    @property
    def event_id(self) -> UUID:
        return UUID(bytes=self.ids[:16])

    @property
    def command_id(self) -> UUID:
        return UUID(bytes=self.ids[16:32])

    @property
    def correlation_id(self) -> UUID:
        return UUID(bytes=self.ids[32:48])

    @property
    def causation_id(self) -> UUID | None:
        return UUID(bytes=self.ids[48:]) if len(self.ids) > 48 else None


class Fact(Envelope, msgspec.Struct, frozen=True, gc=False):
    """One row of the log, decoded. Positions are gapless from 1; `recorded_at` never runs backwards."""

    position: int
    stream: UUID
    version: int
    topic: str
    event: Any
    ids: bytes
    actor: str
    recorded_at: datetime
