"""Harvest as devices, owners and operators see it: real uvicorn, real Postgres, real signatures, the real monitor."""

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import httpx2
import msgspec
import pytest

from api import device_registry, harvest
from api.app import create_app
from api.edge.context import ApiContext
from api.edge.principals import Tokens
from api.server import listen, server
from cli.edge_ports import EnrolledDevices
from cli.ports import DeviceOwners
from domain.device_registry.service import DeviceRegistryService
from domain.harvest.audit import Job, answer_of
from domain.harvest.service import HarvestService
from domain.harvest.session import HarvestSession
from domain.kernel import Fact
from infrastructure.blobs import BlobStore
from infrastructure.database import Database
from infrastructure.event_store import LogReader, open_event_log
from infrastructure.harvest import HarvestStore
from infrastructure.http_signatures import DeviceAuth
from infrastructure.keys import load_keys
from infrastructure.settings import Settings
from projections.device_registry import Devices
from projections.harvest import HarvestSessions
from tests.devices import Applicant
from tests.harvesting import a_sample
from workers.harvest_monitor import HarvestMonitor
from workers.projector import Projector

from .edge.socket_client import socket as graphql_socket
from .registry_desk import Desk, assert_problem

SENSORS = ["battery", "power", "temperature", "cpu", "network"]


@dataclass
class Services:
    device_registry: DeviceRegistryService
    harvest: HarvestService


@dataclass
class Farm(Desk):
    """The running API, devices that lend themselves, and the monitor's clock in the test's hand."""

    store: HarvestStore
    monitor: HarvestMonitor

    def act(self, device: Applicant, path: str, body: Any) -> httpx2.Response:
        auth = DeviceAuth(device.device_id, device.signing)
        return self.client.post(f"/v1/harvest/{path}", json=body, auth=auth)

    def start(self, device: Applicant, **policy: Any) -> dict[str, Any]:
        answer = self.act(device, "start_harvest_session", {"policy": policy, "sensors": SENSORS})
        assert answer.status_code == 200, answer.text
        return cast(dict[str, Any], answer.json())

    def send(self, device: Applicant, session_id: str, samples: Sequence[dict[str, Any]]) -> httpx2.Response:
        return self.act(device, "send_samples", {"session_id": session_id, "samples": samples})

    def session(self, session_id: str) -> HarvestSession:
        return self.log.load(HarvestSession, UUID(session_id))

    def facts(self, stream: UUID) -> list[Fact]:
        with self.ctx.database.reader.connection() as connection:
            return [record.fact() for record in LogReader(connection).of_streams([stream])]

    def watch_for(self, start: datetime, seconds: int) -> None:
        """Let the monitor tick for so long."""
        for second in range(0, seconds + 1, 10):
            self.monitor.tick(start + timedelta(seconds=second))


@pytest.fixture
def farm(database: Database, database_url: str, tmp_path: Path) -> Iterator[Farm]:
    log = open_event_log(database_url)
    services = Services(DeviceRegistryService(log), HarvestService(log, DeviceOwners(log)))
    ctx = ApiContext(
        village=cast(Any, services),
        database=database,
        blobs=BlobStore.open(None, home=tmp_path),
        keys=load_keys(tmp_path),
        settings=Settings(home=tmp_path),
        devices=EnrolledDevices(log),
    )
    socket, url = listen("127.0.0.1", 0)
    serving = server(create_app(ctx, [device_registry, harvest]))
    thread = threading.Thread(target=serving.run, args=([socket],))
    thread.start()
    ends = time.monotonic() + 60
    while not serving.started and time.monotonic() < ends:
        time.sleep(0.005)
    assert serving.started, "the server did not start"
    projector = Projector(database, [Devices(), HarvestSessions()])
    store = HarvestStore(database, services.harvest)
    with httpx2.Client(base_url=url, timeout=60) as client:
        yield Farm(client, ctx, log, Tokens(ctx.keys), projector, store, HarvestMonitor(store))
    serving.should_exit = True
    thread.join(60)
    projector.close()
    log.close()
    assert not thread.is_alive(), "the server did not stop"


def body(sequence: int, at: datetime, **values: Any) -> dict[str, Any]:
    """A sample as a device sends it."""
    known = msgspec.to_builtins(msgspec.structs.replace(a_sample(sequence, **values), sampled_at=at))
    return {name: value for name, value in known.items() if value is not None}


def just_now(number: int, first: int = 1, **values: Any) -> list[dict[str, Any]]:
    """So many samples, a hundredth of a second apart, the last one measured now."""
    now = datetime.now(UTC)
    at = [now - timedelta(milliseconds=10 * back) for back in reversed(range(number))]
    return [body(first + index, instant, **values) for index, instant in enumerate(at)]


