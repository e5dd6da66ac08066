"""The devices read model: folded from facts, and its query answers exactly what a brute-force filter answers."""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cli.ports import Participants
from domain.device_registry.criteria import DeviceCriteria, Mismatch, checked_criteria, mismatches
from domain.device_registry.evidence import Evidence, Measurement
from domain.device_registry.remeasurement import ANSWER_WITHIN, SERVICES
from domain.device_registry.reputation import NEWCOMER_BP
from domain.device_registry.service import DeviceRegistryService
from domain.federated_learning.policy import ParticipantCriteria
from domain.kernel import EventLog, new_scope, within
from infrastructure.database import Database, Role
from infrastructure.event_store import open_event_log
from projections.device_index import DeviceIndex
from projections.device_registry import DeviceRow, Devices
from projections.federated_learning import Participations
from projections.privacy_budgets import ExhaustedBudgets
from projections.replay import compare
from tests.devices import NOW, Applicant, device_row, enrol, some_capabilities
from workers.projector import Projector

MODEL = Devices()


@pytest.fixture
def log(database_url: str) -> Iterator[EventLog]:
    log = open_event_log(database_url)
    yield log
    log.close()


@pytest.fixture
def service(log: EventLog) -> DeviceRegistryService:
    return DeviceRegistryService(log)


def project(database: Database) -> None:
    projector = Projector(database, [MODEL])
    projector.run_once()
    projector.close()


def stored_row(database: Database, device_id: UUID) -> DeviceRow | None:
    with database.reader.connection() as connection:
        record = connection.execute(MODEL.select_by_keys(), ([device_id],)).fetchone()
    return None if record is None else MODEL.read(record)


def live(service: DeviceRegistryService, device_id: UUID) -> None:
    """Some life of a device."""
    acts: list[Callable[[], object]] = [
        lambda: service.device_went_online(device_id=device_id, seen_at=NOW),
        lambda: service.record_latency_class(device_id=device_id, latency_ms=50),
        lambda: service.update_capabilities(device_id=device_id, capabilities=some_capabilities(ram_mb=1)),
        lambda: service.device_went_degraded(device_id=device_id, seen_at=NOW),
        lambda: service.device_went_offline(device_id=device_id, last_seen_at=NOW + timedelta(seconds=5)),
        *(
            lambda good=good: service.update_reputation(
                device_id=device_id, service="harvest", good=good, weight_bp=10_000, cause_event_id=uuid4()
            )
            for good in (True, True, False)
        ),
    ]
    for act in acts:
        with within(new_scope("test", now=NOW)):
            act()


def test_a_device_that_only_has_a_claim_is_in_no_list_and_an_enrolled_one_is_offline_and_a_newcomer(
    service: DeviceRegistryService, database: Database
) -> None:
    device_id = enrol(service, owner_id=UUID(int=1))
    with within(new_scope("test", now=NOW)):
        service.issue_claim(owner_id=UUID(int=2), claim_sha256="0" * 64, expires_at=NOW + timedelta(hours=1))
    project(database)
    row = stored_row(database, device_id)
    assert row is not None
    assert (row.owner_id, row.region, row.presence, row.reputation) == (UUID(int=1), "eu-west", "offline", {})
    assert (row.ram_mb, row.frameworks, row.enrolled_at, row.position) == (4_096, ["pytorch"], NOW, 2)
    with database.reader.connection() as connection:
        assert connection.execute("SELECT count(*) FROM read.devices").fetchone() == (1,)


