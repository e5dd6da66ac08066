"""The device registry as clients see it: real uvicorn, real Postgres, real signatures."""

import base64
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from strawberry.utils.str_converters import to_camel_case as camel_case

from domain.device_registry import enrolment
from domain.device_registry.criteria import DeviceCriteria
from domain.device_registry.device import Device
from domain.device_registry.evidence import METHODS
from domain.device_registry.reputation import NEWCOMER_BP
from infrastructure.http_signatures import DeviceAuth, signature_headers
from tests.devices import Applicant, some_capabilities

from .registry_desk import REGISTRY, Desk, assert_problem, form
from .registry_desk import desk as desk

LOW_ORDER = "A" * 43 + "="


def test_from_claim_to_heartbeat_to_graphql_a_device_becomes_part_of_the_village(desk: Desk) -> None:
    owner = uuid4()
    device = desk.enrolled(owner)
    first = desk.beat(device, 1, latency_ms=30)
    assert (first.status_code, first.json()) == (200, {"sequence": 1, "presence": "online"})
    query = """query($id: UUID!, $at: Position) { device(deviceId: $id, atLeast: $at) {
        deviceId ownerId deviceType region presence latencyMs ramMb cpuCores computeScore frameworks capabilities
        reputation { service scoreBp } } }"""
    found = desk.ask(query, desk.headers(owner), id=str(device.device_id), at=desk.log.head())["data"]["device"]
    assert found == {
        "deviceId": str(device.device_id),
        "ownerId": str(owner),
        "deviceType": "smartphone",
        "region": "eu-west",
        "presence": "online",
        "latencyMs": 50,
        "ramMb": 4_096,
        "cpuCores": 4,
        "computeScore": 12_000,
        "frameworks": ["pytorch"],
        "capabilities": ["federated_learning"],
        "reputation": [],
    }


def test_a_claim_asked_for_twice_under_one_key_is_one_claim_with_the_same_code(desk: Desk) -> None:
    headers = desk.headers(uuid4()) | {"Idempotency-Key": "the-claim"}
    first, second = (desk.post("issue_claim", {}, headers=headers).json() for _ in range(2))
    assert first == second
    assert str(enrolment.device_id_of(enrolment.claim_sha256(first["claim_code"]))) == first["id"]
    assert desk.log.head() == 1
    another = desk.post("issue_claim", {"expires_in_ms": 1_000}, headers=headers)
    assert_problem(desk, another, "idempotency_key_reused", head=1)
    somebody_else = desk.post("issue_claim", {}, headers=desk.headers(uuid4()) | {"Idempotency-Key": "the-claim"})
    assert somebody_else.json()["claim_code"] != first["claim_code"]


def test_a_member_claims_for_itself_and_an_operator_for_whom_it_names(desk: Desk) -> None:
    member = uuid4()
    mine = desk.post("issue_claim", {}, headers=desk.headers(member)).json()
    assert desk.log.load(Device, UUID(mine["id"])).owner_id == member
    theirs = desk.post("issue_claim", {"owner_id": str(member)}, headers=desk.headers()).json()
    assert desk.log.load(Device, UUID(theirs["id"])).owner_id == member
    head = desk.log.head()
    forbidden = desk.post("issue_claim", {"owner_id": str(uuid4())}, headers=desk.headers(member))
    assert_problem(desk, forbidden, "forbidden", head)
    assert_problem(desk, desk.post("issue_claim", {}, headers=desk.headers()), "owner_missing", head)
    assert_problem(desk, desk.post("issue_claim", {}), "credentials_missing", head)


def test_a_bad_claim_request_is_refused_by_name_and_records_nothing(desk: Desk) -> None:
    bad: list[tuple[Any, str]] = [
        ({"expires_in_ms": 0}, "claim_expiry_invalid"),
        ({"expires_in_ms": 31 * 86_400_000}, "claim_expiry_invalid"),
        ({"expires_in_ms": -1}, "request_invalid"),
        ({"expires_in_ms": "5"}, "request_invalid"),
        ({"expires_in_ms": 1.5}, "request_invalid"),
        ({"surprise": 1}, "request_invalid"),
        ([], "request_invalid"),
    ]
    for body, code in bad:
        answer = desk.post("issue_claim", body, headers=desk.headers(uuid4()))
        assert_problem(desk, answer, code, head=0)


