"""The device: one claim, one enrolment, presence that alternates."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.device_registry.capabilities import CapabilitiesInvalid, DeviceTypeInvalid, RegionInvalid
from domain.device_registry.device import Device, DeviceNotEnrolled
from domain.device_registry.enrolment import (
    ClaimAlreadyUsed,
    ClaimExpired,
    ClaimExpiryInvalid,
    KeyUnchanged,
    PublicKeyMalformed,
    PublicKeyWeak,
)
from domain.device_registry.latency import (
    LATENCY_CLASSES_MS,
    LATENCY_HOLD,
    LatencyInvalid,
    LatencyWatch,
    latency_class,
)
from domain.device_registry.status import DeviceRetired, DeviceSuspended, StatusReasonInvalid
from domain.kernel import Refusal
from tests.devices import CLAIM_EXPIRES_AT, NOW, Applicant, claimed_device, enrolled_device, some_capabilities
from tests.facts import assert_replays, facts_of, names_of, refuses


def application(applicant: Applicant, **changes: Any) -> dict[str, Any]:
    given = applicant.application(**changes)
    return {name: given[name] for name in given if name not in ("claim_code", "challenge", "proof")}


def test_a_claim_reserves_a_device_for_its_owner_and_records_only_the_hash_of_the_code() -> None:
    applicant = Applicant()
    device = claimed_device(applicant)
    ((kind, fields),) = facts_of(device)
    assert kind is Device.ClaimIssued
    assert fields == {
        "device_id": applicant.device_id,
        "owner_id": device.owner_id,
        "claim_sha256": applicant.claim_sha256,
        "expires_at": CLAIM_EXPIRES_AT,
    }
    assert applicant.code not in str(fields)
    assert_replays(device)


@pytest.mark.parametrize("expires_at", [NOW, NOW - timedelta(seconds=1), NOW + timedelta(days=30, seconds=1)])
def test_a_claim_that_would_not_expire_within_its_bounds_is_refused(expires_at: Any) -> None:
    applicant = Applicant()
    with pytest.raises(ClaimExpiryInvalid):
        Device.claim(
            device_id=applicant.device_id,
            owner_id=applicant.device_id,
            claim_sha256=applicant.claim_sha256,
            expires_at=expires_at,
            now=NOW,
        )


def test_a_device_enrols_with_its_claim_and_becomes_what_it_says() -> None:
    applicant = Applicant()
    device = enrolled_device(applicant, capabilities=some_capabilities(frameworks=["tensorflow", "pytorch"]))
    kind, fields = facts_of(device)[-1]
    assert kind is Device.Enrolled
    assert fields["owner_id"] == device.owner_id
    assert fields["ed25519_pub"] == applicant.ed25519_pub
    assert fields["capabilities"].frameworks == ["pytorch", "tensorflow"]
    assert fields["enrolled_at"] == NOW
    assert_replays(device)


def test_a_used_claim_enrols_nobody_else() -> None:
    device = enrolled_device()
    with refuses(ClaimAlreadyUsed, device):
        device.enrol(now=NOW, **application(Applicant()))


def test_an_expired_claim_enrols_nobody() -> None:
    device = claimed_device()
    with refuses(ClaimExpired, device):
        device.enrol(now=CLAIM_EXPIRES_AT, **application(Applicant()))


LOW_ORDER = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="


@pytest.mark.parametrize(
    ("rule", "changes"),
    [
        (DeviceTypeInvalid, {"device_type": "Smart Phone"}),
        (DeviceTypeInvalid, {"device_type": "x" * 33}),
        (RegionInvalid, {"region": ""}),
        (RegionInvalid, {"region": "eu\nwest"}),
        (PublicKeyMalformed, {"ed25519_pub": "not base64!"}),
        (PublicKeyMalformed, {"ed25519_pub": "AAAA"}),
        (PublicKeyMalformed, {"ed25519_pub": "é" * 44}),
        (PublicKeyMalformed, {"x25519_pub": Applicant().x25519_pub.rstrip("=")}),
        (PublicKeyMalformed, {"ed25519_pub": "7f///////////////////////////////////////38="}),
        (PublicKeyWeak, {"x25519_pub": LOW_ORDER}),
        (PublicKeyWeak, {"ed25519_pub": LOW_ORDER}),
        (CapabilitiesInvalid, {"capabilities": some_capabilities(ram_mb=0)}),
        (CapabilitiesInvalid, {"capabilities": some_capabilities(ram_mb=2**40)}),
        (CapabilitiesInvalid, {"capabilities": some_capabilities(cpu_cores=-1)}),
        (CapabilitiesInvalid, {"capabilities": some_capabilities(compute_score=10**10)}),
        (CapabilitiesInvalid, {"capabilities": some_capabilities(compute_score=True)}),
        (CapabilitiesInvalid, {"capabilities": some_capabilities(frameworks=[f"f{n}" for n in range(33)])}),
        (CapabilitiesInvalid, {"capabilities": some_capabilities(frameworks=["pytorch", "pytorch"])}),
        (CapabilitiesInvalid, {"capabilities": some_capabilities(capabilities=["x" * 33])}),
        (CapabilitiesInvalid, {"capabilities": some_capabilities(benchmark_id="")}),
    ],
)
def test_an_enrolment_out_of_bounds_is_refused_by_name_and_leaves_the_claim_unused(
    rule: type[Refusal], changes: dict[str, Any]
) -> None:
    device = claimed_device()
    with refuses(rule, device):
        device.enrol(now=NOW, **application(Applicant(), **changes))
    device.enrol(now=NOW, **application(Applicant()))


def test_a_device_that_has_only_a_claim_takes_no_part() -> None:
    device = claimed_device()
    acts: list[Callable[[], None]] = [
        lambda: device.change_capabilities(some_capabilities()),
        lambda: device.see(NOW),
        lambda: device.miss(NOW),
        lambda: device.lose(NOW),
        lambda: device.measure_latency(50),
        lambda: device.suspend("why"),
        lambda: device.reinstate("why"),
        lambda: device.retire("why"),
        lambda: device.rotate_key(Applicant().ed25519_pub),
    ]
    for act in acts:
        with refuses(DeviceNotEnrolled, device):
            act()


def parts_taken(device: Device) -> list[Callable[[], None]]:
    """What only a device that takes part does."""
    return [
        lambda: device.change_capabilities(some_capabilities(ram_mb=1)),
        lambda: device.see(NOW),
        lambda: device.measure_latency(50),
        lambda: device.rotate_key(Applicant().ed25519_pub),
    ]


def test_a_suspended_device_takes_no_part_until_it_is_reinstated_and_its_silence_is_still_seen() -> None:
    device = enrolled_device()
    device.see(NOW)
    device.suspend("sends updates that do not verify")
    device.suspend("once more")
    for part in parts_taken(device):
        with refuses(DeviceSuspended, device):
            part()
    device.lose(NOW)
    device.reinstate("repaired")
    device.reinstate("once more")
    for part in parts_taken(device):
        part()
    assert names_of(device)[2:7] == ["WentOnline", "Suspended", "WentOffline", "Reinstated", "CapabilitiesChanged"]
    assert facts_of(device)[3] == (Device.Suspended, {"reason": "sends updates that do not verify"})
    assert_replays(device)


@pytest.mark.parametrize("suspended_before", [False, True])
def test_a_retired_device_never_takes_part_again(suspended_before: bool) -> None:
    device = enrolled_device()
    if suspended_before:
        device.suspend("lost")
    device.retire("lost for good")
    device.retire("once more")
    more: list[Callable[[], None]] = [lambda: device.suspend("why"), lambda: device.reinstate("why")]
    for part in (*parts_taken(device), *more):
        with refuses(DeviceRetired, device):
            part()
    assert facts_of(device)[-1] == (Device.Retired, {"reason": "lost for good"})
    assert_replays(device)


@pytest.mark.parametrize("reason", ["", " ", "x" * 501, "a\0b"])
def test_a_status_changes_only_with_a_reason(reason: str) -> None:
    device, suspended = enrolled_device(), enrolled_device()
    suspended.suspend("why")
    for act in (device.suspend, device.retire, suspended.reinstate):
        with refuses(StatusReasonInvalid, device, suspended):
            act(reason)


def test_a_key_is_replaced_by_another_one_that_can_be_trusted() -> None:
    device, new = enrolled_device(), Applicant().ed25519_pub
    for rule, key in ((KeyUnchanged, device.ed25519_pub), (PublicKeyWeak, LOW_ORDER), (PublicKeyMalformed, "AAAA")):
        with refuses(rule, device):
            device.rotate_key(key)
    device.rotate_key(new)
    assert facts_of(device)[-1] == (Device.KeyRotated, {"ed25519_pub": new})
    assert device.ed25519_pub == new
    assert_replays(device)


def test_capabilities_are_recorded_when_they_change_and_not_when_they_are_only_said_in_another_order() -> None:
    device = enrolled_device(capabilities=some_capabilities(frameworks=["pytorch", "tensorflow"]))
    device.change_capabilities(some_capabilities(frameworks=["tensorflow", "pytorch"]))
    assert names_of(device) == ["ClaimIssued", "Enrolled"]
    device.change_capabilities(some_capabilities(ram_mb=8_192))
    assert facts_of(device)[-1] == (Device.CapabilitiesChanged, {"capabilities": some_capabilities(ram_mb=8_192)})
    assert_replays(device)


def test_a_latency_out_of_the_classes_is_refused() -> None:
    device = enrolled_device()
    with refuses(LatencyInvalid, device):
        device.measure_latency(51)


def test_a_latency_class_is_left_upwards_at_once_and_downwards_only_with_room() -> None:
    assert latency_class(1, None) == LATENCY_CLASSES_MS[0]
    assert latency_class(10**6, None) == LATENCY_CLASSES_MS[-1]
    assert latency_class(51, 50) == 100
    assert latency_class(50, 100) == 100
    assert latency_class(41, 100) == 100
    assert latency_class(40, 100) == 50
    assert latency_class(1, 100) == 5


@given(latency=st.integers(0, 100_000), present=st.none() | st.sampled_from(LATENCY_CLASSES_MS))
def test_a_latency_class_never_promises_less_than_was_measured_and_stays_once_reached(
    latency: int, present: int | None
) -> None:
    reached = latency_class(latency, present)
    assert reached in LATENCY_CLASSES_MS
    assert reached >= min(latency, LATENCY_CLASSES_MS[-1])
    assert latency_class(latency, reached) == reached


@given(
    measured=st.lists(st.tuples(st.integers(1, 40), st.sampled_from([1, 30, 45, 52, 60, 90, 110, 300])), max_size=60)
)
def test_however_a_latency_wavers_its_class_changes_once_a_minute_at_most_and_only_to_where_it_has_stayed(
    measured: list[tuple[int, int]],
) -> None:
    watch, now, changed_at, history = LatencyWatch(None), NOW, None, []
    for seconds, latency in measured:
        now += timedelta(seconds=seconds)
        history.append((now, latency))
        before, watch = watch, watch.after(latency, now)
        if watch.known == before.known or before.known is None:
            continue
        assert watch.known is not None
        assert changed_at is None or now - changed_at >= LATENCY_HOLD
        held = [one for at, one in history if now - LATENCY_HOLD <= at]
        assert all(latency_class(one, before.known) != before.known for one in held)
        assert all(latency_class(one, watch.known) == watch.known for one in held)
        changed_at = now


def test_a_latency_that_stays_in_another_class_is_in_it_after_a_minute() -> None:
    watch = LatencyWatch(None).after(40, NOW)
    assert watch.known == 50
    for seconds in range(0, 60, 10):
        watch = watch.after(80, NOW + timedelta(seconds=seconds))
        assert watch.known == 50
    assert watch.after(80, NOW + LATENCY_HOLD) == LatencyWatch(100)


ACTS = st.sampled_from(["see", "miss", "lose", "measure", "change"])


@given(acts=st.lists(st.tuples(ACTS, st.integers(0, 10)), max_size=30))
def test_whatever_happens_presence_alternates_and_the_replayed_stream_is_the_same_device(
    acts: list[tuple[str, int]],
) -> None:
    device = enrolled_device()
    for seconds, (act, number) in enumerate(acts):
        at = NOW + timedelta(seconds=seconds)
        if act == "measure":
            device.measure_latency(LATENCY_CLASSES_MS[number])
        elif act == "change":
            device.change_capabilities(some_capabilities(ram_mb=number + 1))
        else:
            getattr(device, act)(at)
    presence = [name for name in names_of(device) if name.startswith("Went")]
    allowed = {
        "WentOffline": {"WentOnline"},
        "WentOnline": {"WentDegraded", "WentOffline"},
        "WentDegraded": {"WentOnline", "WentOffline"},
    }
    for before, after in zip(["WentOffline", *presence], presence, strict=False):
        assert after in allowed[before]
    assert_replays(device)
