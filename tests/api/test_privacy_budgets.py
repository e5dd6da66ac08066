"""Privacy budgets over REST and GraphQL, and training that asks nobody whose budget is exhausted."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from api.edge.principals import EnrolledDevice
from cli.ports import BUDGET_EXHAUSTED, BUDGET_PURPOSE, Participants
from domain.device_registry.service import DeviceRegistryService
from domain.federated_learning.policy import ParticipantCriteria
from domain.kernel import new_scope, within
from infrastructure.database import Database, Role
from projections.device_index import DeviceIndex
from projections.federated_learning import Participations
from projections.privacy_budgets import ExhaustedBudgets, PrivacyBudgets
from projections.replay import compare
from tests.api.office import Office, open_office
from tests.devices import NOW, Directory, enrol

GRANT = {"purpose": BUDGET_PURPOSE, "epsilon_micro": 1_000, "delta_pico": 10_000_000}
READ = """query($s: UUID, $t: AsOf, $p: Position) { privacyBudgets(first: 9, subjectId: $s, asOf: $t, atLeast: $p) {
    edges { node { subjectId grantedMicro reservedMicro spentMicro remainingMicro state deltaPico } } } }"""


@pytest.fixture
def office(database: Database, database_url: str, tmp_path: Path) -> Iterator[Office]:
    yield from open_office(database_url, database, tmp_path)


def budgets(office: Office, owner: UUID | None = None, **variables: Any) -> list[dict[str, Any]]:
    office.settle()
    return [edge["node"] for edge in office.ask(READ, owner, **variables)["privacyBudgets"]["edges"]]


def spend(office: Office, command: str, subject: UUID, reservation: UUID, amount: int | None = None) -> Any:
    body = {"subject_id": str(subject), "purpose": BUDGET_PURPOSE, "reservation_id": str(reservation)}
    answer = office.post(f"privacy/{command}", body if amount is None else body | {"epsilon_micro": amount})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_member_grants_for_its_own_data_and_reads_what_became_of_it(office: Office) -> None:
    me, other, one, two = uuid4(), uuid4(), uuid4(), uuid4()
    granted = office.post("privacy/grant_budget", GRANT, me).json()["position"]
    spend(office, "reserve_budget", me, one, 600)
    assert spend(office, "commit_budget", me, one, 500)["remaining_micro"] == 500
    spend(office, "reserve_budget", me, two, 100)
    assert spend(office, "release_budget", me, two)["remaining_micro"] == 500
    numbers = {"subjectId": str(me), "grantedMicro": 1_000, "state": "open", "deltaPico": 10_000_000}
    assert budgets(office, me) == [numbers | {"reservedMicro": 0, "spentMicro": 500, "remainingMicro": 500}]
    before = budgets(office, me, t={"position": granted})
    assert before == [numbers | {"reservedMicro": 0, "spentMicro": 0, "remainingMicro": 1_000}]
    assert budgets(office, other) == []
    assert len(budgets(office, s=str(me))) == 1
    with office.database.connect(Role.READER) as connection:
        assert compare(connection, [PrivacyBudgets()]).differences == []


def test_a_member_grants_and_reads_and_gives_up_the_budget_of_a_device_of_its_own(office: Office) -> None:
    me, other = uuid4(), uuid4()
    mine, theirs = (enrol(office.village.device_registry, owner_id=owner) for owner in (me, other))
    for device_id, owner in ((mine, me), (theirs, other)):
        key = Ed25519PrivateKey.generate().public_key()
        cast(Directory, office.ctx.devices)[device_id] = EnrolledDevice(key, owner)
    for subject, owner in ((mine, me), (theirs, other)):
        granted = office.post("privacy/grant_budget", GRANT | {"subject_id": str(subject)}, owner)
        assert granted.status_code == 200, granted.text
    assert [one["subjectId"] for one in budgets(office, me)] == [str(mine)]
    assert [one["subjectId"] for one in budgets(office, me, t={"position": office.log.head()})] == [str(mine)]
    assert budgets(office, me, s=str(theirs)) == []
    named = {"subject_id": str(theirs), "purpose": BUDGET_PURPOSE}
    for path, body in (("grant_budget", GRANT | named), ("exhaust_budget", named)):
        assert office.refused(f"privacy/{path}", body, me) == (403, "forbidden")
    assert office.post("privacy/exhaust_budget", named | {"subject_id": str(mine)}, me).status_code == 200
    assert [one["state"] for one in budgets(office, me)] == ["exhausted"]
    assert [one["state"] for one in budgets(office, other)] == ["open"]


def test_what_a_budget_does_not_allow_is_refused_by_name(office: Office) -> None:
    me = uuid4()
    named: dict[str, Any] = {"subject_id": str(me), "purpose": BUDGET_PURPOSE, "reservation_id": str(uuid4())}
    assert office.refused("privacy/reserve_budget", named | {"epsilon_micro": 1}) == (404, "privacy_budget_unknown")
    office.post("privacy/grant_budget", GRANT, me)
    for path, body, owner, answer in (
        ("reserve_budget", named | {"epsilon_micro": 1_001}, None, (422, "privacy_budget_exceeded")),
        ("reserve_budget", named | {"epsilon_micro": 1}, me, (403, "forbidden")),
        ("commit_budget", named | {"epsilon_micro": 1}, None, (404, "budget_reservation_unknown")),
        ("grant_budget", GRANT | {"subject_id": str(uuid4())}, me, (403, "forbidden")),
        ("grant_budget", GRANT | {"delta_pico": 7}, me, (422, "delta_differs")),
        ("grant_budget", GRANT | {"epsilon_micro": 0}, me, (422, "request_invalid")),
    ):
        assert office.refused(f"privacy/{path}", body, owner) == answer


def test_training_asks_no_device_whose_budget_or_whose_owners_budget_is_exhausted(office: Office) -> None:
    owners = [uuid4() for _ in range(3)]
    service: DeviceRegistryService = office.village.device_registry
    ids = [enrol(service, owner_id=owner) for owner in owners]
    for device_id in ids:
        with within(new_scope("test", now=NOW)):
            service.device_went_online(device_id=device_id, seen_at=NOW)
    office.settle()
    database = office.database
    directory = Participants(DeviceIndex(database), Participations(database), ExhaustedBudgets(database))

    def survey() -> tuple[set[UUID], dict[str, int]]:
        office.settle()
        found = directory.survey(ParticipantCriteria(), limit=10)
        return {candidate.device_id for candidate in found.candidates}, found.refused

    assert survey() == (set(ids), {})
    office.post("privacy/grant_budget", GRANT | {"subject_id": str(ids[0])})
    office.post("privacy/grant_budget", GRANT, owners[1])
    assert survey() == (set(ids), {})
    reservation = uuid4()
    spend(office, "reserve_budget", ids[0], reservation, 1_000)
    spend(office, "commit_budget", ids[0], reservation, 1_000)
    office.post("privacy/exhaust_budget", {"purpose": BUDGET_PURPOSE}, owners[1])
    assert survey() == ({ids[2]}, {BUDGET_EXHAUSTED: 2})
    office.post("privacy/grant_budget", GRANT, owners[1])
    assert survey() == ({ids[1], ids[2]}, {BUDGET_EXHAUSTED: 1})
    directory = Participants(DeviceIndex(database), Participations(database), ExhaustedBudgets(database, 2_001))
    assert survey() == ({ids[2]}, {BUDGET_EXHAUSTED: 2})