CAPABILITIES = msgspec.to_builtins(some_capabilities())
BAD_FORMS: list[tuple[str, str, dict[str, Any]]] = [
    ("unknown claim", "claim_unknown", {"claim_code": "a" * 32}),
    ("empty claim", "claim_unknown", {"claim_code": ""}),
    ("claim too long", "request_invalid", {"claim_code": "a" * 129}),
    ("claim is no text", "request_invalid", {"claim_code": 7}),
    ("no challenge of ours", "challenge_invalid", {"challenge": "AAAA"}),
    ("empty challenge", "challenge_invalid", {"challenge": ""}),
    ("challenge too long", "request_invalid", {"challenge": "A" * 129}),
    ("wrong proof", "enrolment_proof_invalid", {"proof": base64.b64encode(bytes(64)).decode()}),
    ("malformed proof", "enrolment_proof_invalid", {"proof": "?"}),
    ("key of another", "enrolment_proof_invalid", {"ed25519_pub": Applicant().ed25519_pub}),
    ("agreement key of another", "enrolment_proof_invalid", {"x25519_pub": Applicant().x25519_pub}),
    ("short key", "public_key_malformed", {"ed25519_pub": "AAAA"}),
    ("key that is no base64", "public_key_malformed", {"x25519_pub": "ä" * 44}),
    ("low-order agreement key", "public_key_weak", {"x25519_pub": LOW_ORDER}),
    ("low-order signing key", "public_key_weak", {"ed25519_pub": LOW_ORDER}),
    ("bad device type", "request_invalid", {"device_type": "Ä phone"}),
    ("region with a line break", "request_invalid", {"region": "eu\n"}),
    ("no capabilities", "request_invalid", {"capabilities": None}),
    ("negative memory", "request_invalid", {"capabilities": CAPABILITIES | {"ram_mb": -1}}),
    ("memory as text", "request_invalid", {"capabilities": CAPABILITIES | {"ram_mb": "4096"}}),
    ("memory as truth", "request_invalid", {"capabilities": CAPABILITIES | {"ram_mb": True}}),
    ("cores beyond reason", "request_invalid", {"capabilities": CAPABILITIES | {"cpu_cores": 10**30}}),
    ("33 frameworks", "request_invalid", {"capabilities": CAPABILITIES | {"frameworks": [f"f{n}" for n in range(33)]}}),
    ("framework twice", "capabilities_invalid", {"capabilities": CAPABILITIES | {"frameworks": ["a", "a"]}}),
    ("benchmark with spaces", "capabilities_invalid", {"capabilities": CAPABILITIES | {"benchmark_id": "a b"}}),
    ("unknown field", "request_invalid", {"trust_me": True}),
]


def test_a_bad_enrolment_is_refused_by_name_records_nothing_and_leaves_the_claim_usable(desk: Desk) -> None:
    for what, code, changes in BAD_FORMS:
        applicant = desk.applicant()
        head = desk.log.head()
        assert_problem(desk, desk.post("register_device", form(applicant, **changes)), code, head, what)
        assert desk.post("register_device", form(applicant)).status_code == 200, what


def test_malformed_json_is_refused_by_name(desk: Desk) -> None:
    headers = {"Content-Type": "application/json"}
    for body in (b"", b"{", b"\xff\xfe", b'{"sequence": NaN}', b"[" * 5_000):
        answer = desk.client.post(f"{REGISTRY}/register_device", content=body, headers=headers)
        assert answer.json()["code"] in ("json_malformed", "request_invalid"), answer.text
        assert answer.status_code in (400, 422)
    assert desk.log.head() == 0


def test_an_expired_claim_and_an_expired_challenge_are_refused_by_name(desk: Desk) -> None:
    brief = Applicant(code=desk.claim(uuid4(), expires_in_ms=1), challenge=desk.challenge())
    time.sleep(0.01)
    assert_problem(desk, desk.post("register_device", form(brief)), "claim_expired", head=1)
    stale = Applicant(code=desk.claim(uuid4()))
    stale.challenge = enrolment.challenge(desk.ctx.keys.challenge, bytes(16), datetime.now(UTC))
    assert_problem(desk, desk.post("register_device", form(stale)), "challenge_expired", head=2)


