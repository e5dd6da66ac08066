"""The scrape as Prometheus reads it, against states of the village that are provoked."""

from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from infrastructure.database import Database
from infrastructure.event_store.flush import LOG_LOCK
from infrastructure.sealing_keys import load_sealing_keys
from infrastructure.subject_keys import KeyEncryptionKeys, SubjectKeyTable
from tests.cli.villages import eventually
from tests.ledger import Ledger
from tests.running import opened
from workers.log_sealer import LogSealer

from .conftest import Edge

LETTER = (
    "INSERT INTO engine.dead_letters (cursor, position, key, poison, error, traceback)"
    " VALUES ('wallets', %s, '1', %s, 'no', '')"
)
SAGA = "INSERT INTO read.sagas VALUES (gen_random_uuid(), %s, %s, '', '', 1, gen_random_uuid(), now(), now(), 1)"


@pytest.fixture
def admin(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


def scraped(edge: Edge) -> dict[str, float]:
    """Every sample of a scrape: `name{label=value}` to its value."""
    return {
        sample.name + "".join(f"{{{name}={value}}}" for name, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(edge.client.get("/metrics").text)
        for sample in family.samples
    }


def test_a_transaction_that_holds_the_log_is_seen_with_its_age_and_who_waits(
    edge: Edge, admin: psycopg.Connection[Any]
) -> None:
    assert scraped(edge)["village_log_stall_seconds"] == 0.0
    writer = Thread(target=lambda: opened(Ledger(edge.log)))
    with admin.transaction():
        admin.execute("SELECT pg_advisory_xact_lock(%s)", (LOG_LOCK,))
        writer.start()
        assert eventually(lambda: scraped(edge)["village_log_lock_waiters"] == 1.0)
        before = scraped(edge)["village_log_stall_seconds"]
        assert 0.0 < before < scraped(edge)["village_log_stall_seconds"]
    writer.join(60)
    found = scraped(edge)
    assert (found["village_log_stall_seconds"], found["village_log_lock_waiters"]) == (0.0, 0.0)
    assert found["village_log_position"] == 1.0


def test_what_is_not_sealed_is_counted_and_its_age_told(edge: Edge, database: Database, tmp_path: Path) -> None:
    for _ in range(3):
        opened(Ledger(edge.log))
    found = scraped(edge)
    assert found["village_log_unsealed_events"] == 3.0
    assert 0.0 < found["village_log_seal_age_seconds"] < 600.0
    sealer = LogSealer(database, lambda: load_sealing_keys(tmp_path, "village.test/log"))
    sealer.run_once()
    sealer.close()
    found = scraped(edge)
    assert (found["village_log_unsealed_events"], found["village_log_seal_age_seconds"]) == (0.0, 0.0)


def test_dead_letters_are_counted_for_every_read_model(edge: Edge, admin: psycopg.Connection[Any]) -> None:
    for position, poison in ((1, True), (2, False), (3, False)):
        admin.execute(LETTER, (position, poison))
    found = scraped(edge)
    assert found["village_dead_letters{kind=poison}{projection=wallets}"] == 1.0
    assert found["village_dead_letters{kind=waiting}{projection=wallets}"] == 2.0
    assert found["village_dead_letters{kind=poison}{projection=devices}"] == 0.0


def test_sagas_are_counted_by_plan_and_state(edge: Edge, admin: psycopg.Connection[Any]) -> None:
    for plan, state in (("reward_training", "running"), ("reward_training", "running"), ("allocate", "parked")):
        admin.execute(SAGA, (plan, state))
    found = scraped(edge)
    assert found["village_sagas{plan=reward_training}{state=running}"] == 2.0
    assert found["village_sagas{plan=allocate}{state=parked}"] == 1.0


def test_keys_of_erased_people_are_counted_until_they_are_destroyed(
    edge: Edge, admin: psycopg.Connection[Any], database: Database, tmp_path: Path
) -> None:
    subject = uuid4()
    admin.execute("INSERT INTO read.subjects VALUES (%s, '', '', now(), 1)", (subject,))
    assert scraped(edge)["village_subject_keys_due"] == 1.0
    SubjectKeyTable(database, KeyEncryptionKeys(tmp_path)).destroy([subject])
    assert scraped(edge)["village_subject_keys_due"] == 0.0


def test_a_consumer_far_behind_is_named_by_readyz(
    edge: Edge, admin: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.edge.health.MAX_LAG_EVENTS", 2)
    for _ in range(3):
        opened(Ledger(edge.log), balance=1)
    for name, position in (("behind", 3), ("near", 4)):
        admin.execute("INSERT INTO engine.cursors (name, position) VALUES (%s, %s)", (name, position))
    answer = edge.client.get("/readyz")
    consumers = answer.json()["checks"][1]
    assert (answer.status_code, consumers["ok"], consumers["behind"]) == (503, False, ["behind"])
    assert consumers["lag_events"] == {"behind": 3, "near": 2}
