"""Suspended, reinstated, retired, with a new key: what devices may do, in every process of the edge."""

import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from itertools import count
from typing import Any
from uuid import uuid4

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from api.edge.principals import EnrolledDevice
from cli.edge_ports import EnrolledDevices
from domain.device_registry import enrolment
from domain.device_registry.status import DeviceRetired, DeviceSuspended
from domain.kernel import new_scope, within
from infrastructure.event_store import open_event_log
from infrastructure.http_signatures import DeviceAuth
from infrastructure.presence import MAX_SEQUENCE
from tests.devices import NOW, Applicant, some_capabilities

from .registry_desk import Desk, assert_problem
from .registry_desk import desk as desk

_sequences = count(1)


def code(desk: Desk, device: Applicant) -> str:
    """What a device is told that sends its next heartbeat."""
    return str(desk.beat(device, next(_sequences)).json().get("code", "accepted"))


def until(expected: str, ask: Callable[[], str]) -> None:
    """The edge answers this, now or soon."""
    ends = time.monotonic() + 60
    while (answered := ask()) != expected:
        assert time.monotonic() < ends, answered
        time.sleep(0.05)


def change(desk: Desk, what: str, device: Applicant, headers: dict[str, str] | None = None, **body: Any) -> Any:
    asked = {"device_id": str(device.device_id), "reason": "because"} | body
    return desk.post(what, asked, headers=headers or desk.headers())


def test_a_suspended_device_is_refused_by_name_until_it_is_reinstated_and_a_retired_one_for_ever(desk: Desk) -> None:
    device, other = desk.enrolled(), desk.enrolled()
    assert code(desk, device) == "accepted"
    assert change(desk, "suspend_device", device, reason="sends nonsense").status_code == 200
    until("device_suspended", lambda: code(desk, device))
    auth = DeviceAuth(device.device_id, device.signing)
    refused = desk.post("rotate_key", device.rotation(Ed25519PrivateKey.generate()), auth=auth)
    assert_problem(desk, refused, "device_suspended", desk.log.head())
    assert code(desk, other) == "accepted"
    query = "query($id: UUID!) { device(deviceId: $id) { status statusReason } }"
    found = desk.ask(query, id=str(device.device_id))["data"]["device"]
    assert found == {"status": "suspended", "statusReason": "sends nonsense"}
    assert change(desk, "reinstate_device", device).status_code == 200
    until("accepted", lambda: code(desk, device))
    assert change(desk, "retire_device", device).status_code == 200
    until("device_retired", lambda: code(desk, device))
    head = desk.log.head()
    for what in ("suspend_device", "reinstate_device"):
        assert_problem(desk, change(desk, what, device), "device_retired", head)
    assert desk.ask("{ devices(first: 1, criteria: {}) { totalCount } }")["data"]["devices"]["totalCount"] == 1


def test_members_retire_their_own_devices_and_decide_nothing_else(desk: Desk) -> None:
    ada, bob = uuid4(), uuid4()
    device, claimed = desk.enrolled(ada), desk.applicant(ada)
    head = desk.log.head()
    assert_problem(desk, change(desk, "retire_device", device, desk.headers(bob)), "device_of_another", head)
    for what in ("suspend_device", "reinstate_device"):
        assert_problem(desk, change(desk, what, device, desk.headers(ada)), "forbidden", head)
    for bad in ({"reason": ""}, {"reason": "x" * 501}, {"reason": None}, {"device_id": "me"}, {"owner_id": str(ada)}):
        assert_problem(desk, change(desk, "retire_device", device, **bad), "request_invalid", head)
    assert_problem(desk, change(desk, "retire_device", device, reason=" "), "status_reason_invalid", head)
    assert_problem(desk, change(desk, "retire_device", Applicant()), "device_unknown", head)
    assert_problem(desk, change(desk, "suspend_device", claimed), "device_not_enrolled", head)
    assert change(desk, "retire_device", device, desk.headers(ada)).status_code == 200
    assert desk.log.head() == head + 1


