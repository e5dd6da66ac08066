"""An economy of the test's own."""

from collections.abc import Iterator

import pytest

from infrastructure.database import Database
from tests.economy import Economy


@pytest.fixture
def economy(database_url: str, database: Database) -> Iterator[Economy]:
    economy = Economy(database_url, database)
    yield economy
    economy.close()
