"""A village with an economy of the test's own."""

from collections.abc import Iterator

import pytest

from infrastructure.database import Database

from .rewarding import Rewarding


@pytest.fixture
def village(database_url: str, database: Database) -> Iterator[Rewarding]:
    village = Rewarding(database_url, database)
    yield village
    village.close()