def test_presence_latency_capabilities_and_reputation_follow_the_facts(
    service: DeviceRegistryService, log: EventLog, database: Database
) -> None:
    device_id = enrol(service)
    live(service, device_id)
    project(database)
    row = stored_row(database, device_id)
    assert row is not None
    assert (row.presence, row.seen_at, row.latency_ms, row.ram_mb) == ("offline", NOW + timedelta(seconds=5), 50, 1)
    assert row.reputation == {"harvest": (1_940_400_000 + 10**9) * 10_000 // (1_940_400_000 + 5 * 10**9)}
    assert row.position == log.head()


def test_status_and_key_follow_the_facts_and_only_active_devices_match(
    service: DeviceRegistryService, database: Database
) -> None:
    applicant = Applicant()
    device_id, asked = enrol(service, applicant), DeviceCriteria(availability_required=False)
    rotation = applicant.rotation(Ed25519PrivateKey.generate())
    acts: list[tuple[Callable[[], object], str, str, bool]] = [
        (lambda: service.rotate_key(device_id=device_id, **rotation), "active", "", True),
        (lambda: service.suspend_device(device_id=device_id, reason="odd"), "suspended", "odd", False),
        (lambda: service.reinstate_device(device_id=device_id, reason="well"), "active", "well", True),
        (lambda: service.retire_device(device_id=device_id, reason="lost"), "retired", "lost", False),
    ]
    for act, status, reason, matches in acts:
        with within(new_scope("test", now=NOW)):
            act()
        project(database)
        row = stored_row(database, device_id)
        assert row is not None
        assert (row.status, row.status_reason, row.ed25519_pub) == (status, reason, rotation["ed25519_pub"])
        survey = DeviceIndex(database).survey(asked)
        assert (survey.device_ids, survey.refused) == (([device_id], {}) if matches else ([], {"status": 1}))
    with database.connect(Role.READER) as connection:
        assert compare(connection, [MODEL]).differences == []


def test_a_rebuild_from_the_log_gives_the_same_rows_bit_by_bit_in_any_batches(
    service: DeviceRegistryService, database: Database
) -> None:
    for _ in range(3):
        live(service, enrol(service))
    projector = Projector(database, [MODEL], batch_size=4)
    projector.run_once()
    projector.close()
    with database.connect(Role.READER) as connection:
        found = compare(connection, [MODEL])
    assert (found.rows, found.differences) == (3, [])


TAGS = ["a", "b", "c"]
LEVELS = st.integers(1, 3)
ROWS = st.builds(
    device_row,
    device_id=st.uuids(),
    region=st.sampled_from(["eu", "us"]),
    ram_mb=LEVELS,
    cpu_cores=LEVELS,
    compute_score=LEVELS,
    frameworks=st.lists(st.sampled_from(TAGS), unique=True),
    capabilities=st.lists(st.sampled_from(TAGS), unique=True),
    presence=st.sampled_from(["online", "degraded", "offline"]),
    latency_ms=st.none() | st.sampled_from([5, 10, 20]),
    reputation=st.dictionaries(st.sampled_from(["harvest", "privacy"]), st.integers(2_498, 2_502)),
    status=st.sampled_from(["active", "active", "suspended", "retired"]),
    matrix_mflops=st.none() | LEVELS,
    memory_mb_s=st.none() | LEVELS,
    disk_mb_s=st.none() | LEVELS,
    benchmark=st.sampled_from([{}, {"signature": "s"}]),
)
ASKED_LEVEL = st.none() | LEVELS
CRITERIA = st.builds(
    DeviceCriteria,
    min_ram_mb=ASKED_LEVEL,
    min_cpu_cores=ASKED_LEVEL,
    min_compute_score=ASKED_LEVEL,
    required_capabilities=st.lists(st.sampled_from(TAGS), max_size=2),
    required_frameworks=st.lists(st.sampled_from(TAGS), max_size=2),
    min_reputation_score=st.dictionaries(st.sampled_from(["harvest", "privacy"]), st.integers(2_499, 2_501)),
    max_latency_ms=st.none() | st.sampled_from([0, 5, 10, 20]),
    geographic_region=st.none() | st.sampled_from(["eu", "us", "mars"]),
    availability_required=st.booleans(),
    min_matrix_mflops=ASKED_LEVEL,
    min_memory_mb_s=ASKED_LEVEL,
    min_disk_mb_s=ASKED_LEVEL,
)


def store(database: Database, rows: list[DeviceRow]) -> None:
    with database.projector.connection() as connection:
        connection.execute("DELETE FROM read.devices")
        if rows:
            connection.execute(MODEL.upsert(), MODEL.arrays(rows))


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(ROWS, max_size=25, unique_by=lambda row: row.device_id),
    criteria=st.lists(CRITERIA, min_size=1, max_size=4),
)
def test_the_query_answers_exactly_what_a_brute_force_filter_answers(
    database: Database, rows: list[DeviceRow], criteria: list[DeviceCriteria]
) -> None:
    store(database, rows)
    index = DeviceIndex(database)
    for asked in criteria:
        found = index.survey(checked_criteria(asked))
        reasons = {row.device_id: mismatches(asked, row) for row in rows}
        expected = sorted((row for row in rows if not reasons[row.device_id]), key=lambda row: row.device_id)
        assert index.eligible_devices(asked)[0] == expected
        assert found.device_ids == [row.device_id for row in expected]
        assert found.measured == {row.device_id for row in expected if row.benchmark}
        assert found.all_devices == len(rows)
        explained = [(row.device_id, why) for row, why in index.explain(asked)]
        assert explained == sorted(((one, why) for one, why in reasons.items() if why), key=lambda pair: pair[0])
        failing = [{mismatch.criterion for mismatch in why} for why in reasons.values()]
        counted = {name: sum(name in criteria for criteria in failing) for name in set().union(*failing)}
        assert found.refused == counted


def test_a_query_is_walked_by_id_without_missing_or_doubling(database: Database) -> None:
    store(database, [device_row(device_id=UUID(int=number)) for number in range(10)])
    index = DeviceIndex(database)
    seen: list[int] = []
    after: UUID | None = None
    while page := index.eligible_devices(DeviceCriteria(), after=after, limit=3)[0]:
        seen += [row.device_id.int for row in page]
        after = page[-1].device_id
    assert seen == list(range(10))