def test_a_session_runs_pauses_and_ends_and_graphql_says_why_and_what_was_measured(farm: Farm) -> None:
    owner = uuid4()
    device = farm.enrolled(owner)
    opened = farm.start(device)
    session_id = opened["id"]
    assert (opened["status"], set(opened["audit"])) == ("admitted", {"seed", "rounds"})
    fine = farm.send(device, session_id, just_now(3))
    assert (fine.status_code, fine.json()["status"]) == (200, "running")
    hot = farm.send(device, session_id, just_now(1, 4, battery_temp=61.0))
    assert (hot.json()["status"], hot.json()["sequence"]) == ("paused", 4)
    query = """query($id: UUID!, $from: DateTime!, $to: DateTime!, $at: Position) {
        harvestSession(sessionId: $id, atLeast: $at) {
            state trips audit sampleCount deviceId reason { kind sensor observed limit text }
            policy { minBatteryPercent maxCpuTemp bands { sensor } }
            latest { at samples batteryTemp }
            samples(from: $from, to: $to, resolution: RAW) { batteryTemp batteryPercent cpuPercent memoryPercent }
            hours: samples(from: $from, to: $to, resolution: HOUR) { samples batteryTemp } } }"""
    day = {"from": "2026-01-01T00:00:00Z", "to": "2100-01-01T00:00:00Z"}
    found = farm.ask(query, farm.headers(owner), id=session_id, at=farm.log.head(), **day)["data"]["harvestSession"]
    assert (found["state"], found["trips"], found["audit"]) == ("paused", 1, "asked")
    assert found["reason"] == {
        "kind": "too_hot", "sensor": "battery", "observed": 61.0, "limit": 55.0,
        "text": "battery observed 61, the limit is 55 (too hot)",
    }  # fmt: skip
    assert [sample["batteryTemp"] for sample in found["samples"]] == [30.0, 30.0, 30.0, 61.0]
    assert sum(point["samples"] for point in found["hours"]) == 4
    assert (found["latest"]["samples"], found["latest"]["batteryTemp"]) == (1, 61.0)
    job = Job(**opened["audit"])
    told = farm.act(device, "answer_audit", {"session_id": session_id, "answer": answer_of(job)})
    assert told.status_code == 200
    for _ in range(2):
        ended = farm.act(device, "stop_harvest_session", {"session_id": session_id})
        assert ended.json()["status"] == "closed"
    listing = "{ harvestSessions(first: 5) { edges { node { state reason { kind } } } } }"
    edges = farm.ask(listing, farm.headers(owner))["data"]["harvestSessions"]["edges"]
    assert edges == [{"node": {"state": "closed", "reason": {"kind": "stopped"}}}]
    assert farm.ask(listing, farm.headers(uuid4()))["data"]["harvestSessions"]["edges"] == []
    assert farm.session(session_id).audit is None, "the saga judges"


def test_the_health_of_a_device_tells_its_presence_its_last_sample_and_the_limits_it_ran_into(farm: Farm) -> None:
    owner = uuid4()
    device = farm.enrolled(owner)
    query = """query($id: UUID!, $at: Position) { device(deviceId: $id, atLeast: $at) { health {
        status presence harvestState harvestReason sampledAt batteryTemp cpuPercent trips openIncidents } } }"""
    headers = farm.headers(owner)

    def health() -> dict[str, Any]:
        found = farm.ask(query, headers, id=str(device.device_id), at=farm.log.head())["data"]["device"]["health"]
        return cast(dict[str, Any], found)

    assert health() == {
        "status": "active", "presence": "offline", "harvestState": None, "harvestReason": None, "sampledAt": None,
        "batteryTemp": None, "cpuPercent": None, "trips": 0, "openIncidents": 0,
    }  # fmt: skip
    farm.send(device, farm.start(device)["id"], [*just_now(3), *just_now(1, 4, battery_temp=61.0)])
    found = health()
    assert (found["harvestState"], found["harvestReason"], found["trips"]) == ("paused", "too_hot", 1)
    assert (found["batteryTemp"], found["cpuPercent"]) == (61.0, 5.0)
    query_of_another = farm.ask(query, farm.headers(uuid4()), id=str(device.device_id))
    assert query_of_another["data"]["device"] is None


def test_two_sessions_of_one_device_do_not_overlap_and_another_device_is_kept_out(farm: Farm) -> None:
    device, other = farm.enrolled(uuid4()), farm.enrolled(uuid4())
    session_id = farm.start(device)["id"]
    head = farm.log.head()
    again = farm.act(device, "start_harvest_session", {"sensors": SENSORS})
    assert_problem(farm, again, "session_overlaps", head)
    assert_problem(farm, farm.send(other, session_id, just_now(1)), "harvest_session_unknown", head)
    stolen = farm.act(other, "stop_harvest_session", {"session_id": session_id})
    assert_problem(farm, stolen, "harvest_session_unknown", head)


