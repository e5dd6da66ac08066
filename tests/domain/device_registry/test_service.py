"""The device registry's commands on a real log: what is refused records nothing, and one claim enrols one device."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from domain.device_registry.capabilities import CapabilitiesInvalid
from domain.device_registry.criteria import CriteriaInvalid, DeviceCriteria
from domain.device_registry.device import Device, DeviceNotEnrolled, DeviceUnknown
from domain.device_registry.enrolment import (
    ClaimAlreadyUsed,
    ClaimExpired,
    ClaimExpiryInvalid,
    ClaimUnknown,
    EnrolmentProofInvalid,
    PublicKeyMalformed,
    PublicKeyWeak,
    RotationProofInvalid,
    RotationSignatureInvalid,
)
from domain.device_registry.latency import LatencyInvalid
from domain.device_registry.reputation import EvidenceWeightInvalid, Reputation, ReputationServiceUnknown
from domain.device_registry.service import DeviceRegistryService
from domain.device_registry.status import DeviceOfAnother
from domain.kernel import AlreadyExists, EventLog, Refusal, new_scope, within
from infrastructure.event_store import open_event_log
from tests.devices import NOW, Applicant, enrol, some_capabilities

HOUR = timedelta(hours=1)
LOW_ORDER = "A" * 43 + "="


@pytest.fixture
def log(database_url: str) -> Iterator[EventLog]:
    log = open_event_log(database_url)
    yield log
    log.close()


@pytest.fixture
def service(log: EventLog) -> DeviceRegistryService:
    return DeviceRegistryService(log)


def claim(service: DeviceRegistryService, applicant: Applicant) -> None:
    with within(new_scope("test", now=NOW)):
        service.issue_claim(owner_id=uuid4(), claim_sha256=applicant.claim_sha256, expires_at=NOW + HOUR)


def assert_refused(log: EventLog, rule: type[Refusal], act: Callable[[], object], now: datetime = NOW) -> None:
    """The act is refused by exactly this rule, and the log's head stays where it was."""
    head = log.head()
    with within(new_scope("test", now=now)), pytest.raises(rule) as refusal:
        act()
    assert refusal.type is rule
    assert log.head() == head


def test_a_claim_is_issued_and_used_and_the_device_stands_in_the_log(
    service: DeviceRegistryService, log: EventLog
) -> None:
    applicant, owner_id = Applicant(), uuid4()
    device_id = enrol(service, applicant, owner_id=owner_id)
    device = log.load(Device, device_id)
    assert device.enrolled
    assert (device.owner_id, device.ed25519_pub) == (owner_id, applicant.ed25519_pub)
    assert log.head() == 2


def test_the_claim_code_is_nowhere_in_the_log(service: DeviceRegistryService, log: EventLog, database: Any) -> None:
    applicant = Applicant()
    enrol(service, applicant)
    with database.reader.connection() as connection:
        (states,) = connection.execute("SELECT string_agg(state::text, '') FROM log.readable").fetchone()
    assert applicant.device_id.hex in states.replace("-", "")
    assert applicant.code not in states


@pytest.mark.parametrize("expires_in", [timedelta(0), -HOUR, timedelta(days=31)])
def test_a_claim_out_of_its_bounds_is_not_issued(
    service: DeviceRegistryService, log: EventLog, expires_in: timedelta
) -> None:
    def issue() -> None:
        service.issue_claim(owner_id=uuid4(), claim_sha256=Applicant().claim_sha256, expires_at=NOW + expires_in)

    assert_refused(log, ClaimExpiryInvalid, issue)


def test_the_same_claim_is_not_issued_twice(service: DeviceRegistryService, log: EventLog) -> None:
    applicant = Applicant()
    claim(service, applicant)
    assert_refused(log, AlreadyExists, lambda: claim(service, applicant))


BAD_ENROLMENTS: list[tuple[str, type[Refusal], dict[str, Any]]] = [
    ("a claim code nobody issued", ClaimUnknown, {"claim_code": "guess"}),
    ("an empty claim code", ClaimUnknown, {"claim_code": ""}),
    ("a proof of another key", EnrolmentProofInvalid, {"proof": Applicant().proof()}),
    ("a proof of another challenge", EnrolmentProofInvalid, {"challenge": "another"}),
    ("no proof", EnrolmentProofInvalid, {"proof": ""}),
    ("a proof that is no base64", EnrolmentProofInvalid, {"proof": "é"}),
    ("another device's signing key", EnrolmentProofInvalid, {"ed25519_pub": Applicant().ed25519_pub}),
    ("another device's agreement key", EnrolmentProofInvalid, {"x25519_pub": Applicant().x25519_pub}),
    ("a truncated key", PublicKeyMalformed, {"ed25519_pub": "AAAA"}),
    ("a key that is no base64", PublicKeyMalformed, {"x25519_pub": "not base64"}),
    ("a signing key of small order", PublicKeyWeak, {"ed25519_pub": LOW_ORDER}),
    ("an agreement key of small order", PublicKeyWeak, {"x25519_pub": LOW_ORDER}),
    ("too many frameworks", CapabilitiesInvalid, {"capabilities": some_capabilities(frameworks=["x"] * 33)}),
    ("no memory", CapabilitiesInvalid, {"capabilities": some_capabilities(ram_mb=0)}),
]


