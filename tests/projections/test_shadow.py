"""Shadow scores: what a candidate rule would change, over all history, with nothing recorded."""

import json
import random
from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest
from typer.testing import CliRunner

from cli import devices
from domain.device_registry.criteria import DeviceCriteria
from domain.device_registry.reputation import RULE_VERSION
from domain.device_registry.reputation_rule import RULES, ReputationRuleUnknown, Standing
from domain.device_registry.service import DeviceRegistryService
from domain.kernel import EventLog, new_scope, within
from infrastructure.database import Database, Role
from infrastructure.event_store import open_event_log
from projections.device_index import DeviceIndex
from projections.device_registry import DeviceRow, Devices
from projections.replay import compare
from projections.shadow import shadow_scores
from tests.devices import NOW, enrol
from workers.projector import Projector

CANDIDATE = next(version for version in RULES if version != RULE_VERSION)


@pytest.fixture
def log(database_url: str) -> Iterator[EventLog]:
    log = open_event_log(database_url)
    yield log
    log.close()


def test_a_candidate_rule_scores_all_history_beside_the_live_one_and_records_nothing(
    log: EventLog, database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, dice = DeviceRegistryService(log), random.Random(7)
    ids = [enrol(service) for _ in range(3)]
    history: dict[tuple[object, str], list[tuple[bool, int]]] = {}
    for _ in range(40):
        device_id, name = dice.choice(ids[:2]), dice.choice(["harvest", "marketplace"])
        good, weight_bp = dice.random() < 0.7, dice.randint(1, 10_000)
        history.setdefault((device_id, name), []).append((good, weight_bp))
        with within(new_scope("test", now=NOW)):
            service.update_reputation(
                device_id=device_id, service=name, good=good, weight_bp=weight_bp, cause_event_id=uuid4()
            )
    head = log.head()
    projector = Projector(database, [Devices()])
    projector.run_once()
    projector.close()
    rows = {device_id: row.reputation for device_id in ids if (row := _row(database, device_id))}
    with database.connect(Role.READER) as connection:
        found, again = shadow_scores(connection, CANDIDATE), shadow_scores(connection, CANDIDATE)
        live = shadow_scores(connection, RULE_VERSION)
        with pytest.raises(ReputationRuleUnknown):
            shadow_scores(connection, 99)
        assert compare(connection, [Devices()]).differences == []
    assert (found, found.position, log.head()) == (again, head, head)
    assert live.differences == []
    assert {(one.device_id, one.service) for one in found.scores} == set(history)
    for one in found.scores:
        standing = Standing()
        for good, weight_bp in history[one.device_id, one.service]:
            standing = standing.after(good=good, weight_bp=weight_bp, rule_version=CANDIDATE)
        assert one.shadow_bp == standing.score_under(RULES[CANDIDATE])
        assert one.live_bp == rows[one.device_id][one.service]
        assert one.evidence == len(history[one.device_id, one.service])
    assert found.differences

    monkeypatch.setenv("VILLAGE_DATABASE_URL", database_url)
    said = CliRunner().invoke(devices.app, ["shadow-rule", str(CANDIDATE), "--json"])
    assert [json.loads(line)["shadow_bp"] for line in said.output.splitlines()] == [
        one.shadow_bp for one in found.scores
    ]
    told = CliRunner().invoke(devices.app, ["shadow-rule", str(CANDIDATE)]).output
    assert f"{len(found.differences)} of {len(found.scores)} scores would change" in told


def _row(database: Database, device_id: UUID) -> DeviceRow | None:
    rows = DeviceIndex(database).eligible_devices(DeviceCriteria(availability_required=False))[0]
    return next((row for row in rows if row.device_id == device_id), None)