def test_samples_that_are_replayed_reordered_of_the_future_or_impossible_are_refused_by_name(farm: Farm) -> None:
    device = farm.enrolled(uuid4())
    session_id = farm.start(device)["id"]
    batch = just_now(2)
    assert farm.send(device, session_id, batch).status_code == 200
    head, now = farm.log.head(), datetime.now(UTC)
    for samples, code in (
        (batch, "samples_replayed"),
        (list(reversed(just_now(2, 5))), "samples_out_of_order"),
        ([body(9, now + timedelta(minutes=1))], "sample_in_future"),
        ([body(9, now - timedelta(minutes=1))], "sample_too_old"),
        ([body(9, now, battery_percent=180.0)], "sample_impossible"),
    ):
        assert_problem(farm, farm.send(device, session_id, samples), code, head, code)
    assert farm.send(device, session_id, just_now(1, 3)).status_code == 200


def test_a_device_without_a_needed_sensor_is_rejected_and_may_try_again(farm: Farm) -> None:
    device = farm.enrolled(uuid4())
    answer = farm.act(device, "start_harvest_session", {"sensors": ["cpu"]}).json()
    assert (answer["status"], answer["audit"]) == ("rejected", None)
    assert farm.start(device, unknown_sensor="allow")["status"] == "admitted"


def test_an_owner_sets_what_a_device_may_do_whatever_it_asks_for(farm: Farm) -> None:
    owner = uuid4()
    device = farm.enrolled(owner)
    limit = {"device_id": str(device.device_id), "policy": {"max_cpu_temp": 35.0, "thermal_throttle_temp": 40.0}}
    path = "/v1/harvest/set_harvest_policy"
    assert farm.client.post(path, json=limit, headers=farm.headers(uuid4())).json()["code"] == "device_not_yours"
    assert farm.client.post(path, json=limit, headers=farm.headers(owner)).status_code == 200
    opened = farm.start(device, require_charging=False)
    policy = farm.session(opened["id"]).policy
    assert opened["policy"] == msgspec.to_builtins(policy), "the device is told, to obey it when it is cut off"
    assert (policy.max_cpu_temp, policy.thermal_throttle_temp, policy.require_charging) == (35.0, 40.0, True)
    wrong = farm.act(farm.enrolled(uuid4()), "start_harvest_session", {"policy": {"max_cpu_temp": 60}, "sensors": []})
    assert wrong.json()["code"] == "policy_invalid"


def test_an_owner_asks_for_the_end_and_the_device_is_told_with_its_next_samples(farm: Farm) -> None:
    owner = uuid4()
    device = farm.enrolled(owner)
    session_id = farm.start(device)["id"]
    farm.send(device, session_id, just_now(2))
    asked = {"session_id": session_id}
    stranger = farm.client.post("/v1/harvest/request_stop", json=asked, headers=farm.headers(uuid4()))
    assert stranger.json()["code"] == "harvest_session_unknown"
    assert farm.client.post("/v1/harvest/request_stop", json=asked, headers=farm.headers(owner)).status_code == 200
    counted = farm.session(session_id).contribution
    assert farm.send(device, session_id, just_now(2, 3)).json()["status"] == "stopping"
    now = datetime.now(UTC)
    farm.watch_for(now, 40)
    session = farm.session(session_id)
    assert (session.status, session.contribution) == ("closed", counted)
    late = farm.send(device, session_id, just_now(1, 9))
    assert late.json()["code"] == "harvest_session_over"


FEED = """subscription($s: UUID!, $p: Position) { harvestSession(sessionId: $s, after: $p) {
    state position verifiedMs reason { kind } } }"""


