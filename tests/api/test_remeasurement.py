"""Measuring again over the API: an operator asks, the device learns of it and answers, all see what it refuted."""

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from infrastructure.http_signatures import DeviceAuth
from tests.devices import Applicant

from .registry_desk import REGISTRY, Desk, assert_problem
from .registry_desk import desk as desk

CAPABILITIES = {
    "ram_mb": 4_096,
    "cpu_cores": 4,
    "compute_score": 100,
    "frameworks": ["pytorch"],
    "capabilities": [],
    "benchmark_id": "matmul-f32-v1",
}
QUERY = """query($id: UUID!) { device(deviceId: $id) {
    remeasurement { until disputes { quantity claimed measured } } reputation { service scoreBp } } }"""


def wanted(desk: Desk, device: Applicant) -> Any:
    desk.projector.run_once()
    auth = DeviceAuth(device.device_id, device.signing)
    return desk.client.get(f"{REGISTRY}/remeasurement", auth=auth).json()


def tell(desk: Desk, device: Applicant, mflops: int) -> None:
    auth = DeviceAuth(device.device_id, device.signing)
    body = {"capabilities": CAPABILITIES, "evidence": device.evidence([("matmul-f32", 1, mflops)], datetime.now(UTC))}
    answer = desk.post("update_capabilities", body, auth=auth)
    assert answer.status_code == 200, answer.text


def test_an_operator_has_a_device_measure_again_and_a_false_claim_is_shown_to_all(desk: Desk) -> None:
    owner = uuid4()
    device = desk.enrolled(owner)
    assert wanted(desk, device) == {"until": None, "wanted": True}
    tell(desk, device, 90_000)
    assert wanted(desk, device) == {"until": None, "wanted": False}
    body, head = {"device_id": str(device.device_id)}, desk.log.head()
    assert_problem(desk, desk.post("ask_remeasurement", body, headers=desk.headers(owner)), "forbidden", head)
    assert desk.post("ask_remeasurement", body, headers=desk.headers()).status_code == 200
    head = desk.log.head()
    assert_problem(desk, desk.post("ask_remeasurement", body, headers=desk.headers()), "remeasurement_pending", head)
    asked = wanted(desk, device)
    assert asked["wanted"]
    assert datetime.fromisoformat(asked["until"]) > datetime.now(UTC)
    tell(desk, device, 40_000)
    assert wanted(desk, device) == {"until": None, "wanted": False}
    shown = desk.ask(QUERY, desk.headers(owner), id=str(device.device_id))["data"]["device"]
    assert shown["remeasurement"] == {
        "until": None,
        "disputes": [{"quantity": "matrix_mflops", "claimed": 90_000, "measured": 40_000}],
    }
    assert {one["service"] for one in shown["reputation"]} == {"federated_learning", "marketplace"}
    assert all(one["scoreBp"] < 2_500 for one in shown["reputation"])


def test_only_evidence_can_be_measured_again(desk: Desk) -> None:
    device = desk.enrolled()
    head = desk.log.head()
    for body, code in (
        ({"device_id": str(device.device_id)}, "nothing_to_remeasure"),
        ({"device_id": str(uuid4())}, "device_unknown"),
        ({"device_id": str(device.device_id), "seed": "mine"}, "request_invalid"),
    ):
        assert_problem(desk, desk.post("ask_remeasurement", body, headers=desk.headers()), code, head)
