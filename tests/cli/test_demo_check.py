"""What the demo says of itself at its end: each thing that must hold is missed when it does not."""

from uuid import uuid4

import psycopg

from cli.demo_check import Check, Found, Outcome, paid, read_models, supply
from cli.demo_progress import Payout, Progress
from domain.kernel import within
from domain.kernel.scope import new_scope
from domain.tokenomics.pricing import Policy
from domain.tokenomics.service import TokenomicsService
from infrastructure.database import Database, Role
from infrastructure.event_store import open_event_log
from projections.catalogue import READ_MODELS
from workers.projector import Projector

CONSERVED = {"conserved": True, "driftGrains": "0", "issuedGrains": "7", "totalGrains": "7"}


def ended(*payouts: Payout) -> Found:
    return Found(Progress("completed", [], payouts, head=1, settled=True), {}, Policy())


def payout(paid_grains: int, pending_grains: int = 0) -> Payout:
    return Payout(uuid4(), 1, str(paid_grains), str(pending_grains))


def test_a_device_that_is_not_paid_or_has_something_pending_fails_the_demo() -> None:
    assert paid(ended(payout(1), payout(2)), 2).ok
    assert not paid(ended(payout(1)), 2).ok
    assert not paid(ended(payout(1), payout(0)), 2).ok
    assert not paid(ended(payout(1), payout(2, pending_grains=1)), 2).ok


def test_a_grain_too_few_or_too_many_fails_the_demo() -> None:
    assert supply(CONSERVED).ok
    for lie in ({"conserved": False}, {"driftGrains": "1"}, {"totalGrains": "6"}, {"issuedGrains": "8"}):
        assert not supply(CONSERVED | lie).ok


def test_a_read_model_that_is_not_its_rebuild_fails_the_demo(database: Database) -> None:
    log = open_event_log(database.url)
    with within(new_scope("tests")):
        TokenomicsService(log, Policy()).genesis()
    log.close()
    projector = Projector(database, READ_MODELS)
    projector.run_once()
    projector.close()
    assert read_models(database.url).ok
    with database.connect(Role.PROJECTOR) as connection:
        changed = connection.execute("UPDATE read.accounts SET balance_grains = balance_grains + 1").rowcount
    assert changed > 0
    lying = read_models(database.url)
    assert not lying.ok
    assert not lying.found.endswith(" 0 differences")


def test_one_check_that_fails_fails_all_of_it() -> None:
    def outcome(*held: bool) -> Outcome:
        return Outcome([Check(str(n), ok, "") for n, ok in enumerate(held)], [], [], {}, [], 0.9, 1, 1.0)

    assert outcome(True, True).ok
    assert not outcome(True, False).ok
    assert outcome(False).summary()["ok"] is False


def test_without_any_fact_nothing_was_rebuilt(database: Database) -> None:
    with psycopg.connect(database.url) as connection:
        assert connection.execute("SELECT count(*) FROM log.events").fetchone() == (0,)
    assert not read_models(database.url).ok
