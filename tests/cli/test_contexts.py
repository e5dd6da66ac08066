"""A part of a village: what belongs to each context, what it needs, and that one which fails stops no other."""

import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import psycopg
import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from api.edge.principals import Tokens
from cli import contexts
from cli.children import LONG_PAUSE_S, MAX_CRASHES, Child, ChildFailed, LogFile
from cli.compose import WORKERS, api_app
from cli.parts import parts
from domain.device_registry.service import DeviceRegistryService
from domain.kernel import Fact, new_scope, within
from domain.tokenomics.pricing import Policy
from domain.tokenomics.service import TokenomicsService
from infrastructure.database import Database
from infrastructure.event_store import open_event_log
from infrastructure.keys import load_keys
from infrastructure.metrics import REGISTRY
from infrastructure.settings import Settings
from projections.catalogue import BY_CONTEXT, READ_MODELS
from projections.device_registry import Devices
from tests.cli.villages import Running, environment, eventually, running
from tests.commands import village
from tests.devices import enrol
from workers.projector import Projector
from workers.saga_runner import name_of
from workers.ticking import tick_until

PART = "tokenomics,device_registry"


def of(*names: str, **more: Any) -> Settings:
    return Settings(contexts=names, **more)


def test_without_a_choice_all_of_the_village_runs() -> None:
    assert contexts.chosen(Settings()) == tuple(contexts.CONTEXTS)
    assert contexts.workers(Settings(), WORKERS) == tuple(WORKERS)
    assert set(contexts.read_models(Settings())) == set(READ_MODELS)
    assert contexts.elsewhere(Settings()) == frozenset()


def test_a_part_has_what_belongs_to_its_contexts_and_what_operators_steer_by() -> None:
    part = of("tokenomics", "device_registry")
    assert contexts.chosen(part) == ("device_registry", "tokenomics")
    assert set(contexts.running(part)) == {"device_registry", "tokenomics", "monitoring", "sagas"}
    assert contexts.workers(part, WORKERS) == ("projector", "saga-runner", "clock")
    here = {model.name for model in contexts.read_models(part)}
    assert {"devices", "accounts", "incidents"} <= here
    away = contexts.elsewhere(part)
    assert away >= {"saga:reward_training", "saga:pay_for_service", "aggregator"}
    assert away & {model.name for model in READ_MODELS} == {model.name for model in READ_MODELS} - here


@pytest.mark.parametrize(
    ("names", "refusal", "told"),
    [
        (("tokenomics", "gossip"), contexts.ContextUnknown, "gossip"),
        (("sagas",), contexts.ContextUnknown, "sagas"),
        (("harvest", "device_registry"), contexts.ContextLacking, "harvest needs tokenomics"),
        (("federated_learning",), contexts.ContextLacking, "device_registry, privacy, tokenomics"),
    ],
)
def test_a_part_that_cannot_be_is_refused_by_name(names: tuple[str, ...], refusal: type[Exception], told: str) -> None:
    with pytest.raises(refusal, match=told):
        contexts.chosen(of(*names))


def test_every_read_model_and_every_saga_belongs_somewhere(database_url: str, tmp_path: Path) -> None:
    assert set(BY_CONTEXT) == set(contexts.CONTEXTS) | set(contexts.STEERING)
    from domain.sagas.coordinate_training import CoordinateTraining
    from domain.sagas.reward_training import RewardTraining

    with parts(Settings(home=tmp_path, database_url=SecretStr(database_url)), "tests") as made:
        every: list[Any] = [CoordinateTraining, RewardTraining, *made.village.sagas.plans]
        assert {name_of(saga) for saga in every} == set(contexts.SAGAS)
        assert contexts.sagas(Settings(), every) == every
        assert contexts.sagas(of("tokenomics", "device_registry"), every) == []
        market = contexts.sagas(of("tokenomics", "device_registry", "marketplace"), every)
        assert {name_of(saga) for saga in market} == {"pay_for_service", "allocate_burst", "hand_off_contract"}
        for needed in contexts.SAGAS.values():
            assert set(needed) <= set(contexts.CONTEXTS)


