"""A village with an economy of the test's own."""

from collections.abc import Iterator

import pytest

from infrastructure.database import Database

from .paying import Market, MemoryMarket, StoredMarket
from .rewarding import MemoryRewarding, Rewarding, StoredRewarding


@pytest.fixture
def village() -> Iterator[Rewarding]:
    village = MemoryRewarding()
    yield village
    village.close()


@pytest.fixture
def stored_village(database_url: str, database: Database) -> Iterator[StoredRewarding]:
    village = StoredRewarding(database_url, database)
    yield village
    village.close()


@pytest.fixture
def market() -> Iterator[Market]:
    market = MemoryMarket()
    yield market
    market.close()


@pytest.fixture
def stored_market(database_url: str, database: Database) -> Iterator[StoredMarket]:
    market = StoredMarket(database_url, database)
    yield market
    market.close()
