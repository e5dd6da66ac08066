"""Economies of the test's own: on a real log, or in memory where `IN_MEMORY` is set, as `make mutation` does."""

import os
from collections.abc import Iterator

import pytest

from domain.tokenomics.pricing import Policy
from tests.economy import Books, Economy, MemoryEconomy, NewEconomy


@pytest.fixture
def new_economy(request: pytest.FixtureRequest) -> Iterator[NewEconomy]:
    """Opens the economy of this test, under a policy."""
    opened: list[Books] = []

    def made(policy: Policy) -> Books:
        if "IN_MEMORY" in os.environ:
            opened.append(MemoryEconomy(policy))
        else:
            url, database = map(request.getfixturevalue, ("database_url", "database"))
            opened.append(Economy(url, database, policy))
        return opened[-1]

    yield made
    for economy in opened:
        economy.close()


@pytest.fixture
def economy(new_economy: NewEconomy) -> Books:
    return new_economy(Policy())