def test_the_settings_show_the_part_and_refuse_one_that_cannot_be(tmp_path: Path) -> None:
    shown = village("config", "show", env=environment(tmp_path, contexts=PART))
    assert "device_registry,tokenomics" in shown.stdout
    refused = village("config", "check", env=environment(tmp_path, contexts="harvest"))
    assert (refused.returncode, refused.stderr) == (1, "harvest needs device_registry, tokenomics, too\n")
    unknown = village("up", "--contexts", "gossip", env=environment(tmp_path))
    assert unknown.returncode == 1
    assert unknown.stderr.startswith("No context is called gossip: there are device_registry, ")
    assert not (tmp_path / "postgres").exists()


@pytest.fixture
def without_marketplace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its API and its part of the clock cannot be imported."""
    for name in ("api.marketplace", "workers.sla_monitor"):
        monkeypatch.setitem(sys.modules, name, None)
        parent = sys.modules.get(name.partition(".")[0])
        monkeypatch.delattr(parent, name.partition(".")[2], raising=False)


def left_out_of(part: str) -> float | None:
    """Whether the metrics say that a part of this process runs without the market."""
    return REGISTRY.get_sample_value("village_contexts_left_out", {"context": "marketplace", "part": part})


def test_a_context_that_fails_to_start_stops_no_other(
    database_url: str, tmp_path: Path, without_marketplace: None
) -> None:
    settings = Settings(home=tmp_path, database_url=SecretStr(database_url))
    with api_app(settings) as app, TestClient(app) as client:
        token = Tokens(load_keys(tmp_path)).issue(role="operator", subject="ada", expires_in=timedelta(hours=1))
        headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": "one"}
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["left_out"]) == (200, ["marketplace"])
        assert 'village_contexts_left_out{context="marketplace"' in client.get("/metrics", headers=headers).text
        assert left_out_of("api") == 1
        owner = {"owner_id": str(uuid4())}
        assert client.post("/v1/tokenomics/open_wallet", json=owner, headers=headers).status_code == 200
        assert client.post("/v1/marketplace/withdraw_offering", json={}, headers=headers).status_code == 404
        fields = client.post("/graphql", json={"query": FIELDS}, headers=headers).json()["data"]["__type"]["fields"]
        assert {"wallets", "devices", "rounds"} <= {field["name"] for field in fields}
        assert "offerings" not in {field["name"] for field in fields}
    with parts(settings, "tests") as made:
        clocks = contexts.clocks(made)
    assert left_out_of("clock") == 1
    assert len(clocks) == sum(len(one.clocks) for one in contexts.running(settings).values()) - 1


def test_routes_that_cannot_be_made_stop_no_others(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import api.harvest

    def broken(ctx: object) -> None:
        raise RuntimeError("harvest")

    monkeypatch.setattr(api.harvest, "router", broken)
    settings = Settings(home=tmp_path, database_url=SecretStr(database_url))
    with api_app(settings) as app, TestClient(app) as client:
        assert client.get("/readyz").json()["left_out"] == ["harvest"]


class Broken(Devices):
    """A read model whose own code fails."""

    def keys(self, fact: Fact) -> list[Any]:
        raise RuntimeError("devices")


def test_a_read_model_that_fails_stops_none_of_another_context(database: Database) -> None:
    log = open_event_log(database.url)
    with within(new_scope("operator:tests")):
        enrol(DeviceRegistryService(log))
        wallet = TokenomicsService(log, Policy()).open_wallet(owner_id=uuid4())
    log.close()
    projector = Projector(database, [Broken() if model.name == "devices" else model for model in READ_MODELS])
    projector.run_once()
    projector.close()
    with database.reader.connection() as connection:
        reached: dict[str, int] = dict(connection.execute("SELECT name, position FROM engine.cursors").fetchall())
        assert connection.execute("SELECT count(*) FROM read.wallets").fetchone() == (1,)
    assert reached.pop("devices") < wallet.position
    assert set(reached.values()) == {wallet.position}


def test_a_clock_that_fails_ticks_again() -> None:
    stopping, ticks = threading.Event(), []

    def tick() -> None:
        ticks.append(1)
        if len(ticks) == 3:
            stopping.set()
        raise RuntimeError("always")

    tick_until(stopping, 0.001, tick, "broken clock")
    assert len(ticks) == 3


@pytest.mark.parametrize("vital", [True, False])
def test_a_worker_of_one_context_that_never_stays_up_is_tried_again_and_any_other_ends_the_village(
    tmp_path: Path, vital: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = Child("worker", ["no-such-command"], LogFile(tmp_path / "logs" / "worker.log"), vital=vital)
    child.crashes = MAX_CRASHES
    child.start(environment(tmp_path))
    assert eventually(lambda: child.pid is None)
    if vital:
        with pytest.raises(ChildFailed):
            child.watch(environment(tmp_path))
    else:
        child.watch(environment(tmp_path))
        assert child.pid is None, f"the next try is in {LONG_PAUSE_S} s"
    child.ensure_stopped(0)
    assert {name for name in WORKERS if contexts.is_of_a_context(name)} == {"aggregator"}


FIELDS = '{ __type(name: "Query") { fields { name } } }'


@pytest.fixture(scope="module")
def part(short_home: Path) -> Iterator[tuple[Running, Path]]:
    home = short_home / "part"
    with running(environment(home, contexts=PART)) as up:
        yield up, home


@pytest.mark.slow
def test_a_part_of_a_village_serves_its_contexts_and_no_other(part: tuple[Running, Path]) -> None:
    up, home = part
    assert up.ready()
    assert up.pid_of("worker aggregator") is None
    issued = village("token", "issue", "--role", "operator", "--subject", "ada", env=environment(home))
    headers = {"Authorization": f"Bearer {issued.stdout.strip()}", "Idempotency-Key": "one"}
    with httpx2.Client(base_url=up.url, headers=headers, timeout=60, trust_env=False) as client:
        opened = client.post("/v1/tokenomics/open_wallet", json={"owner_id": str(uuid4())})
        assert opened.status_code == 200, opened.text
        wallets = "query($at: Position) { wallets(first: 9, atLeast: $at) { totalCount } supply { conserved } }"
        found = client.post("/graphql", json={"query": wallets, "variables": {"at": opened.json()["position"]}}).json()
        assert found["data"] == {"wallets": {"totalCount": 1}, "supply": {"conserved": True}}
        fields = client.post("/graphql", json={"query": FIELDS}).json()["data"]["__type"]["fields"]
        names = {field["name"] for field in fields}
        assert {"wallets", "devices", "events", "sagas", "incidents", "projections"} <= names
        assert not {"rounds", "offerings", "harvestSessions", "privacyBudgets"} & names
        for command in ("marketplace/withdraw_offering", "federated_learning/start_training"):
            assert client.post(f"/v1/{command}", json={}).status_code == 404
    url = (home / "database.url").read_text().strip()
    with psycopg.connect(url) as connection:
        names = {name for (name,) in connection.execute("SELECT name FROM engine.cursors").fetchall()}
    here = {model.name for model in contexts.read_models(of(*PART.split(",")))}
    assert names & {model.name for model in READ_MODELS} == here
    assert not names & contexts.elsewhere(of(*PART.split(",")))


def test_a_worker_of_a_context_that_does_not_run_is_refused(short_home: Path) -> None:
    done = village("worker", "aggregator", env=environment(short_home / "none", contexts=PART))
    assert done.returncode == 1
    assert "belongs to none of the contexts device_registry, tokenomics" in done.stderr
