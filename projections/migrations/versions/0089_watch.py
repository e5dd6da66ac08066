"""When the village itself was away: what happened then is known of nobody."""

from alembic import op

revision = "0089"
down_revision = "0088"
branch_labels = None
depends_on = None

WATCH = """
CREATE TABLE edge.watch (
    name      text        PRIMARY KEY,
    ticked_at timestamptz NOT NULL
);
CREATE TABLE edge.outages (
    began_at timestamptz PRIMARY KEY,
    ended_at timestamptz NOT NULL CHECK (ended_at > began_at)
);
GRANT SELECT, INSERT, UPDATE ON edge.watch TO village_writer;
GRANT SELECT, INSERT ON edge.outages TO village_writer;
GRANT SELECT ON edge.watch, edge.outages TO village_reader;
"""


def upgrade() -> None:
    op.execute(WATCH)


def downgrade() -> None:
    op.execute("DROP TABLE edge.watch, edge.outages")
