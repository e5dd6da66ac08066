"""A village with an economy of the test's own."""

from collections.abc import Iterator

import pytest

from infrastructure.database import Database

from .paying import Market
from .rewarding import Rewarding


@pytest.fixture
def village(database_url: str, database: Database) -> Iterator[Rewarding]:
    village = Rewarding(database_url, database)
    yield village
    village.close()


@pytest.fixture
def market(database_url: str, database: Database) -> Iterator[Market]:
    market = Market(database_url, database)
    yield market
    market.close()
