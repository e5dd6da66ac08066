"""A device that rests by a policy its customer accepted has not failed, and is given no work."""

from collections.abc import Iterator
from datetime import timedelta
from uuid import UUID

import pytest

from cli.harvest_ports import RestingDevices, RestTime
from domain.harvest.decide import Reading, Transition, Watch
from domain.harvest.policy import SENSORS, HarvestPolicy
from domain.harvest.service import HarvestService
from domain.harvest.states import BATTERY_LOW, IN_USE, PAUSED, RUNNING, SILENT, TOO_HOT
from domain.marketplace.sla import Measured
from infrastructure.database import Database
from tests.domain.sagas.test_jobs import submitted
from tests.workers.test_sla_monitor import TEN_MINUTES, Watched
from workers.sla_monitor import MAX_GAP, SETTLED_AFTER, SlaMonitor

MINUTE = timedelta(minutes=1)


class Lent(Watched):
    """A watched market whose device lends itself under a harvest policy."""

    def __init__(self, url: str, database: Database) -> None:
        super().__init__(url, database)
        self.harvest = HarvestService(self.log, lambda device_id: self.owners.get(device_id))
        self.monitor = SlaMonitor(database, self.market, RestTime(self.log, database), clock=lambda: self.now)
        self.market._rests = RestingDevices(self.log)
        self.lend()

    def lend(self) -> None:
        """A session of the device is admitted, and not clear to run yet."""
        lent = {"device_id": self.device_id, "policy": HarvestPolicy(), "sensors": SENSORS}
        receipt = self.ask(self.harvest.start_harvest_session, **lent)
        assert receipt.id is not None
        self.session_id: UUID = receipt.id
        self.sequence = 0

    def becomes(self, status: str, kind: str = "clear") -> None:
        """The session changes now, for a reason."""
        self.sequence += 1
        change = Transition(status, self.sequence, self.now, Reading(kind, "test"))
        changes = [(change, Watch())]
        self.ask(self.harvest.monitor_harvest_conditions, session_id=self.session_id, changes=changes)


@pytest.fixture
def lent(database_url: str, database: Database) -> Iterator[Lent]:
    lent = Lent(database_url, database)
    yield lent
    lent.close()


@pytest.mark.parametrize(
    ("named", "kind", "measured"),
    [
        (True, TOO_HOT, Measured(420_000, 0, 0, 180_000)),
        (True, BATTERY_LOW, Measured(420_000, 0, 0, 180_000)),
        (True, SILENT, Measured(420_000, 180_000, 0, 0)),
        (False, IN_USE, Measured(420_000, 180_000, 0, 0)),
    ],
)
def test_only_rest_by_the_policy_that_the_offering_names_is_excluded(
    lent: Lent, named: bool, kind: str, measured: Measured
) -> None:
    lent.offering_id = lent.offer(harvest_policy=named)
    lent.becomes(RUNNING)
    lent.running()
    lent.watch(2 * MINUTE)
    lent.becomes(PAUSED, kind)
    lent.ask(lent.registry.device_went_offline, device_id=lent.device_id, last_seen_at=lent.now)
    lent.watch(3 * MINUTE)
    lent.becomes(RUNNING)
    lent.ask(lent.registry.device_went_online, device_id=lent.device_id, seen_at=lent.now)
    lent.watch(5 * MINUTE + SETTLED_AFTER + MAX_GAP)
    assert lent.windows() == [measured]


def test_rest_that_goes_on_is_excluded_to_the_end_of_the_window_and_ends_with_the_session(lent: Lent) -> None:
    lent.offering_id = lent.offer(harvest_policy=True)
    lent.becomes(RUNNING)
    lent.running()
    lent.watch(4 * MINUTE)
    lent.becomes(PAUSED, TOO_HOT)
    lent.watch(10 * MINUTE)
    lent.ask(lent.harvest.request_stop, session_id=lent.session_id, owner_id=None, reason="enough")
    lent.watch(6 * MINUTE + SETTLED_AFTER + MAX_GAP)
    assert lent.windows() == [Measured(240_000, 0, 0, 360_000), Measured(360_000, 0, 0, 240_000)]
    assert sum(one.ok_ms + one.excluded_ms for one in lent.windows()) == 2 * TEN_MINUTES


def test_a_device_that_rests_is_given_no_job(lent: Lent) -> None:
    lent.ask(lent.harvest.close_session, session_id=lent.session_id)
    job_id = submitted(lent, lent.running())
    lent.lend()
    assert not lent.market.job_is_due(job_id=job_id)  # admitted, but never clear so far
    lent.becomes(RUNNING)
    assert lent.market.job_is_due(job_id=job_id)
    lent.becomes(PAUSED, BATTERY_LOW)
    assert not lent.market.job_is_due(job_id=job_id)
    lent.ask(lent.harvest.close_session, session_id=lent.session_id)
    assert lent.market.job_is_due(job_id=job_id)
