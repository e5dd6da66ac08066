"""An estate: one of everything that a provider and a customer have, and strangers who have nothing to do with it."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID, uuid4

import httpx2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from graphql import (
    GraphQLField,
    GraphQLNonNull,
    GraphQLSchema,
    build_client_schema,
    get_introspection_query,
    get_named_type,
)

from api.app import create_app
from api.edge.principals import EnrolledDevice, Role
from api.server import listen, server
from domain.harvest.policy import HarvestPolicy
from domain.kernel import new_scope, within
from domain.tokenomics.accounts import wallet_id_of
from domain.tokenomics.pricing import Activity
from infrastructure.database import Database
from infrastructure.http_signatures import DeviceAuth
from tests.api.office import CONTEXTS, Office
from tests.api.stall import Stall, later
from tests.api.test_any_input import selection_of
from tests.cli.villages import eventually
from tests.databases import Copies
from tests.trading import HOUR
from tests.training import new_session, open_round

LIMITS = {"cpu_ms": 1_000, "wall_ms": 1_000, "memory_mb": 128}


@dataclass
class Estate:
    """What a provider and a customer have, by name; and a member and a device that have nothing to do with it."""

    stall: Stall
    url: str
    things: dict[str, str]
    stranger: UUID
    device: DeviceAuth

    def as_whom(self, role: Role) -> dict[str, Any]:
        """What makes a request the operator's, the stranger's, or the strange device's."""
        if role == "device":
            return {"auth": self.device, "headers": {"Idempotency-Key": str(uuid4())}}
        return {"headers": self.stall.office.headers(self.stranger if role == "member" else None)}

    def post(self, path: str, body: dict[str, Any], role: Role) -> httpx2.Response:
        return httpx2.post(f"{self.url}{path}", json=body, timeout=60, trust_env=False, **self.as_whom(role))

    def ask(self, query: str, role: Role, variables: dict[str, Any]) -> dict[str, Any]:
        answer = self.post("/graphql", {"query": query, "variables": variables}, role)
        assert answer.status_code == 200, answer.text
        return cast(dict[str, Any], answer.json())

    def schema(self) -> GraphQLSchema:
        return build_client_schema(self.ask(get_introspection_query(), "operator", {})["data"])

    def shown(self, data: Any) -> set[str]:
        """Which of these things an answer speaks of."""
        return {name for name, thing in self.things.items() if thing in str(data)}

    def asking(self, name: str, field: GraphQLField, *, past: bool = False) -> tuple[str, dict[str, Any]]:
        """A field of the schema asked for these things: its call with declared variables, and those."""
        known: dict[str, Callable[[str], Any]] = {
            "UUID": lambda given: self.things[IDS.get((name, given)) or given.removesuffix("Id")],
            "Int": lambda given: 100,
            "Position": lambda given: 1,
            "AsOf": lambda given: {"position": self.stall.office.log.head()},
            "DeviceCriteriaInput": lambda given: {"minRamMb": 1 << 24},
        }
        kinds = {given: argument.type for given, argument in field.args.items()}
        chosen = [
            given
            for given, kind in kinds.items()
            if isinstance(kind, GraphQLNonNull) or str(kind) == "UUID" or (past and given == "asOf")
        ]
        declared = ", ".join(f"${given}: {kinds[given]}" for given in chosen)
        passed = ", ".join(f"{given}: ${given}" for given in chosen)
        call = f"{name}({passed})" if passed else name
        variables = {given: known[str(get_named_type(kinds[given]))](given) for given in chosen}
        return (f"({declared}) " if declared else "") + "{ " + call + selection_of(field.type, 3) + " }", variables


IDS = {
    ("stream", "id"): "contract",
    ("events", "stream"): "contract",
    ("explain", "stream"): "contract",
    ("harvestSession", "sessionId"): "harvest",
    ("harvestSessions", "ownerId"): "provider",
    ("trainingSession", "sessionId"): "training",
    ("rounds", "sessionId"): "training",
    ("roundProgress", "sessionId"): "training",
    ("rewardClaims", "activityId"): "activity",
    ("transfers", "account"): "customer_wallet",
    ("privacyBudgets", "subjectId"): "provider",
    ("contracts", "customerId"): "customer",
    ("matches", "customerId"): "customer",
    ("events", "correlationId"): "contract",
}
"""What an argument of this name means here; elsewhere `deviceId` is the device."""