def rotate(desk: Desk, device: Applicant, new: Ed25519PrivateKey, **changes: Any) -> Any:
    body = device.rotation(new, desk.challenge()) | changes
    return desk.post("rotate_key", body, auth=DeviceAuth(device.device_id, device.signing))


def test_a_rotated_key_is_accepted_at_once_the_old_one_soon_no_more_and_its_sequence_begins_anew(desk: Desk) -> None:
    device, new = desk.enrolled(), Ed25519PrivateKey.generate()
    assert desk.beat(device, MAX_SEQUENCE).status_code == 200
    assert rotate(desk, device, new).status_code == 200
    renewed = Applicant(code=device.code, signing=new, agreement=device.agreement)
    head = desk.log.head()
    assert desk.beat(renewed, 7).status_code == 200
    assert_problem(desk, desk.beat(renewed, 7), "heartbeat_replayed", head)
    until("signature_invalid", lambda: str(desk.beat(device, 1).json()["code"]))
    assert_problem(desk, rotate(desk, device, Ed25519PrivateKey.generate()), "signature_invalid", head)
    assert desk.beat(renewed, 8).status_code == 200


def test_a_bad_rotation_is_refused_by_name_and_the_key_stays(desk: Desk) -> None:
    device, new = desk.enrolled(), Ed25519PrivateKey.generate()
    head = desk.log.head()
    expired = enrolment.challenge(desk.ctx.keys.challenge, bytes(16), datetime.now(UTC))
    for problem, changes in (
        ("challenge_invalid", {"challenge": "made up"}),
        ("challenge_expired", {"challenge": expired}),
        ("rotation_signature_invalid", {"signature": "?"}),
        ("rotation_proof_invalid", {"proof": "A" * 88}),
        ("key_unchanged", {"ed25519_pub": device.ed25519_pub}),
        ("public_key_malformed", {"ed25519_pub": "AAAA"}),
        ("public_key_weak", {"ed25519_pub": "A" * 43 + "="}),
        ("request_invalid", {"proof": "A" * 129}),
        ("request_invalid", {"device_id": str(uuid4())}),
    ):
        assert_problem(desk, rotate(desk, device, new, **changes), problem, head, problem)
    body = device.rotation(new, desk.challenge())
    assert_problem(desk, desk.post("rotate_key", body, headers=desk.headers()), "forbidden", head)
    assert code(desk, device) == "accepted"


def test_another_process_of_the_edge_learns_of_every_change_with_its_next_look(desk: Desk, database_url: str) -> None:
    registry, device, stranger = desk.ctx.village.device_registry, desk.enrolled(), desk.enrolled()
    with closing(open_event_log(database_url)) as log:
        looking, kept = EnrolledDevices(log, fresh_s=0.0), EnrolledDevices(log, fresh_s=3_600.0)
        first, unchanged = looking(device.device_id), looking(stranger.device_id)
        assert first == kept(device.device_id)

        def seen_after(command: Callable[..., object], **arguments: Any) -> EnrolledDevice | None:
            with within(new_scope("test", now=NOW)):
                command(device_id=device.device_id, **arguments)
            return looking(device.device_id)

        def refusal_after(command: Callable[..., object]) -> object:
            seen = seen_after(command, reason="why")
            assert seen is not None
            return seen.refusal

        assert seen_after(registry.update_capabilities, capabilities=some_capabilities(ram_mb=1)) is first
        assert refusal_after(registry.suspend_device) is DeviceSuspended
        assert refusal_after(registry.reinstate_device) is None
        rotated = seen_after(registry.rotate_key, **device.rotation(Ed25519PrivateKey.generate()))
        assert rotated not in (None, first)
        assert refusal_after(registry.retire_device) is DeviceRetired
        assert looking(stranger.device_id) is unchanged
        assert kept(device.device_id) == first
        assert kept.look_again(device.device_id) == looking(device.device_id)
        assert looking(uuid4()) is None
