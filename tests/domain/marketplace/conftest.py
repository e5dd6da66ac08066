"""Every test of the marketplace's aggregates runs inside a command."""

from collections.abc import Iterator

import pytest

from domain.kernel import new_scope, within
from tests.trading import NOW


@pytest.fixture(autouse=True)
def in_a_command() -> Iterator[None]:
    with within(new_scope("test", now=NOW)):
        yield