def a_world(office: Office) -> tuple[Stall, dict[str, str]]:
    """One of everything: offered, bought, worked at, lent, trained, earned, paid and kept back."""
    stall, activity = Stall(office), uuid4()
    offering_id = stall.offered()
    office.settle()
    wish = {
        "service_type": "compute_burst", "units": 1, "duration_ms": 30_000, "deadline_at": later(HOUR),
        "max_price_grains": "1000000",
    }  # fmt: skip
    things = {name: str(uuid4()) for name in ("request", "contract", "job", "burst", "hold")}
    made = {
        "marketplace/match_service_request": {"request_id": things["request"], **wish},
        "marketplace/propose_contract": stall.proposal(
            offering_id, contract_id=things["contract"], request_id=things["request"], duration_ms=30_000
        ),
        "marketplace/allocate_compute_burst": {"burst_id": things["burst"], "nodes": 1, **wish},
        "marketplace/submit_job": {
            "job_id": things["job"], "contract_id": things["contract"], "job_type": "hash_search", "limits": LIMITS,
            "parameters": {"seed": 1, "start": 0, "count": 1, "difficulty_bits": 1},
        },
        "tokenomics/hold_funds": {
            "hold_id": things["hold"], "grains": "5", "expires_at": later(HOUR), "purpose": "a_job"
        },
        "tokenomics/process_payment": {"to_owner_id": str(stall.provider), "grains": "7", "memo": "for lessons"},
    }  # fmt: skip
    for path, body in made.items():
        answer = office.post(path, body, stall.customer)
        assert answer.status_code == 200, (path, answer.text)
        office.settle()
    things["payment"] = answer.json()["id"]
    grant = {"purpose": "training", "epsilon_micro": 1_000, "delta_pico": 10}
    assert office.post("privacy/grant_budget", grant, stall.provider).status_code == 200
    training = new_session()
    opened = open_round(stall.device_id, session=training)
    with within(new_scope("test")):
        lent = office.village.harvest.start_harvest_session(
            device_id=stall.device_id,
            policy=HarvestPolicy(),
            sensors=["battery", "power", "temperature", "cpu", "network"],
        )
    with within(new_scope("test")):
        earned = office.village.tokenomics.accrue_reward(
            activity=Activity("harvest_contribution", activity, stall.device_id, stall.provider, 3_600_000, 10_000)
        )
    with within(new_scope("test")):
        office.log.record(training, opened)
    office.settle()
    return stall, things | {
        "owner": str(stall.customer), "provider": str(stall.provider), "customer": str(stall.customer),
        "device": str(stall.device_id), "offering": offering_id, "harvest": str(lent.id), "claim": str(earned.id),
        "activity": str(activity), "training": str(training.id), "round": str(opened.id), "memo": "for lessons",
        "provider_wallet": str(wallet_id_of(stall.provider)), "customer_wallet": str(wallet_id_of(stall.customer)),
        "saga": office.ask("{ sagas(first: 1) { edges { node { sagaId } } } }")["sagas"]["edges"][0]["node"]["sagaId"],
        "incident": str(uuid4()), "subject": str(stall.provider),
    }  # fmt: skip


@pytest.fixture(scope="module")
def estate(copies: Copies, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Estate]:
    key, device_id, stranger = Ed25519PrivateKey.generate(), uuid4(), uuid4()
    with copies.one() as url, Database(url, application="tests") as database:
        office = Office(url, database, tmp_path_factory.mktemp("home"))
        with office.client:
            stall, things = a_world(office)
            assert office.post("tokenomics/open_wallet", {}, stranger).status_code == 200
        cast(Any, office.ctx.devices)[device_id] = EnrolledDevice(key.public_key(), uuid4())
        listening, address = listen("127.0.0.1", 0)
        serving = server(create_app(office.ctx, CONTEXTS))
        thread = threading.Thread(target=serving.run, args=([listening],))
        thread.start()
        assert eventually(lambda: serving.started), "the server did not start"
        office.settle()
        yield Estate(stall, address, things, stranger, DeviceAuth(device_id, key))
        serving.should_exit = True
        thread.join(60)
        office.close()
