"""Federated learning as its users see it, over HTTP: from the start of a session to its last model."""

import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from uuid import uuid4

import msgspec
import numpy as np
import pytest
from safetensors.numpy import load

from domain.federated_learning.manifest import mlp_manifest
from tests.api.edge.socket_client import socket as graphql_socket
from tests.api.training_site import FL, Site, assert_problem, auth, site
from tests.training import MANIFEST, arrays

__all__ = ["site"]

PROGRESS = """subscription($session: UUID!, $after: Position) { roundProgress(sessionId: $session, after: $after) {
    position roundId number state selected accepted accuracy loss participants } }"""


def test_a_session_goes_over_http_from_its_start_to_its_last_model(site: Site) -> None:
    owner, devices = uuid4(), site.devices(3)
    session_id = site.start(owner)
    for number in (1, 2):
        site.settle()
        for index, device in enumerate(devices):
            work = site.assignment(device)
            assert work is not None
            assert (work["number"], work["session_id"], work["submitted"]) == (number, str(session_id), False)
            model = site.client.get(f"/v1/blobs/{work['model_hash']}", auth=auth(device))
            assert hashlib.sha256(model.content).hexdigest() == work["model_hash"]
            answer = site.submit(device, site.update(device, work["round_id"], seed=index))
            assert answer.status_code == 200, answer.text
    site.settle()
    query = """query($id: UUID!) { trainingSession(sessionId: $id) { state currentRound completedRounds modelHash
        roundHistory { number state participants accuracy loss durationMs modelHash updates { state examples } } } }"""
    session = site.ask(query, owner, id=str(session_id))["data"]["trainingSession"]
    assert (session["state"], session["currentRound"], session["completedRounds"]) == ("completed", 2, 2)
    first, second = session["roundHistory"]
    assert [(r["number"], r["state"], r["participants"]) for r in (first, second)] == [
        (1, "completed", 3),
        (2, "completed", 3),
    ]
    assert 0 <= second["accuracy"] <= 1
    assert second["loss"] > 0
    assert [update["state"] for update in second["updates"]] == ["aggregated"] * 3
    assert second["modelHash"] == session["modelHash"]
    final = load(site.client.get(f"/v1/blobs/{session['modelHash']}", headers=site.headers()).content)
    mean = np.mean([arrays(seed=index)["0.weight"] for index in range(3)], axis=0, dtype=np.float64)
    np.testing.assert_allclose(final["0.weight"], arrays(seed=99)["0.weight"] + 2 * mean, atol=1e-6)


def test_a_device_that_waits_is_told_the_moment_it_is_selected(site: Site) -> None:
    devices = site.devices(3)
    assert site.assignment(devices[0]) is None
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(site.assignment, device, 15_000) for device in devices]
        time.sleep(0.3)
        session_id = site.start()
        started = time.monotonic()
        site.settle()
        found = [future.result() for future in waiting]
    assert time.monotonic() - started < 13, "told at the end of the wait, not before"
    assert {str(work and work["session_id"]) for work in found} == {str(session_id)}


def test_a_device_that_has_sent_its_update_waits_for_the_next_round(site: Site) -> None:
    devices = site.devices(3)
    site.start()
    site.settle()
    work = site.assignment(devices[0])
    assert work is not None
    site.submit(devices[0], site.update(devices[0], work["round_id"]))
    site.settle()
    again = site.assignment(devices[0], 200)
    assert again is not None
    assert again["submitted"] is True


def test_a_round_without_enough_devices_is_refused_and_records_nothing(site: Site) -> None:
    session_id = site.start()
    head = site.log.head()
    answer = site.post("coordinate_training_round", {"session_id": str(session_id)})
    assert_problem(site, answer, "too_few_participants", head)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"secure_aggregation": True}, "secure_aggregation_unavailable"),
        ({"epsilon": 1.0}, "differential_privacy_unavailable"),
        ({"strategy": "krum"}, "strategy_unsupported"),
        ({"criteria": {"required_frameworks": ["tensorflow"]}}, "framework_unsupported"),
        ({"round_policy": {"min_participants": 5, "max_participants": 4}}, "round_policy_invalid"),
        ({"round_policy": {"max_participants": 21}}, "round_policy_invalid"),
        ({"training": {"epochs": 0, "batch_size": 8, "learning_rate": 0.1}}, "training_config_invalid"),
        ({"rounds": 0}, "session_invalid"),
        ({"base_model_hash": "0" * 64}, "blob_not_found"),
        ({"manifest": msgspec.to_builtins(MANIFEST) | {"architecture": "cnn"}}, "architecture_unsupported"),
        ({"manifest": msgspec.to_builtins(MANIFEST) | {"bytes": 1}}, "manifest_invalid"),
        ({"manifest": msgspec.to_builtins(mlp_manifest([784, 40_000, 10]))}, "model_too_large"),
        ({"name": ""}, "request_invalid"),
        ({"rounds": "2"}, "request_invalid"),
    ],
)
def test_what_the_village_cannot_train_is_refused_by_name(site: Site, changes: dict[str, Any], code: str) -> None:
    body, head = site.request(**changes), site.log.head()
    assert_problem(site, site.post("start_training", body), code, head)


