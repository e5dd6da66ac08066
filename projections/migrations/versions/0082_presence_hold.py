"""Presence and latency change when the change has lasted: since when it has."""

from alembic import op

revision = "0082"
down_revision = "0081"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "ALTER TABLE edge.presence"
        " ADD COLUMN steady_since timestamptz NOT NULL DEFAULT 'epoch',"
        " ADD COLUMN latency_candidate_ms integer,"
        " ADD COLUMN latency_since timestamptz"
    )
    op.execute("COMMENT ON COLUMN edge.presence.steady_since IS 'Since when heartbeats come without a silence.'")
    op.execute("COMMENT ON COLUMN edge.presence.latency_since IS 'Since when the candidate has been the class.'")


def downgrade() -> None:
    op.execute(
        "ALTER TABLE edge.presence"
        " DROP COLUMN steady_since, DROP COLUMN latency_candidate_ms, DROP COLUMN latency_since"
    )
