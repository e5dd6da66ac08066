"""For every read model and every aggregate of the village: as of a position it is what was live at that position."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from domain.harvest.decide import Watch, step
from domain.harvest.policy import HarvestPolicy
from domain.harvest.service import HarvestService
from domain.kernel import Aggregate, Refusal
from domain.kernel.catalogue import closing_topics
from domain.marketplace.burst import Burst, BurstNode, BurstRequest
from domain.marketplace.matching import Candidate, Snapshot, Wish
from domain.marketplace.request import ServiceRequest
from domain.marketplace.settlement import NOTHING
from domain.marketplace.work import JobLimits, JobSpec
from domain.monitoring.service import MonitoringService
from domain.tokenomics.pricing import Activity
from infrastructure.database import Database, Role
from projections.as_of import aggregate_at, position_at, row_at, rows_at
from projections.catalogue import READ_MODELS
from projections.replay import compare, replayed
from projections.rows import Key, ReadModel
from tests.databases import Copies
from tests.devices import Applicant, enrol
from tests.harvesting import a_sample
from tests.trading import some_offering
from tests.training_world import TrainingWorld
from workers.projector import Projector

DEEDS = 72

SEARCH = {"seed": 1, "start": 0, "count": 1, "difficulty_bits": 1}


@dataclass
class Moment:
    """What was live at a position: the rows of every read model, and the aggregates that had changed."""

    position: int
    rows: dict[str, dict[Key, Any]] = field(default_factory=dict)
    aggregates: dict[UUID, Aggregate] = field(default_factory=dict)


class Life(TrainingWorld):
    """A village in which everything happens that a read model may tell of; a refusal is part of life."""

    def __init__(self, url: str, database: Database, seed: int) -> None:
        super().__init__(url, database)
        self.moments: list[Moment] = []
        self.dice = random.Random(seed)
        self.owners = [UUID(int=self.dice.getrandbits(128), version=4) for _ in range(3)]
        self.devices: list[UUID] = []
        self.claims: list[UUID] = []
        self.offerings: list[UUID] = []
        self.contracts: list[UUID] = []
        self.market = self.village.marketplace
        self.harvest = HarvestService(self.log, lambda device_id: self.owners[0])
        self.lent: list[UUID] = []
        self.monitoring = MonitoringService(self.log, [model.name for model in READ_MODELS])
        self.everything = Projector(database, READ_MODELS)

    def live(self) -> None:
        self.ask(self.village.tokenomics.genesis)
        deeds = [self.open_wallet, self.earn, self.pay, self.hold, self.enrol, self.appear, self.vanish, self.trust]
        deeds += [self.offer, self.agree, self.deliver, self.lend]
        session_id = self.start()
        for number in range(DEEDS):
            self.now += timedelta(seconds=1)
            self.dice.choice(deeds)()
            if number % 12 == 7:
                self.train(session_id)
            if number % 12 == 11:
                self.operate()
            self.look()

    def work(self, contract_id: UUID) -> None:
        """A job under a contract; now and then it ends."""
        spec = JobSpec("hash_search", SEARCH, {}, JobLimits(cpu_ms=1, wall_ms=1, memory_mb=128))
        job_id = uuid4()
        self.do(self.market.submit_job, job_id=job_id, contract_id=contract_id, customer_id=None, spec=spec)
        if self.dice.random() < 0.5:
            self.do(self.market.cancel_job, job_id=job_id, customer_id=None)

    def close(self) -> None:
        self.everything.close()
        super().close()

    def look(self) -> None:
        """Remember what is live now, as the real projector has folded it."""
        self.everything.run_once()
        moment = Moment(self.log.head())
        with self.database.reader.connection() as connection:
            for model in READ_MODELS:
                found = map(model.read, connection.execute(model.select()))
                moment.rows[model.name] = {model.key_of(row): row for row in found}
            since = self.moments[-1].position if self.moments else 0
            changed = connection.execute("SELECT DISTINCT stream FROM log.events WHERE position > %s", (since,))
            moment.aggregates = {stream: self.log.load(Aggregate, stream) for (stream,) in changed}
        self.moments.append(moment)

    def do(self, command: Callable[..., Any], **arguments: Any) -> Any:
        try:
            return self.ask(command, **arguments).id
        except Refusal:
            return None

    def lend(self) -> None:
        device_id = self.dice.choice(self.devices) if self.devices else uuid4()
        some = ["battery", "power", "temperature", "cpu", "network"][: self.dice.choice([1, 5, 5])]
        asked = {"device_id": device_id, "policy": HarvestPolicy(), "sensors": some}
        session_id = self.do(self.harvest.start_harvest_session, **asked)
        if session_id is None and self.lent:
            ended = self.lent.pop()
            self.do(self.harvest.request_stop, session_id=ended, owner_id=None, reason="enough")
            self.do(self.harvest.close_session, session_id=ended)
            self.do(self.harvest.judge_audit, session_id=ended)
            self.do(self.harvest.mark_rewarded, session_id=ended, claim_id=None, grains=0)
        elif session_id is not None:
            self.lent.append(session_id)
            watch, changes = Watch(), []
            for number in range(1, 9):
                watch, found = step(HarvestPolicy(), watch, a_sample(number, battery_temp=30.0 if number < 7 else 62.0))
                changes += [(found, watch)] if found else []
            self.do(self.harvest.monitor_harvest_conditions, session_id=session_id, changes=changes)

    def open_wallet(self) -> None:
        self.do(self.village.tokenomics.open_wallet, owner_id=self.dice.choice(self.owners))

    def earn(self) -> None:
        device_id = self.dice.choice(self.devices) if self.devices else uuid4()
        work = Activity("fl_participation", uuid4(), device_id, self.dice.choice(self.owners), 3_600_000, 10_000)
        self.claims.append(self.do(self.village.tokenomics.accrue_reward, activity=work))
        if self.dice.random() < 0.7:
            self.do(self.village.tokenomics.distribute_rewards, batch_id=uuid4(), claim_ids=self.claims[-2:])

    def pay(self) -> None:
        payer, payee = self.dice.sample(self.owners, 2)
        payment = {"payment_id": str(uuid4()), "from_owner_id": payer}
        if self.dice.random() < 0.2:
            self.do(self.village.tokenomics.reject_payment, **payment, kind="payment", reason="changed my mind")
        else:
            self.do(self.village.tokenomics.process_payment, **payment, to_owner_id=payee, grains=1_000)

    def hold(self) -> None:
        terms = {"grains": 500, "expires_at": self.now + timedelta(hours=1), "purpose": "a job"}
        self.do(self.village.tokenomics.hold_funds, owner_id=self.dice.choice(self.owners), hold_id=uuid4(), **terms)

    def enrol(self) -> None:
        owner = self.dice.choice(self.owners)
        self.devices.append(enrol(self.village.device_registry, Applicant(), owner_id=owner, now=self.now))

    def appear(self) -> None:
        self._of_device(self.village.device_registry.device_went_online, seen_at=self.now)

    def vanish(self) -> None:
        self._of_device(self.village.device_registry.device_went_offline, last_seen_at=self.now)

    def trust(self) -> None:
        evidence = {"service": "federated_learning", "good": self.dice.random() < 0.7, "weight_bp": 10_000}
        self._of_device(self.village.device_registry.update_reputation, cause_event_id=uuid4(), **evidence)

    def _of_device(self, command: Callable[..., Any], **arguments: Any) -> None:
        if self.devices:
            self.do(command, device_id=self.dice.choice(self.devices), **arguments)

    def offer(self) -> None:
        offering = some_offering(now=self.now, valid_until=self.now + timedelta(days=1))
        self.offerings.append(self.do(lambda: self.log.record(offering)))
        if self.dice.random() < 0.3:
            self.do(self.market.withdraw_offering, offering_id=self.dice.choice(self.offerings), provider_id=None)

    def agree(self) -> None:
        if not self.offerings:
            return
        terms = {"units": 1, "duration_ms": 60_000, "deadline_at": self.now + timedelta(hours=1)}
        contract_id = self.do(
            self.market.propose_contract,
            contract_id=uuid4(),
            offering_id=self.dice.choice(self.offerings),
            customer_id=self.dice.choice(self.owners),
            max_price_grains=10**12,
            **terms,
        )
        if contract_id is not None:
            self.contracts.append(contract_id)
            self.do(self.market.reserve_capacity, contract_id=contract_id)
            self.do(self.market.reserve_contract, contract_id=contract_id, hold_id=uuid4())

    def deliver(self) -> None:
        if self.contracts:
            contract_id = self.dice.choice(self.contracts)
            self.do(self.market.activate_contract, contract_id=contract_id)
            self.do(self.market.report_usage, contract_id=contract_id, provider_id=None, cumulative_ms=500)
            self.work(contract_id)
            self.do(self.market.count_trade, contract_id=contract_id, grains=500)
            if self.dice.random() < 0.5:
                self.do(self.market.complete_contract, contract_id=contract_id, customer_id=None)
                self.do(self.market.release_capacity, contract_id=contract_id)
                self.do(self.market.settle_contract, contract_id=contract_id, paid=NOTHING)

    def burst(self) -> None:
        wish = Wish("compute_burst", 1, 60_000, self.now + timedelta(hours=1), 10**12)
        found = Candidate(uuid4(), self.owners[0], "compute_burst", "eu", 1, 1, 1, 1, 1_000, 9_990, wish.deadline_at)
        sought = ServiceRequest.decide(uuid4(), self.owners[1], wish, Snapshot([found], self.log.head()), self.now)
        self.do(lambda: self.log.record(sought))
        node = BurstNode(uuid4(), uuid4(), uuid4(), self.owners[0], 1_000)
        for ends in (False, True):
            named = {"burst_id": uuid4(), "customer_id": self.owners[1]}
            burst = Burst(**named, request=BurstRequest(nodes=1, wish=wish), nodes=[node])
            burst_id = self.do(lambda burst=burst: self.log.record(burst))
            if ends:
                self.do(self.market.refuse_burst, burst_id=burst_id, reason="capacity_exhausted")

    def train(self, session_id: UUID) -> None:
        """A step of the training: the saga opens a round, or its devices answer and it completes."""
        self.settle()
        if (round_id := self.session(session_id).open_round) is not None:
            self.do(self.training.leave_training, device_id=self.directory.device_ids[3], reason="a drill")
            self.answer(round_id)
            self.look()
            self.complete(round_id)
            self.look()

    def operate(self) -> None:
        """What operators do; the letter that is skipped is nobody's."""
        name = self.dice.choice(READ_MODELS).name
        self.do(self.monitoring.retry_letter, name=name, key='"x"', reason="a drill")
        self.do(self.monitoring.skip_letter, name=name, key='"x"', position=1, reason="a drill")
        self.do(self.monitoring.rebuild_projection, name=name, reason="a drill")
        opened = {"severity": "warning", "summary": "a drill", "value": 2.0, "limit": 1.0}
        incident_id = self.do(self.monitoring.open_incident, rule="drill", subject=name, number=1, **opened)
        self.do(self.monitoring.acknowledge_incident, incident_id=incident_id, note="looking")
        if self.dice.random() < 0.5:
            self.do(self.monitoring.resolve_incident, incident_id=incident_id, reason="over")
        self.do(self.village.privacy.erase_subject, subject_id=uuid4(), reason="asked for")
        self.budget(self.owners[0], uuid4(), uuid4())
        self.burst()

    def budget(self, subject_id: UUID, spent: UUID, kept: UUID) -> None:
        privacy, whose = self.village.privacy, {"subject_id": subject_id, "purpose": "federated_learning"}
        self.do(privacy.grant_budget, **whose, epsilon_micro=40, delta_pico=10)
        self.do(privacy.reserve_budget, **whose, reservation_id=spent, epsilon_micro=30)
        self.do(privacy.commit_budget, **whose, reservation_id=spent, epsilon_micro=20)
        self.do(privacy.reserve_budget, **whose, reservation_id=kept, epsilon_micro=5)
        self.do(privacy.release_budget, **whose, reservation_id=kept)
        self.do(privacy.exhaust_budget, **whose)


