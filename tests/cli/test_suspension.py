"""An operator suspends a device by REST, and all it did for others goes elsewhere, ends or is void: the whole way."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from api.edge.principals import Tokens
from cli.compose import api_app
from cli.parts import Parts, parts
from domain.device_registry.criteria import DeviceCriteria
from domain.federated_learning.round import TrainingRound
from domain.harvest.policy import HarvestPolicy
from domain.kernel import Receipt, new_scope, within
from domain.marketplace.hand_off import heir_of
from domain.marketplace.matching import Wish
from domain.marketplace.offering import Resources
from domain.tokenomics.pricing import Activity
from domain.tokenomics.reward_claim import RewardClaim
from infrastructure.keys import load_keys
from infrastructure.settings import Settings
from projections.catalogue import READ_MODELS
from projections.device_index import DeviceIndex
from tests.devices import enrol
from tests.economy import fund
from tests.trading import HOUR, HOUR_MS, PRICE, SLA
from tests.training import Shelf, training_request
from workers.deadline_clock import DeadlineClock
from workers.projector import Projector
from workers.saga_runner import SagaRunner

WAIT_S = 120.0
SENSORS = ["battery", "power", "temperature", "cpu", "network"]


class Place:
    """The API of a village on a database, and its sagas, clock and read models when they are told to go on."""

    def __init__(self, made: Parts, client: TestClient, token: str) -> None:
        self.made, self.village, self.client = made, made.village, client
        self.headers = {"Authorization": f"Bearer {token}"}
        self.projector = Projector(made.database, list(READ_MODELS))
        self.runner = SagaRunner(made.log, made.database, made.village.sagas.plans, made.village)
        self.clock = DeadlineClock(made.village.deadlines, made.database)

    def close(self) -> None:
        self.runner.close()
        self.projector.close()

    def do(self, command: Callable[..., Receipt], **arguments: Any) -> UUID:
        """A command that has come before; answers the id of what it is about."""
        with within(new_scope("test", now=datetime.now(UTC))):
            receipt = command(**arguments)
        return receipt.id or UUID(int=0)

    def go_on(self) -> None:
        self.runner.run_once()
        self.projector.run_once()
        self.clock.tick()

    def until(self, holds: Callable[[], bool]) -> None:
        ends = time.monotonic() + WAIT_S
        while not holds():
            assert time.monotonic() < ends, "the sagas do not come to it"
            self.go_on()

    def post(self, path: str, body: dict[str, Any]) -> None:
        headers = self.headers | {"Idempotency-Key": str(uuid4())}
        answer = self.client.post(f"/v1/{path}", json=body, headers=headers)
        assert answer.status_code == 200, answer.text

    def ask(self, query: str, **variables: Any) -> Any:
        body = {"query": query, "variables": {name: str(value) for name, value in variables.items()}}
        answer = self.client.post("/graphql", json=body, headers=self.headers).json()
        assert "errors" not in answer, answer
        return answer["data"]

    def device(self, owner_id: UUID) -> UUID:
        """An enrolled device that is online."""
        now = datetime.now(UTC)
        device_id = enrol(self.village.device_registry, owner_id=owner_id, now=now)
        self.do(self.village.device_registry.device_went_online, device_id=device_id, seen_at=now)
        return device_id

    def offer(self, owner_id: UUID, device_id: UUID, price: int) -> UUID:
        offering_id = uuid4()
        self.do(
            self.village.marketplace.create_service_offering, offering_id=offering_id, provider_id=owner_id,
            device_id=device_id, service_type="compute_burst", resources=Resources(4_096, 4, 12_000), region="eu-west",
            capacity=1, price_grains_per_hour=price, sla=SLA, valid_until=datetime.now(UTC) + 24 * HOUR,
        )  # fmt: skip
        return offering_id

    def buy(self, offering_id: UUID) -> UUID:
        """An hour along a receipt; answers the contract, which runs."""
        customer_id, until = uuid4(), datetime.now(UTC) + 2 * HOUR
        with within(new_scope("test", now=datetime.now(UTC))):
            fund(self.village.tokenomics, customer_id, 4 * PRICE)
        market, wish = self.village.marketplace, Wish("compute_burst", 1, HOUR_MS, until, 2 * PRICE)
        asked = {"customer_id": customer_id, "request_id": uuid4()}
        self.do(market.match_service_request, wish=wish, **asked)
        contract_id = self.do(
            market.propose_contract, contract_id=uuid4(), offering_id=offering_id, units=1, duration_ms=HOUR_MS,
            deadline_at=until, max_price_grains=2 * PRICE, **asked,
        )  # fmt: skip
        self.until(lambda: self.contract(contract_id) == "active")
        return contract_id

    def contract(self, contract_id: UUID) -> str:
        return self.village.marketplace.get_contract(contract_id=contract_id).status

    def eligible(self) -> set[UUID]:
        """The devices that a query finds."""
        self.projector.run_once()
        return set(DeviceIndex(self.made.database).survey(DeviceCriteria()).device_ids)

    def round(self) -> UUID:
        """A round of a new session, over whoever is found."""
        self.projector.run_once()
        training, shelf = self.village.federated_learning, Shelf()
        base = self.made.blobs.put_bytes(shelf.blobs[training_request(shelf)["base_model_hash"]])
        session_id = self.do(training.start_training, **training_request(shelf) | {"base_model_hash": base})
        return self.do(training.coordinate_training_round, session_id=session_id)


@pytest.fixture
def place(database_url: str, tmp_path: Path) -> Iterator[Place]:
    settings = Settings(home=tmp_path, database_url=SecretStr(database_url))
    with ExitStack() as ends:
        client = ends.enter_context(TestClient(ends.enter_context(api_app(settings))))
        made = ends.enter_context(parts(settings, "tests"))
        token = Tokens(load_keys(tmp_path)).issue(role="operator", subject="ada", expires_in=timedelta(hours=1))
        place = Place(made, client, token)
        ends.callback(place.close)
        with within(new_scope("test")):
            made.village.tokenomics.genesis()
        yield place


LOOK = """query($id: UUID!) {
  device(deviceId: $id) { status statusReason }
  rewardClaims(first: 10, deviceId: $id) { edges { node { state } } }
}"""


def test_what_a_suspended_device_did_goes_elsewhere_ends_or_is_void(place: Place) -> None:
    village, owner_id = place.village, uuid4()
    tired, *others = [place.device(owner_id) for _ in range(4)]
    offering_id, _ = place.offer(owner_id, tired, PRICE), place.offer(owner_id, others[0], PRICE + 1)
    place.projector.run_once()
    contract_id, round_id = place.buy(offering_id), place.round()
    session_id = place.do(
        village.harvest.start_harvest_session, device_id=tired, policy=HarvestPolicy(), sensors=SENSORS
    )
    earned = Activity("service_hosting", uuid4(), tired, owner_id, HOUR_MS, 10_000)
    claim_id = place.do(village.tokenomics.accrue_reward, activity=earned)
    asked = village.federated_learning.get_selected_participants
    assert tired in place.eligible()
    assert tired in asked(round_id=round_id)
    place.post("device_registry/suspend_device", {"device_id": str(tired), "reason": "sends nonsense"})
    place.until(lambda: place.contract(contract_id) == "handed_off")
    place.until(lambda: not village.log.load(RewardClaim, claim_id).open)
    place.projector.run_once()
    assert place.eligible() == set(others)
    assert tired in village.log.load(TrainingRound, round_id).left
    assert tired not in asked(round_id=place.round())
    assert not village.harvest.get_session(session_id=session_id).is_open
    heir = village.marketplace.get_contract(contract_id=heir_of(contract_id))
    assert (heir.status, heir.terms.device_id) == ("active", others[0])
    told = place.ask(LOOK, id=tired)
    assert told["device"] == {"status": "suspended", "statusReason": "sends nonsense"}
    assert told["rewardClaims"]["edges"] == [{"node": {"state": "void"}}]