def test_a_reused_claim_is_refused_whoever_comes_with_it(desk: Desk) -> None:
    device = desk.enrolled()
    head = desk.log.head()
    assert_problem(desk, desk.post("register_device", form(device)), "claim_already_used", head)
    thief = Applicant(code=device.code, challenge=desk.challenge())
    assert_problem(desk, desk.post("register_device", form(thief)), "claim_already_used", head)
    assert desk.beat(thief, 1).json()["code"] == "signature_invalid"


def test_of_many_requests_racing_with_one_claim_exactly_one_enrols(desk: Desk) -> None:
    code = desk.claim(uuid4())
    forms = [form(Applicant(code=code, challenge=desk.challenge())) for _ in range(10)]
    with ThreadPoolExecutor(len(forms)) as threads:
        answers = list(threads.map(lambda body: desk.post("register_device", body), forms))
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 9
    assert {answer.json().get("code") for answer in answers} == {None, "claim_already_used"}
    assert desk.log.head() == 2


def test_a_device_speaks_the_moment_it_is_enrolled_before_any_read_model_knows_it(desk: Desk) -> None:
    device = desk.enrolled()
    assert desk.ask("{ devices(first: 1) { totalCount } }")["data"]["devices"]["totalCount"] == 1
    fresh = desk.enrolled()
    assert desk.beat(fresh, 1).status_code == 200
    assert desk.beat(device, 1).status_code == 200


def test_a_replayed_heartbeat_is_refused_and_records_nothing(desk: Desk) -> None:
    device = desk.enrolled()
    url = f"{desk.client.base_url.join(REGISTRY)}/heartbeat"
    body = b'{"sequence":5}'
    headers = signature_headers("POST", url, device_id=device.device_id, key=device.signing, body=body)
    headers["Content-Type"] = "application/json"
    assert desk.client.post(url, content=body, headers=headers).status_code == 200
    head = desk.log.head()
    assert_problem(desk, desk.client.post(url, content=body, headers=headers), "heartbeat_replayed", head)
    assert_problem(desk, desk.beat(device, 4), "heartbeat_replayed", head)
    changed = desk.client.post(url, content=b'{"sequence":6}', headers=headers)
    assert_problem(desk, changed, "content_digest_mismatch", head)


def test_a_malformed_heartbeat_is_refused_and_the_device_stays_as_it_was(desk: Desk) -> None:
    device = desk.enrolled()
    bad: list[tuple[Any, dict[str, Any]]] = [
        *((sequence, {}) for sequence in (0, -1, 2**63, 1.5, "1", True, None)),
        *((1, more) for more in ({"latency_ms": -1}, {"latency_ms": 10**9}, {"latency_ms": "fast"}, {"state": "on"})),
    ]
    for sequence, more in bad:
        assert_problem(desk, desk.beat(device, sequence, **more), "request_invalid", 2, f"{sequence} {more}")
    assert desk.beat(device, 1).status_code == 200


def test_heartbeats_of_strangers_are_refused_by_name(desk: Desk) -> None:
    device = desk.enrolled()
    stranger = Applicant()
    assert_problem(desk, desk.beat(stranger, 1), "unknown_device", head=2)
    claimed = desk.applicant()
    assert_problem(desk, desk.beat(claimed, 1), "unknown_device", head=3)
    device.signing = Ed25519PrivateKey.generate()
    assert_problem(desk, desk.beat(device, 1), "signature_invalid", head=3)
    assert_problem(desk, desk.post("heartbeat", {"sequence": 1}), "credentials_missing", head=3)
    assert_problem(desk, desk.post("heartbeat", {"sequence": 1}, headers=desk.headers()), "forbidden", head=3)


def test_a_device_changes_its_own_capabilities(desk: Desk) -> None:
    device = desk.enrolled()
    auth = DeviceAuth(device.device_id, device.signing)
    changed = CAPABILITIES | {"ram_mb": 8_192}
    assert desk.post("update_capabilities", {"capabilities": changed}, auth=auth).status_code == 200
    known = desk.log.load(Device, device.device_id).capabilities
    assert known is not None
    assert known.ram_mb == 8_192
    head = desk.log.head()
    bad = desk.post("update_capabilities", {"capabilities": changed | {"cpu_cores": 0}}, auth=auth)
    assert_problem(desk, bad, "request_invalid", head)