def test_a_session_is_told_live_to_whom_it_belongs_and_resumes_from_any_position(farm: Farm) -> None:
    owner = uuid4()
    device = farm.enrolled(owner)
    session_id = farm.start(device)["id"]
    start = farm.log.head()
    farm.projector.run_once()
    url, token = str(farm.client.base_url), farm.headers(owner)["Authorization"].removeprefix("Bearer ")
    with graphql_socket(url, {"token": token}) as client:
        client.subscribe(FEED, s=session_id, p=start)
        farm.send(device, session_id, just_now(2))
        farm.send(device, session_id, just_now(1, 3, battery_temp=62.0))
        farm.act(device, "stop_harvest_session", {"session_id": session_id})
        seen = [client.next()["harvestSession"]]
        while seen[-1]["state"] != "closed":
            seen.append(client.next()["harvestSession"])
    states = [one["state"] for one in seen]
    assert [state for at, state in enumerate(states) if state not in states[:at]] == ["running", "paused", "closed"]
    farm.projector.run_once()
    with graphql_socket(url, {"token": token}) as client:
        after = next(fact.position for fact in farm.facts(UUID(session_id)) if fact.position > start)
        client.subscribe(FEED, s=session_id, p=after)
        assert [client.next()["harvestSession"] for _ in seen[1:]] == seen[1:]
    stranger = farm.headers(uuid4())["Authorization"].removeprefix("Bearer ")
    with graphql_socket(url, {"token": stranger}) as client:
        client.subscribe(FEED, s=session_id, p=start)
        assert "harvest_session_unknown" in str(client.receive())


def test_figures_of_harvest_are_metrics(farm: Farm) -> None:
    device = farm.enrolled(uuid4())
    session_id = farm.start(device)["id"]
    farm.send(device, session_id, just_now(3))
    farm.projector.run_once()
    assert 'harvest_active_sessions{state="running"} 1.0' in farm.client.get("/metrics").text
    farm.act(device, "stop_harvest_session", {"session_id": session_id})
    farm.projector.run_once()
    shown = farm.client.get("/metrics").text
    assert 'harvest_active_sessions{state="running"} 0.0' in shown
    assert 'harvest_stops_total{reason="stopped"} 1.0' in shown
    (lent,) = [line.split()[1] for line in shown.splitlines() if line.startswith("harvest_lent_seconds_total")]
    assert float(lent) == farm.session(session_id).contribution.verified_ms / 1_000 > 0
    assert "harvest_rewards_grains_total 0.0" in shown


def test_silence_pauses_a_session_after_30_seconds_and_ends_it_after_15_minutes(farm: Farm) -> None:
    device = farm.enrolled(uuid4())
    session_id = farm.start(device)["id"]
    farm.send(device, session_id, just_now(3))
    now = datetime.now(UTC)
    farm.watch_for(now, 20)
    assert farm.session(session_id).status == "running"
    farm.watch_for(now + timedelta(seconds=30), 20)
    assert farm.session(session_id).status == "paused"
    farm.watch_for(now + timedelta(seconds=60), 900)
    session = farm.session(session_id)
    assert session.status == "closed"
    assert session.contribution.run_ms < 1_000
    assert farm.start(device)["status"] == "admitted"


def test_a_village_that_was_away_itself_pauses_nobody(farm: Farm) -> None:
    device = farm.enrolled(uuid4())
    session_id = farm.start(device)["id"]
    farm.send(device, session_id, just_now(2))
    farm.monitor.tick(datetime.now(UTC) + timedelta(hours=1))
    assert farm.session(session_id).status == "running"


def test_samples_are_thinned_to_minutes_and_hours_and_a_chart_counts_each_once(farm: Farm) -> None:
    device = farm.enrolled(uuid4())
    session_id = farm.start(device)["id"]
    farm.send(device, session_id, just_now(20))
    query = """query($id: UUID!, $resolution: SampleResolution!) { harvestSession(sessionId: $id) {
        samples(from: "2026-01-01T00:00:00Z", to: "2100-01-01T00:00:00Z", resolution: $resolution) {
            samples batteryPercent skinTemp } } }"""

    def counted(resolution: str) -> int:
        points = farm.ask(query, id=session_id, resolution=resolution)["data"]["harvestSession"]["samples"]
        assert all(point["batteryPercent"] == 80.0 and point["skinTemp"] is None for point in points)
        return sum(point["samples"] for point in points)

    assert [counted(resolution) for resolution in ("RAW", "MINUTE", "HOUR")] == [20, 20, 20]
    now = datetime.now(UTC)
    farm.store.thin(now)
    assert [counted(resolution) for resolution in ("RAW", "MINUTE", "HOUR")] == [20, 20, 20]
    for hours in range(1, 6):
        farm.store.thin(now + timedelta(hours=hours))
        assert [counted(resolution) for resolution in ("RAW", "MINUTE", "HOUR")] == [20, 20, 20], hours
    for _ in range(3):
        farm.store.thin(now + timedelta(days=2))
    assert [counted(resolution) for resolution in ("RAW", "MINUTE", "HOUR")] == [0, 20, 20]
    for _ in range(40):
        farm.store.thin(now + timedelta(days=31))
    assert [counted(resolution) for resolution in ("RAW", "MINUTE", "HOUR")] == [0, 0, 20]
    farm.store.thin(now + timedelta(days=400))
    assert counted("HOUR") == 0