def test_saying_nothing_of_privacy_asks_for_what_is_not_there(site: Site) -> None:
    body, head = site.request(), site.log.head()
    for name, code in (
        ("secure_aggregation", "secure_aggregation_unavailable"),
        ("epsilon", "differential_privacy_unavailable"),
    ):
        without = {key: value for key, value in body.items() if key != name}
        assert_problem(site, site.post("start_training", without), code, head)


def test_more_sessions_than_the_village_runs_are_refused(site: Site) -> None:
    for _ in range(10):
        site.start()
    body, head = site.request(), site.log.head()
    assert_problem(site, site.post("start_training", body), "too_many_sessions", head)


def test_starting_training_needs_an_idempotency_key_and_starts_once_under_it(site: Site) -> None:
    body, owner = site.request(), uuid4()
    headers = site.headers(owner)
    first, second = (site.client.post(f"{FL}/start_training", json=body, headers=headers).json() for _ in range(2))
    assert first == second
    del headers["Idempotency-Key"]
    answer = site.client.post(f"{FL}/start_training", json=body, headers=headers)
    assert answer.json()["code"] == "idempotency_key_required"


def test_a_session_is_its_owners_to_pause_resume_abandon_and_see(site: Site) -> None:
    owner, stranger = uuid4(), uuid4()
    session_id = site.start(owner)
    site.settle()
    body = {"session_id": str(session_id)}
    for name in ("pause_training", "resume_training", "abandon_training"):
        head = site.log.head()
        assert_problem(site, site.post(name, body, stranger), "forbidden", head)
        assert site.post(name, body, owner).status_code == 200
    assert_problem(site, site.post("pause_training", body, owner), "session_not_running", site.log.head())
    unknown = site.post("pause_training", {"session_id": str(uuid4())}, owner)
    assert_problem(site, unknown, "training_session_unknown", site.log.head())
    site.settle()
    query = "query { trainingSessions(first: 10) { totalCount edges { node { sessionId state } } } }"
    seen = site.ask(query, owner)["data"]["trainingSessions"]
    assert seen["edges"] == [{"node": {"sessionId": str(session_id), "state": "abandoned"}}]
    assert site.ask(query, stranger)["data"]["trainingSessions"]["totalCount"] == 0


def test_the_progress_of_rounds_is_told_live_and_resumes_from_any_position(site: Site) -> None:
    owner, devices = uuid4(), site.devices(3)
    session_id = site.start(owner, rounds=1)
    start = site.log.head()
    site.settle()
    token = site.tokens.issue(role="member", subject=str(owner), expires_in=timedelta(hours=1))
    with graphql_socket(site.url, {"token": token}) as client:
        client.subscribe(PROGRESS, session=str(session_id), after=start)
        for device in devices:
            work = site.assignment(device)
            assert work is not None
            site.submit(device, site.update(device, work["round_id"]))
        site.settle()
        seen = [client.next()["roundProgress"] for _ in range(8)]
    states = [(one["state"], one["selected"], one["accepted"]) for one in seen]
    assert states == [
        ("open", 0, 0), ("open", 3, 0), ("open", 3, 1), ("open", 3, 2), ("open", 3, 3), ("sealed", 3, 3),
        ("sealed", 3, 3), ("completed", 3, 3),
    ]  # fmt: skip
    assert seen[-1]["participants"] == 3
    assert seen[-1]["accuracy"] is not None
    middle = seen[3]["position"]
    with graphql_socket(site.url, {"token": token}) as client:
        client.subscribe(PROGRESS, session=str(session_id), after=middle)
        assert [client.next()["roundProgress"] for _ in range(4)] == seen[4:]
