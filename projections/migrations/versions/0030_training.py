"""Training: sessions, rounds, and what each device did in a round."""

from alembic import op

revision = "0030"
down_revision = "0020"
branch_labels = None
depends_on = None

TRAINING = """
SET LOCAL ROLE village_projector;

CREATE TABLE read.training_sessions (
    session_id       uuid        PRIMARY KEY,
    owner_id         uuid        NOT NULL,
    name             text        NOT NULL,
    state            text        NOT NULL,
    strategy         text        NOT NULL,
    rounds           bigint      NOT NULL,
    current_round    bigint      NOT NULL,
    completed_rounds bigint      NOT NULL,
    model_hash       text        NOT NULL,
    evaluation_hash  text,
    manifest         jsonb       NOT NULL,
    round_policy     jsonb       NOT NULL,
    training         jsonb       NOT NULL,
    criteria         jsonb       NOT NULL,
    reason           text,
    created_at       timestamptz NOT NULL,
    ended_at         timestamptz,
    created_position bigint      NOT NULL,
    position         bigint      NOT NULL
) WITH (fillfactor = 80);
CREATE UNIQUE INDEX training_sessions_newest ON read.training_sessions (created_position);
CREATE INDEX training_sessions_owner ON read.training_sessions (owner_id, created_position);

CREATE TABLE read.training_rounds (
    round_id          uuid        PRIMARY KEY,
    session_id        uuid        NOT NULL,
    owner_id          uuid        NOT NULL,
    number            bigint      NOT NULL,
    state             text        NOT NULL,
    base_model_hash   text        NOT NULL,
    model_hash        text,
    policy            jsonb       NOT NULL,
    selected          bigint      NOT NULL,
    accepted          bigint      NOT NULL,
    rejected          bigint      NOT NULL,
    dropped           bigint      NOT NULL,
    participants      bigint      NOT NULL,
    snapshot_position bigint      NOT NULL,
    ruleset_hash      text        NOT NULL,
    refused           jsonb       NOT NULL,
    metrics           jsonb       NOT NULL,
    clipped           bigint,
    reason            text,
    opened_at         timestamptz NOT NULL,
    deadline_at       timestamptz NOT NULL,
    completed_at      timestamptz,
    duration_ms       bigint,
    position          bigint      NOT NULL
) WITH (fillfactor = 70);
CREATE UNIQUE INDEX training_rounds_number ON read.training_rounds (session_id, number);

CREATE TABLE read.round_participants (
    round_id  uuid             NOT NULL,
    device_id uuid             NOT NULL,
    state     text             NOT NULL,
    examples  bigint,
    train_ms  bigint,
    norm      double precision,
    blob_hash text,
    reason    text,
    position  bigint           NOT NULL,
    PRIMARY KEY (round_id, device_id)
) WITH (fillfactor = 70);
CREATE INDEX round_participants_device ON read.round_participants (device_id, state);

RESET ROLE;
"""


def upgrade() -> None:
    op.execute(TRAINING)


def downgrade() -> None:
    op.execute("DROP TABLE read.round_participants, read.training_rounds, read.training_sessions")