def test_signed_evidence_is_shown_and_found_by_and_impossible_claims_are_refused(desk: Desk) -> None:
    owner = uuid4()
    device, declared = desk.enrolled(owner), desk.enrolled(owner)
    auth, at = DeviceAuth(device.device_id, device.signing), datetime.now(UTC)
    body = {"capabilities": CAPABILITIES, "evidence": device.evidence([("matmul-f32", 1, 12_000)], at)}
    impossible: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("evidence_signature_invalid", {}, {"ram_mb": 8_192}),
        ("measurement_impossible", {}, {"cpu_cores": -1}),
        ("measurement_impossible", {}, {"ram_mb": 2**63 - 1}),
        ("capabilities_beyond_evidence", {"cpu_cores": 64}, {}),
    ]
    head = desk.log.head()
    for code, declares, claims in impossible:
        wrong = {"capabilities": CAPABILITIES | declares, "evidence": body["evidence"] | claims}
        assert_problem(desk, desk.post("update_capabilities", wrong, auth=auth), code, head)
    answer = desk.post("update_capabilities", body, auth=auth)
    assert answer.status_code == 200, answer.text
    query = """query($at: Position, $asked: DeviceCriteriaInput!) {
        devices(first: 5, atLeast: $at, criteria: $asked) {
            edges { node { deviceId benchmark { cpuCores ramMb signature
                measurements { quantity method version value unit measuredAt } } } } }
        unmatchedDevices(first: 5, criteria: $asked) {
            edges { node { deviceId benchmark { ramMb } mismatches(criteria: $asked) { criterion found } } } } }"""
    asked = {"minMatrixMflops": 12_000, "availabilityRequired": False}
    found = desk.ask(query, desk.headers(owner), asked=asked, at=desk.log.head())["data"]
    (shown,) = [edge["node"] for edge in found["devices"]["edges"]]
    (unproven,) = [edge["node"] for edge in found["unmatchedDevices"]["edges"]]
    assert shown["deviceId"] == str(device.device_id)
    assert (shown["benchmark"]["cpuCores"], shown["benchmark"]["ramMb"]) == (4, 4_096)
    assert shown["benchmark"]["signature"] == body["evidence"]["signature"]
    (measured,) = shown["benchmark"]["measurements"]
    assert datetime.fromisoformat(measured.pop("measuredAt")) == at
    assert measured == {
        "quantity": "matrix_mflops",
        "method": "matmul-f32",
        "version": 1,
        "value": 12_000,
        "unit": "MFLOP/s",
    }
    assert unproven == {
        "deviceId": str(declared.device_id), "benchmark": None,
        "mismatches": [{"criterion": "min_matrix_mflops", "found": "not measured"}],
    }  # fmt: skip


def test_devices_are_listed_by_criteria_page_by_page_and_a_mismatch_is_explained(desk: Desk) -> None:
    owner = uuid4()
    devices = [desk.enrolled(owner, capabilities=CAPABILITIES | {"ram_mb": ram}) for ram in (1_024, 2_048, 4_096)]
    for device in devices[1:]:
        desk.beat(device, 1)
    query = """query($first: Int!, $after: String, $criteria: DeviceCriteriaInput) {
        devices(first: $first, after: $after, criteria: $criteria) {
            edges { node { deviceId } } pageInfo { hasNextPage endCursor } totalCount } }"""
    criteria = {"minRamMb": 2_048, "requiredFrameworks": ["pytorch"], "geographicRegion": "eu-west"}
    seen, after = [], None
    for _ in range(2):
        page = desk.ask(query, first=1, after=after, criteria=criteria)["data"]["devices"]
        seen += [edge["node"]["deviceId"] for edge in page["edges"]]
        after = page["pageInfo"]["endCursor"]
        assert page["totalCount"] == 2
    assert page["pageInfo"]["hasNextPage"] is False
    assert seen == sorted(str(device.device_id) for device in devices[1:])
    why = """query($id: UUID!, $c: DeviceCriteriaInput!) {
        device(deviceId: $id) { mismatches(criteria: $c) { criterion } } }"""
    found = desk.ask(why, id=str(devices[0].device_id), c=criteria)["data"]["device"]["mismatches"]
    assert found == [{"criterion": "min_ram_mb"}, {"criterion": "availability_required"}]
    others = """query($c: DeviceCriteriaInput!) { unmatchedDevices(first: 9, criteria: $c) {
        edges { node { deviceId mismatches(criteria: $c) { criterion wanted found } } } totalCount } }"""
    listed = desk.ask(others, c=criteria)["data"]["unmatchedDevices"]
    assert [edge["node"]["deviceId"] for edge in listed["edges"]] == [str(devices[0].device_id)]
    assert listed["edges"][0]["node"]["mismatches"][0] == {
        "criterion": "min_ram_mb",
        "wanted": "2048",
        "found": "1024",
    }
    assert listed["totalCount"] == 1


