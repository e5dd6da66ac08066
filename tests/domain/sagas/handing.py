"""A village in which contracts are handed off."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from domain.marketplace.hand_off import HandOff
from domain.sagas.hand_off_contract import HandOffContract
from domain.sagas.operations import SagaOperations
from infrastructure.database import Database
from tests.economy import Economy, MemoryEconomy
from tests.trading import PRICE

from .test_allocate_burst import Bursting

MINUTE_MS = 60_000
MINUTE = PRICE // 60


class Handing(Bursting):
    """Three devices with an offering of one unit each, and contracts proposed with the receipt that ranks them."""

    def __init__(self, *where: Any) -> None:
        super().__init__(*where)
        plans = [self.plan, HandOffContract(self.village.deadlines)]
        self.operations = SagaOperations(self.log, plans)
        self.village = replace(self.village, sagas=self.operations)
        self.stage = self.staged(plans, self.village)

    def bought(self, rank: int = 0) -> UUID:
        """A contract that runs over the offering of a rank."""
        return self.running(request_id=self.receipt(), offering_id=sorted(self.offerings)[rank])

    def tell(self, contract_id: UUID, headroom_ms: int, provider_id: UUID | None = None) -> None:
        self.ask(self.market.report_headroom, contract_id=contract_id, provider_id=provider_id, headroom_ms=headroom_ms)
        self.stage.run()

    def hand_off(self, contract_id: UUID) -> HandOff:
        return self.log.load(HandOff, HandOff.create_id(contract_id))


class MemoryHanding(Handing, MemoryEconomy):
    """In memory."""


class StoredHanding(Handing, Economy):
    """In a database."""


@pytest.fixture
def handing() -> Iterator[Handing]:
    handing = MemoryHanding()
    yield handing
    handing.close()


@pytest.fixture
def stored_handing(database_url: str, database: Database) -> Iterator[Handing]:
    handing = StoredHanding(database_url, database)
    yield handing
    handing.close()
