"""Harvest: what devices have measured, thinned as it ages; what is watched of a session; sessions as they are read."""

from alembic import op

revision = "0088"
down_revision = "0087"
branch_labels = None
depends_on = None

# One row a session in its device's hands, changed in place: what the fold over its samples has to remember.
WATCHES = """
CREATE TABLE edge.harvest_watches (
    session_id uuid        PRIMARY KEY,
    device_id  uuid        NOT NULL,
    sequence   bigint      NOT NULL,
    heard_at   timestamptz NOT NULL,
    watch      jsonb       NOT NULL
) WITH (fillfactor = 50);
COMMENT ON COLUMN edge.harvest_watches.heard_at IS 'When the village last heard of the device in this session.';
"""

# Appended in the order of time, so that a BRIN index finds what has aged; the key finds a session's.
SAMPLES = """
CREATE TABLE edge.harvest_samples (
    session_id      uuid        NOT NULL,
    sampled_at      timestamptz NOT NULL,
    resolution_s    integer     NOT NULL CHECK (resolution_s IN (0, 60, 3600)),
    samples         integer     NOT NULL,
    battery_percent real,
    battery_temp    real,
    skin_temp       real,
    cpu_temp        real,
    cpu_percent     real,
    memory_percent  real,
    PRIMARY KEY (session_id, resolution_s, sampled_at)
);
CREATE INDEX harvest_samples_age ON edge.harvest_samples USING brin (sampled_at);
COMMENT ON COLUMN edge.harvest_samples.resolution_s IS '0 as measured; else means over so many seconds.';

CREATE TABLE edge.harvest_thinning (
    resolution_s integer     PRIMARY KEY,
    done_until   timestamptz NOT NULL
);
COMMENT ON TABLE edge.harvest_thinning IS 'Up to when samples have been brought to a resolution.';

GRANT SELECT, INSERT, UPDATE, DELETE ON edge.harvest_watches, edge.harvest_samples, edge.harvest_thinning
    TO village_writer;
GRANT SELECT ON edge.harvest_watches, edge.harvest_samples, edge.harvest_thinning TO village_reader;
"""

SESSIONS = """
SET ROLE village_projector;

CREATE TABLE read.harvest_sessions (
    session_id   uuid        PRIMARY KEY,
    device_id    uuid        NOT NULL,
    owner_id     uuid        NOT NULL,
    number       bigint      NOT NULL,
    state        text        NOT NULL,
    reason       jsonb       NOT NULL,
    policy       jsonb       NOT NULL,
    sensors      jsonb       NOT NULL,
    run_ms       bigint      NOT NULL,
    verified_ms  bigint      NOT NULL,
    samples      bigint      NOT NULL,
    trips        bigint      NOT NULL,
    quality_bp   bigint      NOT NULL,
    audit        text        NOT NULL,
    claim_id     uuid,
    earned_grains bigint     NOT NULL,
    requested_at timestamptz NOT NULL,
    changed_at   timestamptz NOT NULL,
    closed_at    timestamptz,
    position     bigint      NOT NULL
) WITH (fillfactor = 70);
CREATE UNIQUE INDEX harvest_sessions_position ON read.harvest_sessions (position);
CREATE INDEX harvest_sessions_device ON read.harvest_sessions (device_id, position);
CREATE INDEX harvest_sessions_owner ON read.harvest_sessions (owner_id, position);
CREATE INDEX harvest_sessions_open ON read.harvest_sessions (state, position)
    WHERE state NOT IN ('rewarded', 'rejected');

RESET ROLE;
"""


def upgrade() -> None:
    op.execute(WATCHES)
    op.execute(SAMPLES)
    op.execute(SESSIONS)


def downgrade() -> None:
    raise NotImplementedError("Read models are folded anew, not downgraded.")
