"""The stage for sagas: the contributor's guide runs as it is written, and careless sagas are found out."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, settings

from domain.kernel import EventLog, Fact, new_scope, within
from domain.sagas.deadline import Deadlines
from infrastructure.database import Database
from tests.balances import Bonus, Shop
from tests.ledger import Account, Ledger
from tests.sagas import DEATHS, Oracle, Stage, StoredTimeline, deliveries

GUIDE = Path(__file__).resolve().parents[3] / "docs" / "guides" / "contributor.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
(EXAMPLE,) = [example for example in EXAMPLES if "tests.sagas" in example]


@pytest.fixture
def stage(database_url: str, database: Database) -> Iterator[Stage]:
    timeline = StoredTimeline(database_url, database)
    stage = Stage(timeline, [Bonus], Shop(Ledger(timeline.log), Deadlines(timeline.log)))
    yield stage
    stage.close()


@pytest.mark.parametrize("name", re.findall(r"^def (test_\w+)", EXAMPLE, re.MULTILINE))
def test_the_example_of_the_guide(stage: Stage, name: str) -> None:
    example: dict[str, Any] = {}
    exec(EXAMPLE, example)
    example[name](stage, Ledger(stage.world.log))


class Careless:
    """Pays a grain for every account that opens, and remembers nothing."""

    name = "careless"
    listens = (Account.Opened,)

    def concerns(self, fact: Fact) -> bool:
        return True

    def handle(self, fact: Fact, log: EventLog, village: Shop) -> None:
        village.ledger.deposit_to_open(account_id=fact.stream, grains=1)


class Hasty(Careless):
    """Pays once a fact, and not in the transaction of its cursor."""

    def handle(self, fact: Fact, log: EventLog, village: Shop) -> None:
        with ThreadPoolExecutor(1) as elsewhere:
            elsewhere.submit(self._pay, fact, village).result()

    def _pay(self, fact: Fact, village: Shop) -> None:
        with within(new_scope("hasty", now=fact.recorded_at)):
            village.ledger.deposit_to_open(account_id=fact.stream, grains=1)


def an_account(stage: Stage) -> Oracle:
    """An account opens; in the end it has one grain."""
    account_id = uuid4()
    stage.ask(stage.village.ledger.open, account_id=account_id)

    def paid_once() -> None:
        assert stage.world.log.load(Account, account_id).balance == 1

    return paid_once


def test_a_saga_that_does_not_know_a_fact_again_is_found_by_doubled_deliveries(stage: Stage) -> None:
    stage.handlers = [Careless()]
    assert stage.crash_points(lambda: an_account(stage), DEATHS) >= 1

    @settings(max_examples=50, database=None)
    @given(deliveries)
    def deliver(facts: list[int]) -> None:
        paid_once = an_account(stage)
        stage.deliver_anyhow(facts)
        paid_once()

    with pytest.raises(AssertionError):
        deliver()
    with pytest.raises(AssertionError):
        stage.stumble(lambda: an_account(stage))


def test_a_saga_that_acts_outside_its_transaction_is_found_by_a_crash(stage: Stage) -> None:
    stage.handlers = [Hasty()]
    with pytest.raises(AssertionError):
        stage.crash_points(lambda: an_account(stage), DEATHS)
    with pytest.raises(AssertionError):
        stage.stumble(lambda: an_account(stage))