@pytest.mark.parametrize(
    ("rule", "changes"), [bad[1:] for bad in BAD_ENROLMENTS], ids=[bad[0] for bad in BAD_ENROLMENTS]
)
def test_a_bad_enrolment_is_refused_by_name_records_nothing_and_leaves_the_claim_usable(
    service: DeviceRegistryService, log: EventLog, rule: type[Refusal], changes: dict[str, Any]
) -> None:
    applicant = Applicant()
    claim(service, applicant)
    assert_refused(log, rule, lambda: service.register_device(**applicant.application(**changes)))
    with within(new_scope("test", now=NOW)):
        service.register_device(**applicant.application())


def test_an_expired_claim_enrols_nobody(service: DeviceRegistryService, log: EventLog) -> None:
    applicant = Applicant()
    claim(service, applicant)
    assert_refused(log, ClaimExpired, lambda: service.register_device(**applicant.application()), now=NOW + HOUR)


def test_a_used_claim_enrols_nobody_again_not_even_the_same_device(
    service: DeviceRegistryService, log: EventLog
) -> None:
    applicant = Applicant()
    enrol(service, applicant)
    assert_refused(log, ClaimAlreadyUsed, lambda: service.register_device(**applicant.application()))
    thief = Applicant(code=applicant.code)
    assert_refused(log, ClaimAlreadyUsed, lambda: service.register_device(**thief.application()))


@pytest.mark.parametrize("attempt", range(5))
def test_of_many_devices_racing_with_one_claim_in_two_processes_exactly_one_enrols(
    database_url: str, service: DeviceRegistryService, log: EventLog, attempt: int
) -> None:
    code = Applicant().code
    applicants = [Applicant(code=code) for _ in range(12)]
    claim(service, applicants[0])
    other_log = open_event_log(database_url)
    services = [service, DeviceRegistryService(other_log)]
    start = threading.Barrier(len(applicants))

    def race(number: int) -> str:
        start.wait()
        with within(new_scope("test", now=NOW)):
            try:
                services[number % 2].register_device(**applicants[number].application())
            except ClaimAlreadyUsed:
                return "claim already used"
        return applicants[number].ed25519_pub

    with ThreadPoolExecutor(len(applicants)) as threads:
        outcomes = list(threads.map(race, range(len(applicants))))
    other_log.close()
    winners = [outcome for outcome in outcomes if outcome != "claim already used"]
    assert winners == [log.load(Device, applicants[0].device_id).ed25519_pub]
    assert log.head() == 2


def test_an_enrolment_sent_again_under_its_key_gets_the_first_answer(
    service: DeviceRegistryService, log: EventLog
) -> None:
    applicant = Applicant()
    claim(service, applicant)
    answers = []
    for _ in range(2):
        with within(new_scope("anonymous", now=NOW, idempotency_key="again", body_hash=b"same")):
            answers.append(service.register_device(**applicant.application()))
    assert answers[0] == answers[1]
    assert log.head() == 2


def test_commands_about_a_device_that_does_not_exist_or_is_not_enrolled_are_refused(
    service: DeviceRegistryService, log: EventLog
) -> None:
    applicant = Applicant()
    claim(service, applicant)
    for device_id, rule in ((uuid4(), DeviceUnknown), (applicant.device_id, DeviceNotEnrolled)):
        commands: list[Callable[[UUID], object]] = [
            lambda device: service.update_capabilities(device_id=device, capabilities=some_capabilities()),
            lambda device: service.device_went_online(device_id=device, seen_at=NOW),
            lambda device: service.device_went_degraded(device_id=device, seen_at=NOW),
            lambda device: service.device_went_offline(device_id=device, last_seen_at=NOW),
            lambda device: service.record_latency_class(device_id=device, latency_ms=50),
            lambda device: service.update_reputation(
                device_id=device, service="harvest", good=True, weight_bp=1, cause_event_id=uuid4()
            ),
        ]
        for command in commands:
            assert_refused(log, rule, lambda command=command, device_id=device_id: command(device_id))  # type: ignore[misc]


