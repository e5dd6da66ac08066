"""The newest snapshot of each long stream: a cache of the log that may be emptied at any time."""

from alembic import op

revision = "0070"
down_revision = "0060"
branch_labels = None
depends_on = None

SNAPSHOTS = """
CREATE TABLE engine.snapshots (
    stream         uuid        PRIMARY KEY,
    version        bigint      NOT NULL CHECK (version > 0),
    topic          text        NOT NULL,
    policy_version int         NOT NULL,
    state          bytea       NOT NULL,
    taken_at       timestamptz NOT NULL DEFAULT clock_timestamp()
);
GRANT SELECT, INSERT, UPDATE ON engine.snapshots TO village_writer;
COMMENT ON TABLE engine.snapshots IS 'Aggregates at a version, so that long streams load fast; derived from the log.';
"""


def upgrade() -> None:
    op.execute(SNAPSHOTS)


def downgrade() -> None:
    raise NotImplementedError("Snapshots are taken anew, not downgraded.")
