"""What each role may do to the log: add and read for the writer, read for the others, alter for nobody."""

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege

from infrastructure.database import Database, Role
from tests.ledger import Ledger
from tests.running import names, opened

INSERT = (
    "INSERT INTO log.events SELECT position + 1, stream, version + 1, topic, state, gen_random_uuid(), command_id,"
    " correlation_id, causation_id, actor, recorded_at FROM log.events"
)
ALTERING = [
    "UPDATE log.events SET actor = 'somebody else'",
    "DELETE FROM log.events",
    "TRUNCATE log.events",
    "UPDATE log.commands SET answer = ''",
    "DELETE FROM log.commands",
    "TRUNCATE log.commands",
    "SELECT 1 FROM log.events FOR UPDATE",
    "LOCK TABLE log.events IN ACCESS EXCLUSIVE MODE",
    "DROP TABLE log.events",
    "DROP TABLE log.events CASCADE",
    "DROP SCHEMA log CASCADE",
    "ALTER TABLE log.events DROP COLUMN actor",
    "ALTER TABLE log.events DISABLE TRIGGER ALL",
    "ALTER TABLE log.events OWNER TO village_writer",
    "CREATE INDEX ON log.events (actor)",
    "CREATE TABLE log.more (a int)",
    "CREATE TABLE engine.more (a int)",
    "CREATE SCHEMA more",
    "CREATE RULE r AS ON INSERT TO log.events DO INSTEAD NOTHING",
    "CREATE TRIGGER t BEFORE INSERT ON log.events EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "DELETE FROM engine.cursors",
    "TRUNCATE engine.cursors",
    "DROP TABLE engine.cursors",
]
ADDING = [
    INSERT,
    "INSERT INTO log.commands VALUES ('a', 'm', 'k', '', '', 1, now())",
    "COPY log.events FROM STDIN",
]


@pytest.fixture
def seeded(database: Database, ledger: Ledger) -> Database:
    opened(ledger)
    with database.connect(Role.WRITER) as connection:
        connection.execute("INSERT INTO engine.cursors (name) VALUES ('reader')")
        connection.execute("INSERT INTO log.commands VALUES ('ann', 'm', 'k', '', '', 1, now())")
    return database


def refused(database: Database, role: Role, statements: list[str]) -> list[str]:
    """The statements that were not refused for want of rights."""
    allowed = []
    with database.connect(role, autocommit=False) as connection:
        for statement in statements:
            try:
                connection.execute(statement)
                allowed.append(statement)
            except InsufficientPrivilege:
                pass
            except psycopg.errors.DuplicateTable:
                allowed.append(statement)
            connection.rollback()
    return allowed


def test_the_writer_can_add_to_the_log_and_alter_nothing_in_it(seeded: Database, database_url: str) -> None:
    assert refused(seeded, Role.WRITER, ALTERING) == []
    assert refused(seeded, Role.WRITER, ADDING[:2]) == ADDING[:2]
    assert names(database_url) == ["Opened"]


def test_the_reader_can_write_nothing(seeded: Database) -> None:
    moving = ["UPDATE engine.cursors SET position = 1", "INSERT INTO engine.cursors (name) VALUES ('x')"]
    assert refused(seeded, Role.READER, [*ALTERING, *ADDING, *moving, "SELECT * FROM log.commands"]) == []


def test_the_projector_moves_cursors_and_writes_nothing_to_the_log(seeded: Database) -> None:
    assert refused(seeded, Role.PROJECTOR, [*ALTERING[:-3], *ADDING]) == []
    moving = ["UPDATE engine.cursors SET position = 1 WHERE name = 'reader' AND position = 0"]
    assert refused(seeded, Role.PROJECTOR, moving) == moving


@pytest.mark.parametrize("role", [Role.WRITER, Role.READER, Role.PROJECTOR])
def test_no_role_can_grant_itself_more(seeded: Database, role: Role) -> None:
    with seeded.connect(role) as connection:
        # Postgres answers this with a warning.
        connection.execute("GRANT ALL ON log.events TO village_writer, village_reader, village_projector")
    assert refused(seeded, role, ["UPDATE log.events SET actor = 'somebody else'"]) == []


@pytest.mark.parametrize("role", [Role.WRITER, Role.READER, Role.PROJECTOR])
def test_every_role_reads_the_log_and_none_creates_in_the_public_schema(seeded: Database, role: Role) -> None:
    with seeded.connect(role) as connection:
        assert connection.execute("SELECT count(*) FROM log.events").fetchone() == (1,)
    assert refused(seeded, role, ["CREATE TABLE public.more (a int)"]) == []


@pytest.mark.parametrize("role", list(Role))
def test_no_role_is_a_superuser_or_may_make_roles_or_databases(seeded: Database, role: Role) -> None:
    with seeded.connect(Role.READER) as connection:
        row = connection.execute(
            "SELECT rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls, rolcanlogin FROM pg_roles"
            " WHERE rolname = %s",
            (role.value,),
        ).fetchone()
    assert row == (False,) * 6
