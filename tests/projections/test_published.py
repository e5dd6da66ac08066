"""What goes out on the bus: the committed names and fields, from real facts, and an AsyncAPI document that is true."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from jsonschema import Draft7Validator

from domain.device_registry.service import DeviceRegistryService
from domain.harvest.policy import HarvestPolicy
from domain.harvest.session import HarvestSession
from domain.kernel import Aggregate, Created, event
from infrastructure.database import Database, Role
from infrastructure.event_store import LogReader
from infrastructure.event_store.reader import Record
from infrastructure.message import Message, header_value
from projections import asyncapi
from projections.asyncapi import document, rendered
from projections.published import append_missing, by_reference, committed_lines, lines_of_code, message_of, problems
from tests.devices import NOW, Applicant, enrol
from tests.running import asked
from tests.trading import CUSTOMER, PRICE, PROVIDER, proposed
from tests.training_world import TrainingWorld

ASSETS = Path(__file__).parent / "assets"
OLD = "events.ThingMadeEvent event_id:str <- things.Thing.Made"


class Note(Aggregate, context="testing"):
    """Its event has a second version."""

    class Written(Created):
        class_version = 2
        note_id: UUID
        text: str
        words: int

        @staticmethod
        def upcast_v1_v2(state: dict[str, Any]) -> None:
            state["words"] = len(state["text"].split())

    @event(Written)
    def __init__(self, note_id: UUID, text: str, words: int) -> None:
        self.text = text

    @staticmethod
    def create_id(note_id: UUID) -> UUID:
        return note_id


@pytest.fixture
def world(database_url: str, database: Database) -> Iterator[TrainingWorld]:
    world = TrainingWorld(database_url, database)
    yield world
    world.close()


def trained(world: TrainingWorld) -> list[Record]:
    """The log of a village in which a device enrolled and a session trained."""
    enrol(DeviceRegistryService(world.log), Applicant(), now=world.now)
    session_id = world.start(rounds=1)
    world.settle()
    world.answer(world.opened(session_id))
    world.complete(world.opened(session_id))
    world.settle()
    with world.database.connect(Role.READER) as connection:
        return LogReader(connection).after(0, 10_000).records


def published(records: list[Record], subject: str) -> tuple[Record, Message]:
    """The one fact that went out under this subject."""
    ((record, message),) = [
        (record, message) for record in records if (message := message_of(record, "v")).subject == subject
    ]
    return record, message


def test_the_committed_table_is_what_goes_out() -> None:
    assert problems(lines_of_code(), committed_lines()) == []


def test_a_public_event_that_changes_or_leaves_is_reported() -> None:
    (gone,) = problems([], [OLD])
    assert "may not change or leave" in gone
    changed, missing = problems([OLD.replace("event_id:str", "event_id:int")], [OLD])
    assert "may not change or leave" in changed
    assert "python -m projections.published" in missing


def test_appending_to_the_table_keeps_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "published.txt"
    path.write_text(f"{OLD}\n")
    added = append_missing(path)
    assert path.read_text().splitlines() == [OLD, *added]
    assert append_missing(path) == []


def test_a_registered_device_goes_out_under_the_seed_s_name_with_its_fields(world: TrainingWorld) -> None:
    record, message = published(trained(world), "events.DeviceRegisteredEvent")
    assert json.loads(message.payload) == {
        "event_id": str(record.event_id),
        "timestamp": record.recorded_at.isoformat().replace("+00:00", "Z"),
        "source_service": "device_registry",
        "device_id": str(record.stream),
        "device_type": "smartphone",
        "capabilities": {
            "ram_mb": 4_096,
            "cpu_cores": 4,
            "compute_score": 12_000,
            "frameworks": ["pytorch"],
            "capabilities": ["federated_learning"],
            "benchmark_id": "matmul-f32-v1",
        },
    }
    assert message.headers["ce-type"] == "ai-village.DeviceRegisteredEvent"
    assert "ce-actor" not in message.headers


def test_a_completed_round_goes_out_under_the_seed_s_name_with_its_fields(world: TrainingWorld) -> None:
    record, message = published(trained(world), "events.TrainingRoundCompletedEvent")
    completed = record.fact().event
    assert json.loads(message.payload) == {
        "event_id": str(record.event_id),
        "timestamp": record.recorded_at.isoformat().replace("+00:00", "Z"),
        "source_service": "federated_learning",
        "round_id": str(record.stream),
        "session_id": str(completed.session_id),
        "participants": [str(device_id) for device_id in completed.participants],
        "model_metrics": {"accuracy": 0.5},
        "privacy_budget_consumed": 0.0,
        "duration_seconds": completed.duration_ms / 1_000,
    }


def test_a_contract_goes_out_under_the_seed_s_name_with_its_fields(world: TrainingWorld) -> None:
    with asked():
        contract = proposed()
        world.log.record(contract)
    with world.database.connect(Role.READER) as connection:
        records = LogReader(connection).after(0).records
    record, _ = published(records, "events.ServiceContractCreatedEvent")
    assert json.loads(message_of(record, "v").payload) == {
        "event_id": str(record.event_id),
        "timestamp": record.recorded_at.isoformat().replace("+00:00", "Z"),
        "source_service": "marketplace",
        "contract_id": str(contract.id),
        "service_type": "compute_burst",
        "provider_id": str(PROVIDER),
        "customer_id": str(CUSTOMER),
        "agreed_price": str(PRICE),
        "sla_terms": {
            "uptime_bp": 9_990, "p95_ms": 500, "max_interrupts_per_h": 2, "window_ms": 600_000, "penalty_bp": 1_000
        },
    }  # fmt: skip


def test_a_harvest_session_goes_out_under_the_seed_s_name_with_its_fields(world: TrainingWorld) -> None:
    session = HarvestSession(
        session_id=uuid4(), device_id=uuid4(), owner_id=uuid4(), number=1, policy=HarvestPolicy(), sensors=[],
        requested_at=NOW,
    )  # fmt: skip
    session.admit([], None, None)
    session.close("stopped", NOW)
    session.reward(uuid4(), 5)
    with asked():
        world.log.record(session)
    with world.database.connect(Role.READER) as connection:
        records = LogReader(connection).after(0).records
    record, message = published(records, "events.HarvestSessionCompletedEvent")
    assert json.loads(message.payload) == {
        "event_id": str(record.event_id),
        "timestamp": record.recorded_at.isoformat().replace("+00:00", "Z"),
        "source_service": "harvest_management",
        "session_id": str(session.id),
        "device_id": str(session.device_id),
        "resources_contributed": {"run_ms": 0, "verified_ms": 0, "samples": 0},
        "quality_score": 1.0,
        "tokens_earned": "5",
    }


def test_every_other_fact_goes_out_for_operators_as_the_log_has_it(world: TrainingWorld) -> None:
    records = trained(world)
    others = [record for record in records if not message_of(record, "v").subject.startswith("events.")]
    assert len(others) == len(records) - 2
    for record in others:
        message = message_of(record, "v")
        assert message.subject == f"log.{record.topic}"
        assert message.payload == record.state


def test_a_fact_of_an_old_version_goes_out_in_the_present_one_and_one_of_a_newer_version_as_it_is(
    world: TrainingWorld,
) -> None:
    with asked():
        world.log.record(Note(note_id=UUID(int=1), text="two words", words=2))
    with world.database.connect(Role.READER) as connection:
        record = LogReader(connection).after(0, 1).records[0]
    now = {"note_id": str(UUID(int=1)), "text": "two words", "words": 2, "class_version": 2}
    assert json.loads(message_of(record, "v").payload) == now
    old = record._replace(state=json.dumps({"note_id": str(UUID(int=1)), "text": "two words"}).encode())
    assert json.loads(message_of(old, "v").payload) == now
    newer = record._replace(state=b'{"class_version":3,"page":1}')
    assert message_of(newer, "v").payload == newer.state
    unknown = record._replace(topic="testing.Note.Burnt")
    assert (message_of(unknown, "v").subject, message_of(unknown, "v").payload) == (
        "log.testing.Note.Burnt",
        record.state,
    )


def test_a_message_by_reference_keeps_everything_but_its_payload(world: TrainingWorld) -> None:
    _, message = published(trained(world), "events.DeviceRegisteredEvent")
    referred = by_reference(message, "a" * 64)
    assert (referred.payload, referred.subject, referred.event_id) == (b"", message.subject, message.event_id)
    assert referred.headers == message.headers | {"ce-dataref": f"/v1/blobs/{'a' * 64}"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("device:1", "device:1"),
        ('a "b" 100%', "a%20%22b%22%20100%25"),
        ("Euro \u20ac \U0001f600", "Euro%20%E2%82%AC%20%F0%9F%98%80"),
        ("a\r\nb", "a%0D%0Ab"),
    ],
)
def test_header_values_are_percent_encoded_as_cloud_events_has_it(text: str, value: str) -> None:
    assert header_value(text) == value


def test_the_committed_document_is_current() -> None:
    committed = asyncapi.DOCUMENT.read_text()
    assert committed == rendered(), f"make it anew: {asyncapi.COMMAND}"


def test_the_document_is_valid_asyncapi_3() -> None:
    schema = json.loads((ASSETS / "asyncapi-3.0.0.json").read_text())
    assert [error.message for error in Draft7Validator(schema).iter_errors(document())] == []


def test_what_goes_out_is_what_the_document_says(world: TrainingWorld) -> None:
    told = document()
    seen = set()
    for record in trained(world):
        message = message_of(record, "v")
        described = told["components"]["messages"][message.subject]
        for part, value in (("payload", json.loads(message.payload)), ("headers", message.headers)):
            schema = {**described[part], "components": told["components"]}
            assert [error.message for error in Draft7Validator(schema).iter_errors(value)] == [], message.subject
        seen.add(message.subject)
    assert len(seen) > 12