@pytest.fixture(scope="module")
def life(copies: Copies) -> Iterator[Life]:
    """A village that has lived, on a database of the module's own."""
    with copies.one() as url, Database(url) as database:
        life = Life(url, database, seed=20_261_124)
        life.live()
        yield life
        life.close()


@pytest.mark.parametrize("model", READ_MODELS, ids=lambda model: model.name)
def test_a_read_model_as_of_a_position_is_what_was_live_then(life: Life, model: ReadModel[Any]) -> None:
    moments = [(moment.position, moment.rows[model.name]) for moment in life.moments]
    assert any(rows for _, rows in moments), "nothing happens in this village that this model tells of"
    before: dict[Key, Any] = {}
    with life.database.connect(Role.READER) as connection:
        for position, rows in moments:
            if rows != before:
                assert rows_at(connection, model, position) == rows, position
                for key in [*rows, *before]:
                    if rows.get(key) != before.get(key):
                        assert row_at(connection, model, key, position) == rows.get(key), (position, key)
            before = rows


def test_replays_to_a_position_give_what_was_live_then(life: Life) -> None:
    with life.database.connect(Role.READER) as connection:
        for moment in life.moments[:: DEEDS // 4]:
            found = replayed(connection, READ_MODELS, moment.position)
            assert {model.name: rows for model, rows in found} == moment.rows
            assert compare(connection, READ_MODELS, moment.position).differences == []


def test_an_aggregate_of_any_type_as_of_a_position_is_what_was_live_then(life: Life) -> None:
    kinds = set()
    with life.database.connect(Role.READER) as connection:
        for moment in life.moments:
            for stream, aggregate in moment.aggregates.items():
                assert aggregate_at(connection, Aggregate, stream, moment.position) == aggregate
                kinds.add(aggregate.topic)
    assert len(kinds) >= 12, kinds


def test_nothing_follows_a_fact_that_closes_its_stream(life: Life) -> None:
    closing, closed = set(closing_topics()), set()
    with life.database.connect(Role.READER) as connection:
        for stream, topic in connection.execute("SELECT stream, topic FROM log.events ORDER BY position"):
            assert stream not in closed, topic
            if topic in closing:
                closed.add(stream)
    assert closed


def test_an_instant_means_the_newest_fact_recorded_by_then(life: Life) -> None:
    with life.database.connect(Role.READER) as connection:
        times = connection.execute("SELECT recorded_at, max(position) FROM log.events GROUP BY 1").fetchall()
        for instant, newest in times[::7]:
            assert position_at(connection, instant) == newest
