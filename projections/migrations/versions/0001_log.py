"""The log, the cursors and the roles.

The writer may only INSERT and SELECT on the log, so a mistake or an intruder with its rights can add but never
alter. The projector owns `read` and `scratch` and nothing else. Nobody but the migrating user has rights of DDL on
the log.
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ROLES = ("village_writer", "village_reader", "village_projector")

LOG = """
CREATE SCHEMA log;
GRANT USAGE ON SCHEMA log TO village_writer, village_reader, village_projector;

CREATE TABLE log.events (
    position        bigint      NOT NULL,
    stream          uuid        NOT NULL,
    version         bigint      NOT NULL CHECK (version > 0),
    topic           text        NOT NULL,
    state           bytea,                  -- JSON; moved away when its stream is archived, the row stays
    event_id        uuid        NOT NULL,
    command_id      uuid        NOT NULL,
    correlation_id  uuid        NOT NULL,
    causation_id    uuid,
    actor           text        NOT NULL,
    recorded_at     timestamptz NOT NULL,
    PRIMARY KEY (stream, version)
) WITH (autovacuum_vacuum_insert_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
CREATE UNIQUE INDEX events_position ON log.events (position);
CREATE INDEX events_correlation ON log.events (correlation_id, position);
GRANT SELECT, INSERT ON log.events TO village_writer;
GRANT SELECT ON log.events TO village_reader, village_projector;
COMMENT ON TABLE log.events IS 'Every fact of the village, append-only, positions gapless from 1.';

CREATE TABLE log.commands (
    actor       text        NOT NULL,
    method      text        NOT NULL,
    key         text        NOT NULL,
    body_hash   bytea       NOT NULL,
    answer      bytea       NOT NULL,
    position    bigint      NOT NULL,
    recorded_at timestamptz NOT NULL,
    PRIMARY KEY (actor, method, key)
);
GRANT SELECT, INSERT ON log.commands TO village_writer;
COMMENT ON TABLE log.commands IS 'First answers by idempotency key, recorded with the command they answer.';

CREATE TABLE log.hashes (
    level smallint NOT NULL, -- 0: hash of a fact; 8, 16, ...: root of a complete subtree of 2^level facts
    index bigint   NOT NULL,
    hash  bytea    NOT NULL CHECK (length(hash) = 32),
    PRIMARY KEY (level, index)
);
GRANT SELECT, INSERT ON log.hashes TO village_writer;
GRANT SELECT ON log.hashes TO village_reader;
COMMENT ON TABLE log.hashes IS 'Merkle tree (RFC 6962) over log.events, append-only; position p is leaf p-1.';

CREATE TABLE log.checkpoints (
    size      bigint      PRIMARY KEY CHECK (size > 0),
    note      text        NOT NULL, -- C2SP signed note
    sealed_at timestamptz NOT NULL
);
GRANT SELECT, INSERT ON log.checkpoints TO village_writer;
GRANT SELECT ON log.checkpoints TO village_reader;
COMMENT ON TABLE log.checkpoints IS 'Signed roots of the Merkle tree, append-only.';

CREATE VIEW log.readable AS
    SELECT position, stream, version, topic, convert_from(state, 'UTF8')::jsonb AS state, actor, recorded_at,
           event_id, command_id, correlation_id, causation_id
    FROM log.events;
GRANT SELECT ON log.readable TO village_reader;
COMMENT ON VIEW log.readable IS 'The log for people with a SQL prompt.';
"""

ENGINE = """
CREATE SCHEMA engine;
GRANT USAGE ON SCHEMA engine TO village_writer, village_reader, village_projector;

CREATE TABLE engine.cursors (
    name         text        NOT NULL,
    partition    int         NOT NULL DEFAULT 0,
    position     bigint      NOT NULL DEFAULT 0 CHECK (position >= 0),
    version      int         NOT NULL DEFAULT 1,
    owner        text,                           -- the worker that holds the lease, until leased_until
    fence        bigint      NOT NULL DEFAULT 0, -- rises with every new owner; a batch must show it
    leased_until timestamptz NOT NULL DEFAULT 'epoch',
    rebuilt_at   bigint      NOT NULL DEFAULT 0, -- position of the newest request for a rebuild that was obeyed
    updated_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (name, partition)
) WITH (fillfactor = 50);
GRANT SELECT, INSERT, UPDATE ON engine.cursors TO village_writer, village_projector;
GRANT DELETE ON engine.cursors TO village_projector;
GRANT SELECT ON engine.cursors TO village_reader;
COMMENT ON TABLE engine.cursors IS 'How far each consumer of the log has come; moved by compare-and-set only.';

CREATE TABLE engine.workers (
    owner   text PRIMARY KEY,
    seen_at timestamptz NOT NULL
) WITH (fillfactor = 50);
GRANT SELECT, INSERT, UPDATE, DELETE ON engine.workers TO village_projector;
GRANT SELECT ON engine.workers TO village_reader;
COMMENT ON TABLE engine.workers IS 'Projector processes that share the partitions of the read models.';

CREATE TABLE engine.dead_letters (
    cursor     text        NOT NULL,
    position   bigint      NOT NULL,
    key        text        NOT NULL, -- the row held back, as JSON
    poison     boolean     NOT NULL, -- the fact that failed; the others wait behind it
    error      text        NOT NULL,
    traceback  text        NOT NULL,
    tried_at   bigint      NOT NULL DEFAULT 0, -- position of the newest retry that was obeyed
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (cursor, key, position)
);
GRANT SELECT, INSERT, UPDATE, DELETE ON engine.dead_letters TO village_projector;
GRANT SELECT ON engine.dead_letters TO village_reader;
COMMENT ON TABLE engine.dead_letters IS 'Facts a read model could not fold, and those of the same row behind them.';
"""

READ = """
CREATE SCHEMA read AUTHORIZATION village_projector;
CREATE SCHEMA scratch AUTHORIZATION village_projector;
GRANT USAGE ON SCHEMA read TO village_reader, village_writer;
ALTER DEFAULT PRIVILEGES FOR ROLE village_projector IN SCHEMA read
    GRANT SELECT ON TABLES TO village_reader, village_writer;

SET LOCAL ROLE village_projector;
CREATE TABLE read.deadlines (
    token    uuid PRIMARY KEY,
    saga_id  uuid        NOT NULL,
    kind     text        NOT NULL,
    due_at   timestamptz NOT NULL,
    elapsed  boolean     NOT NULL
);
CREATE INDEX deadlines_due ON read.deadlines (due_at) WHERE NOT elapsed;

CREATE TABLE read.projection_controls (
    projection text PRIMARY KEY,
    paused     boolean NOT NULL,
    rebuild_at bigint  NOT NULL, -- position of the newest request
    retried_at jsonb   NOT NULL, -- position of the newest request by row key
    skipped    jsonb   NOT NULL  -- [position, row key] of the facts left out for good
);
RESET ROLE;
"""


def upgrade() -> None:
    for role in ROLES:
        op.execute(f"""
            DO $$ BEGIN
                IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}') THEN CREATE ROLE {role} NOLOGIN; END IF;
            EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
            END $$""")
        op.execute(f"""
            DO $$ BEGIN
                -- From Postgres 16 on, who makes a role may not act as it until that is granted too.
                IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
                    EXECUTE format('GRANT {role} TO %I', current_user);
                END IF;
            END $$""")
    for statements in (LOG, ENGINE, READ):
        op.execute(statements)


def downgrade() -> None:
    raise NotImplementedError("The log is append-only: restore a backup instead.")