def test_commands_out_of_bounds_are_refused(service: DeviceRegistryService, log: EventLog) -> None:
    device_id = enrol(service)
    bad = some_capabilities(cpu_cores=0)
    assert_refused(log, CapabilitiesInvalid, lambda: service.update_capabilities(device_id=device_id, capabilities=bad))
    assert_refused(log, LatencyInvalid, lambda: service.record_latency_class(device_id=device_id, latency_ms=49))
    for rule, name, weight_bp in (
        (ReputationServiceUnknown, "gossip", 1),
        (EvidenceWeightInvalid, "harvest", 0),
        (EvidenceWeightInvalid, "harvest", 10_001),
    ):
        assert_refused(
            log,
            rule,
            lambda name=name, weight_bp=weight_bp: service.update_reputation(  # type: ignore[misc]
                device_id=device_id, service=name, good=True, weight_bp=weight_bp, cause_event_id=uuid4()
            ),
        )
    with pytest.raises(CriteriaInvalid):
        DeviceRegistryService(log, directory=_nobody).query_devices(DeviceCriteria(min_ram_mb=-1))


def test_what_already_holds_is_not_recorded_again(service: DeviceRegistryService, log: EventLog) -> None:
    device_id = enrol(service)
    for _ in range(2):
        with within(new_scope("test", now=NOW)):
            service.device_went_online(device_id=device_id, seen_at=NOW)
        with within(new_scope("test", now=NOW)):
            service.record_latency_class(device_id=device_id, latency_ms=50)
        with within(new_scope("test", now=NOW)):
            answer = service.update_capabilities(device_id=device_id, capabilities=some_capabilities())
    assert log.head() == answer.position == 4


def test_evidence_from_many_threads_is_all_there_and_never_conflicts(
    service: DeviceRegistryService, log: EventLog
) -> None:
    device_id = enrol(service)

    def weigh(number: int) -> None:
        with within(new_scope("test", now=NOW)):
            service.update_reputation(
                device_id=device_id, service="harvest", good=True, weight_bp=10_000, cause_event_id=UUID(int=number)
            )

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(weigh, range(40)))
    held = log.load(Reputation, Reputation.create_id(device_id, "harvest"))
    assert held.version == 41
    one_by_one = Reputation(device_id=device_id, service="harvest")
    for number in range(40):
        one_by_one.weigh(good=True, weight_bp=10_000, cause_event_id=UUID(int=number))
    assert held.standing == one_by_one.standing


def test_a_key_is_rotated_by_the_signatures_of_both_keys_over_this_very_change(
    service: DeviceRegistryService, log: EventLog
) -> None:
    device, other, new = Applicant(), Applicant(), Ed25519PrivateKey.generate()
    for applicant in (device, other):
        enrol(service, applicant)
    good = device.rotation(new)
    for rule, bad in (
        (RotationSignatureInvalid, good | {"signature": good["proof"]}),
        (RotationSignatureInvalid, good | {"signature": "?"}),
        (RotationSignatureInvalid, good | {"challenge": "another"}),
        (RotationSignatureInvalid, other.rotation(new)),
        (RotationProofInvalid, good | {"proof": good["signature"]}),
        (RotationProofInvalid, good | {"proof": ""}),
        (PublicKeyMalformed, good | {"ed25519_pub": "AAAA"}),
        (PublicKeyWeak, good | {"ed25519_pub": LOW_ORDER}),
    ):
        assert_refused(log, rule, partial(service.rotate_key, device_id=device.device_id, **bad))
    with within(new_scope("test", now=NOW)):
        service.rotate_key(device_id=device.device_id, **good)
    assert log.load(Device, device.device_id).ed25519_pub == good["ed25519_pub"]
    for again in (good, device.rotation(Ed25519PrivateKey.generate())):
        with within(new_scope("test", now=NOW)), pytest.raises(Refusal):
            service.rotate_key(device_id=device.device_id, **again)


def test_a_member_retires_only_a_device_of_their_own(service: DeviceRegistryService, log: EventLog) -> None:
    owner_id = uuid4()
    device_id = enrol(service, owner_id=owner_id)
    retire = partial(service.retire_device, device_id=device_id, reason="lost")
    assert_refused(log, DeviceOfAnother, lambda: retire(owner_id=uuid4()))
    assert_refused(log, DeviceUnknown, lambda: service.retire_device(device_id=uuid4(), reason="lost"))
    with within(new_scope("test", now=NOW)):
        retire(owner_id=owner_id)
    assert log.load(Device, device_id).status == "retired"


class _Nobody:
    def eligible_devices(self, criteria: DeviceCriteria) -> tuple[list[Any], int]:
        return [], 0


_nobody = _Nobody()