def test_the_answer_names_the_position_it_was_known_at(
    service: DeviceRegistryService, log: EventLog, database: Database
) -> None:
    index = DeviceIndex(database)
    assert index.eligible_devices(DeviceCriteria()) == ([], 0)
    first = enrol(service)
    project(database)
    asked = DeviceCriteria(availability_required=False)
    devices, position = index.eligible_devices(asked)
    assert ([row.device_id for row in devices], position) == ([first], log.head())
    enrol(service)
    assert index.eligible_devices(asked)[1] == position


def test_it_is_explained_why_a_device_does_not_match(service: DeviceRegistryService, database: Database) -> None:
    device_id = enrol(service)
    project(database)
    row = stored_row(database, device_id)
    assert row is not None
    asked = DeviceCriteria(
        min_ram_mb=8_192,
        required_frameworks=["pytorch", "tensorflow"],
        min_reputation_score={"harvest": NEWCOMER_BP + 1},
        max_latency_ms=100,
        geographic_region="us-east",
    )
    assert mismatches(asked, row) == [
        Mismatch("min_ram_mb", "8192", "4096"),
        Mismatch("required_frameworks", "tensorflow", "pytorch"),
        Mismatch("min_reputation_score", "harvest 2501", "2500"),
        Mismatch("max_latency_ms", "100", "unknown"),
        Mismatch("geographic_region", "us-east", "eu-west"),
        Mismatch("availability_required", "online", "offline"),
    ]


def test_every_number_that_is_asked_is_decided_in_the_index_and_in_the_order_of_the_answer(database: Database) -> None:
    with database.projector.connection() as connection:
        connection.execute("SET enable_seqscan = off")
        plan = connection.execute(
            "EXPLAIN SELECT device_id FROM read.devices WHERE status = 'active' AND presence = 'online'"
            " AND region = 'eu' AND compute_score >= 5 AND latency_ms <= 9 AND ram_mb >= 3 AND cpu_cores >= 2"
            " ORDER BY device_id LIMIT 20"
        ).fetchall()
    assert "devices_matching" in str(plan)
    assert "Filter" not in str(plan)
    assert "Sort" not in str(plan)


def test_training_asks_for_what_was_measured_and_counts_who_did_not(
    service: DeviceRegistryService, database: Database
) -> None:
    fast, slow, silent = Applicant(), Applicant(), Applicant()
    for device, mflops in ((fast, 12_000), (slow, 9_000), (silent, None)):
        device_id = enrol(service, device)
        if mflops is not None:
            evidence = Evidence(4, 4_096, [Measurement("matmul-f32", 1, mflops, NOW)])
            with within(new_scope("test", now=NOW)):
                service.update_capabilities(
                    device_id=device_id,
                    capabilities=some_capabilities(compute_score=9_000),
                    evidence=evidence,
                    signature=device.signed(evidence),
                )
        with within(new_scope("test", now=NOW)):
            service.device_went_online(device_id=device_id, seen_at=NOW)
    project(database)
    participants = Participants(DeviceIndex(database), Participations(database), ExhaustedBudgets(database))
    found = participants.survey(ParticipantCriteria(min_matrix_mflops=10_000), limit=10)
    assert [candidate.device_id for candidate in found.candidates] == [fast.device_id]
    assert found.refused == {"min_matrix_mflops": 2}
    for more in (ParticipantCriteria(min_memory_mb_s=1), ParticipantCriteria(min_disk_mb_s=1)):
        assert participants.survey(more, limit=10).candidates == []


def test_who_measures_again_shows_what_that_refuted_and_who_does_not_is_unmeasured(
    service: DeviceRegistryService, database: Database
) -> None:
    device = Applicant()
    device_id = enrol(service, device)

    def prove(mflops: int, at: datetime) -> None:
        evidence = Evidence(4, 4_096, [Measurement("matmul-f32", 1, mflops, at)])
        with within(new_scope("test", now=at)):
            service.update_capabilities(
                device_id=device_id,
                capabilities=some_capabilities(compute_score=0),
                evidence=evidence,
                signature=device.signed(evidence),
            )

    def row() -> DeviceRow:
        project(database)
        found = stored_row(database, device_id)
        assert found is not None
        return found

    at = [NOW + timedelta(hours=number) for number in range(4)]
    prove(12_000, at[0])
    with within(new_scope("test", now=at[1])):
        service.ask_remeasurement(device_id=device_id)
    assert (row().remeasure_until, row().disputes) == (at[1] + ANSWER_WITHIN, [])
    prove(100, at[1])
    assert (row().remeasure_until, row().matrix_mflops) == (None, 100)
    assert row().disputes == [{"quantity": "matrix_mflops", "claimed": 12_000, "measured": 100}]
    assert row().reputation.keys() == set(SERVICES)
    with within(new_scope("test", now=at[2])):
        service.ask_remeasurement(device_id=device_id)
    with within(new_scope("test", now=at[3])):
        service.miss_remeasurement(device_id=device_id)
    assert (row().remeasure_until, row().matrix_mflops, row().benchmark) == (None, None, {})
    with database.connect(Role.READER) as connection:
        assert compare(connection, [MODEL]).differences == []
