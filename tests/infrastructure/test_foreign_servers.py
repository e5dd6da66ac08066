"""A village on servers of somebody else's, of each Postgres version it is meant for."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from fastapi.testclient import TestClient
from psycopg.conninfo import make_conninfo
from pydantic import SecretStr

from api.edge.principals import Tokens
from cli.compose import api_app
from domain.device_registry.service import DeviceRegistryService
from domain.kernel import new_scope, within
from infrastructure.database import Database, Role, head, migrate, revision
from infrastructure.embedded.postgres import packaged_binaries
from infrastructure.event_store import open_event_log
from infrastructure.keys import load_keys
from infrastructure.settings import Settings
from projections.catalogue import READ_MODELS
from tests.infrastructure.foreign import foreign_postgres
from tests.needs import POSTGRES_15, needs_postgres_15
from workers.projector import Projector


@pytest.fixture(params=[pytest.param(POSTGRES_15, marks=needs_postgres_15), packaged_binaries()], ids=["15", "18"])
def foreign_url(request: pytest.FixtureRequest, short_home: Path) -> Iterator[str]:
    home = short_home / f"foreign-{uuid4().hex[:8]}"
    with foreign_postgres(request.param, home) as url:
        yield url
    shutil.rmtree(home, ignore_errors=True)


def test_a_role_that_is_no_superuser_migrates_records_and_projects(foreign_url: str) -> None:
    migrate(foreign_url)
    assert revision(foreign_url) == head()
    migrate(foreign_url)  # a second time there is nothing to do
    log = open_event_log(foreign_url)
    try:
        with within(new_scope("operator:tests")):
            receipt = DeviceRegistryService(log).issue_claim(
                owner_id=uuid4(), claim_sha256="0" * 64, expires_at=datetime.now(UTC) + timedelta(hours=1)
            )
        assert receipt.position == 1
        with Database(foreign_url) as database:
            assert Projector(database, READ_MODELS).run_once() == 1
            with database.reader.connection() as reader:
                assert reader.execute("SELECT count(*) FROM log.events").fetchone() == (1,)
    finally:
        log.close()


def test_each_role_acts_with_its_own_rights_only(foreign_url: str) -> None:
    migrate(foreign_url)
    forbidden = {
        Role.WRITER: [
            "UPDATE log.events SET actor = 'x'",
            "DELETE FROM log.events",
            "TRUNCATE log.events",
            "CREATE TABLE log.mine (x int)",
            "CREATE TABLE public.mine (x int)",
        ],
        Role.READER: ["DELETE FROM log.events", "INSERT INTO engine.cursors (name) VALUES ('x')"],
        Role.PROJECTOR: ["DELETE FROM log.events", "CREATE TABLE log.mine (x int)"],
    }
    with Database(foreign_url) as database:
        for role, statements in forbidden.items():
            with database.connect(role) as connection:
                assert connection.execute("SELECT current_user").fetchone() == (role.value,)
                assert connection.execute("SHOW timezone").fetchone() == ("UTC",)
                for statement in statements:
                    with pytest.raises(psycopg.errors.InsufficientPrivilege):
                        connection.execute(statement.encode())


def test_the_api_needs_an_account_that_may_write_and_read_and_nothing_else(foreign_url: str, tmp_path: Path) -> None:
    migrate(foreign_url)
    with psycopg.connect(foreign_url, autocommit=True) as owner:
        owner.execute("CREATE ROLE village_api LOGIN PASSWORD 'swordfish' IN ROLE village_writer, village_reader")
    url = make_conninfo(foreign_url, user="village_api", password="swordfish")
    with api_app(Settings(home=tmp_path, database_url=SecretStr(url))) as app, TestClient(app) as client:
        assert client.get("/readyz").json()["ok"] is True
        token = Tokens(load_keys(tmp_path)).issue(role="operator", subject="ada", expires_in=timedelta(hours=1))
        answer = client.post(
            "/v1/device_registry/issue_claim",
            json={"owner_id": str(uuid4())},
            headers={"Authorization": f"Bearer {token}"},
        )
        assert (answer.status_code, answer.json()["position"]) == (200, 1), answer.text
    for role in ("village_projector", "village_archiver", "aivillage"):
        with Database(url).connect(Role.WRITER) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(f"SET ROLE {role}".encode())
    for statement in ("CREATE TABLE public.mine (x int)", "UPDATE log.events SET actor = 'x'", "DROP SCHEMA read"):
        with Database(url).connect(Role.WRITER) as connection:
            connection.execute("SET ROLE NONE")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement.encode())
