"""From the instant a device is suspended nothing it has earned is paid, in whatever order, and by whatever process."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.device_registry.device import Device
from domain.device_registry.service import DeviceRegistryService
from domain.harvest import audit
from domain.harvest.audit import answer_of
from domain.kernel import Receipt, Refusal
from domain.sagas.forfeit import which_forfeit
from domain.sagas.reward_training import RewardTraining
from domain.tokenomics.pricing import Activity
from domain.tokenomics.reward_claim import RewardClaim
from domain.tokenomics.service import TokenomicsService
from infrastructure.database import Database
from tests.devices import enrol
from tests.economy import Economy, assert_sound
from tests.harvesting import lived
from tests.sagas import stormy
from tests.trading import HOUR_MS
from workers.saga_runner import Handler

from .rewarding import completed_round
from .suspending import MemorySuspending

MOVES = ("rewards", "suspension", "fold", "tick", "lend", "train", "distribute", "suspend", "reinstate", "retire")


class Forfeiting(MemorySuspending):
    """Sagas of rewards and of suspensions go one step at a time; commands come from another process."""

    def __init__(self) -> None:
        super().__init__()
        _, harvest, self.suspending = self.stage.handlers
        self.rewarding: list[Handler] = [RewardTraining, harvest]
        self.stage.handlers = [*self.rewarding, self.suspending]
        self.elsewhere = self.opened_log()
        self.desk = DeviceRegistryService(self.elsewhere)
        self.till = TokenomicsService(self.elsewhere, forfeiting=partial(which_forfeit, self.elsewhere))

    def close(self) -> None:
        self.elsewhere.close()
        super().close()

    def step(self, *handlers: Handler) -> None:
        """One batch of facts for some of the sagas."""
        everybody, self.stage.handlers = self.stage.handlers, list(handlers)
        self.stage.runner().step()
        self.stage.handlers = everybody

    def move(self, name: str) -> None:
        device = {"device_id": self.device_id, "reason": "a drill"}
        match name:
            case "rewards":
                self.step(*self.rewarding)
            case "suspension":
                self.step(self.suspending)
            case "fold":
                self.stage.projector.run_once()
            case "tick":
                self.stage.projector.run_once()
                self.stage.jump()
                self.stage.clock.tick()
            case "lend":
                self.lent()
            case "train":
                completed_round(self, [self.device_id])
            case "distribute":
                self.ask(self.till.distribute_rewards, batch_id=uuid4(), claim_ids=self.claims())
            case "suspend":
                self.ask(self.desk.suspend_device, **device)
            case "reinstate":
                self.ask(self.desk.reinstate_device, **device)
            case _:
                self.ask(self.desk.retire_device, **device)

    def lent(self) -> None:
        """A session of a minute that counts, without an audit to wait for."""
        session_id = self.lend()
        session = self.harvest.get_session(session_id=session_id)
        if session.job is not None:
            answer = answer_of(session.job)
            self.ask(self.harvest.answer_audit, session_id=session_id, device_id=self.device_id, answer=answer)
        watch, changes = lived(1)
        self.ask(self.harvest.monitor_harvest_conditions, session_id=session_id, changes=changes)
        self.ask(self.harvest.close_session, session_id=session_id, counted=watch)

    def claims(self) -> list[UUID]:
        """Every claim of the device there is."""
        accrued = [fact.event for fact in self.facts() if isinstance(fact.event, RewardClaim.Accrued)]
        return [event.claim_id for event in accrued if self.of(event)]

    def of(self, event: RewardClaim.Accrued | RewardClaim.Posted) -> bool:
        return event.device_id == self.device_id

    def assert_forfeited(self) -> None:
        """While the device is suspended nothing is accrued and nothing is paid; in the end nothing is open."""
        suspended = False
        for fact in self.facts():
            match fact.event:
                case Device.Suspended():
                    suspended = True
                case Device.Reinstated():
                    suspended = False
                case RewardClaim.Accrued() | RewardClaim.Posted() if self.of(fact.event):
                    assert not suspended, f"{fact.topic} at {fact.position}"
        assert not [one for one in self.claims() if self.claim(one).open]
        assert_sound(self.facts())


@pytest.fixture(autouse=True)
def _short_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "AUDIT_ROUNDS", 10)


@pytest.fixture
def forfeiting() -> Iterator[Forfeiting]:
    forfeiting = Forfeiting()
    yield forfeiting
    forfeiting.close()


@pytest.mark.parametrize("how", ["lend", "train"])
def test_what_was_accrued_as_the_device_was_suspended_is_void_and_not_posted(forfeiting: Forfeiting, how: str) -> None:
    forfeiting.move(how)
    while not forfeiting.claims():
        forfeiting.move("rewards")
    forfeiting.move("suspend")
    forfeiting.stage.until_quiet()
    (claim_id,) = forfeiting.claims()
    assert forfeiting.names(claim_id) == ["Accrued", "Voided"]
    forfeiting.assert_forfeited()


def test_who_is_suspended_and_retires_is_not_paid_either(forfeiting: Forfeiting) -> None:
    claim_id = forfeiting.earned()
    forfeiting.move("lend")
    forfeiting.move("suspend")
    forfeiting.move("retire")
    forfeiting.stage.until_quiet()
    assert (forfeiting.claims(), forfeiting.names(claim_id)) == ([claim_id], ["Accrued", "Voided"])
    forfeiting.assert_forfeited()


def test_an_operator_s_batch_pays_no_suspended_device(forfeiting: Forfeiting) -> None:
    claim_id, before = forfeiting.earned(), forfeiting.balances()["provider"]
    forfeiting.move("suspend")
    forfeiting.move("distribute")
    assert (forfeiting.names(claim_id), forfeiting.balances()["provider"]) == (["Accrued", "Voided"], before)


def acted(economy: Economy, command: Callable[..., Receipt], **asked: Any) -> Receipt:
    """One command, in a thread of its own."""
    with economy.acting():
        return command(**asked)


def test_a_suspension_and_a_batch_of_two_processes_on_a_real_log_never_both_win(
    database_url: str, database: Database
) -> None:
    economy = Economy(database_url, database)
    elsewhere = economy.opened_log()
    registry, desk = DeviceRegistryService(economy.log), DeviceRegistryService(elsewhere)
    distribute = economy.service.distribute_rewards
    with ThreadPoolExecutor(2) as both:
        for _ in range(12):
            device_id = enrol(registry, owner_id=uuid4(), now=economy.now)
            with economy.acting():
                work = Activity("service_hosting", uuid4(), device_id, uuid4(), HOUR_MS, 10_000)
                claim_id = economy.service.accrue_reward(activity=work).id
            assert claim_id is not None
            suspension = both.submit(acted, economy, desk.suspend_device, device_id=device_id, reason="a drill")
            batch = both.submit(acted, economy, distribute, batch_id=uuid4(), claim_ids=[claim_id])
            suspended_at, paid = suspension.result().position, batch.result()
            assert economy.log.load(RewardClaim, claim_id).voided == (suspended_at < paid.position)
    elsewhere.close()
    assert_sound(economy.facts())
    economy.close()


@settings(stormy, max_examples=60)
@given(moves=st.lists(st.sampled_from(MOVES), max_size=24))
def test_no_order_of_anything_pays_a_suspended_device(moves: list[str]) -> None:
    forfeiting = Forfeiting()
    for move in ("lend", "train", *moves):
        with suppress(Refusal):
            forfeiting.move(move)
    forfeiting.stage.until_quiet()
    forfeiting.stage.settle_parked()
    forfeiting.assert_forfeited()
    forfeiting.close()