def test_every_criterion_alone_finds_a_device_that_just_meets_it_and_no_device_that_just_does_not(desk: Desk) -> None:
    device = desk.enrolled()
    assert desk.beat(device, 1, latency_ms=30).status_code == 200  # of the class 50 ms
    told = device.evidence([(name, version, 12_000) for name, version in METHODS])
    body = {"capabilities": CAPABILITIES, "evidence": told}
    auth = DeviceAuth(device.device_id, device.signing)
    assert desk.post("update_capabilities", body, auth=auth).status_code == 200
    newcomer = {"service": "federated_learning", "scoreBp": NEWCOMER_BP}
    asked: list[tuple[str, Any, Any]] = [
        ("minRamMb", 4_096, 4_097),
        ("minCpuCores", 4, 5),
        ("minComputeScore", 12_000, 12_001),
        ("requiredCapabilities", ["federated_learning"], ["federated_learning", "relay"]),
        ("requiredFrameworks", ["pytorch"], ["jax"]),
        ("minReputationScore", [newcomer], [newcomer | {"scoreBp": NEWCOMER_BP + 1}]),
        ("maxLatencyMs", 50, 49),
        ("geographicRegion", "eu-west", "eu"),
        *((camel_case(f"min_{method.quantity}"), 12_000, 12_001) for method in METHODS.values()),
    ]
    assert {name for name, _, _ in asked} | {"availabilityRequired"} == {
        camel_case(field) for field in DeviceCriteria.__struct_fields__
    }
    query = """query($c: DeviceCriteriaInput!) { devices(first: 2, criteria: $c) { totalCount }
        unmatchedDevices(first: 2, criteria: $c) { edges { node { mismatches(criteria: $c) { criterion } } } } }"""
    for name, met, unmet in asked:
        found = desk.ask(query, c={name: met})["data"]
        assert (found["devices"]["totalCount"], found["unmatchedDevices"]["edges"]) == (1, []), name
        missed = desk.ask(query, c={name: unmet})["data"]
        (other,) = missed["unmatchedDevices"]["edges"]
        assert missed["devices"]["totalCount"] == 0, name
        assert [camel_case(one["criterion"]) for one in other["node"]["mismatches"]] == [name]
    desk.enrolled()  # and silent
    for required, count in ((True, 1), (False, 2)):
        found = desk.ask(query, c={"availabilityRequired": required})["data"]
        assert found["devices"]["totalCount"] == count
        assert len(found["unmatchedDevices"]["edges"]) == 2 - count


def test_criteria_out_of_bounds_are_refused_by_name(desk: Desk) -> None:
    query = "query($c: DeviceCriteriaInput) { devices(first: 1, criteria: $c) { totalCount } }"
    for criteria in (
        {"minRamMb": -1},
        {"requiredCapabilities": ["Ä"]},
        {"requiredFrameworks": [f"f{n}" for n in range(33)]},
        {"minReputationScore": [{"service": "gossip", "scoreBp": 1}]},
        {"minReputationScore": [{"service": "harvest", "scoreBp": 10_001}]},
    ):
        errors = desk.ask(query, c=criteria)["errors"]
        assert errors[0]["extensions"]["code"] == "criteria_invalid"


def test_members_see_their_own_devices_devices_themselves_and_operators_all(desk: Desk) -> None:
    ada, bob = uuid4(), uuid4()
    first, second = desk.enrolled(ada), desk.enrolled(bob)
    query = "{ devices(first: 10) { edges { node { deviceId } } totalCount } }"

    def seen(headers: dict[str, str] | None = None) -> set[str]:
        found = desk.ask(query, headers)["data"]["devices"]
        assert found["totalCount"] == len(found["edges"])
        return {edge["node"]["deviceId"] for edge in found["edges"]}

    assert seen() == {str(first.device_id), str(second.device_id)}
    assert seen(desk.headers(ada)) == {str(first.device_id)}
    assert seen(desk.headers(uuid4())) == set()
    one = "query($id: UUID!) { device(deviceId: $id) { deviceId } }"
    assert desk.ask(one, desk.headers(ada), id=str(second.device_id))["data"]["device"] is None
