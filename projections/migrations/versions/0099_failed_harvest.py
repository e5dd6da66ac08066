"""Harvest sessions that failed are found by when they did: few of many, and the incident watch asks all the time."""

from alembic import op

revision = "0099"
down_revision = "0098"
branch_labels = None
depends_on = None

FAILED = """
SET ROLE village_projector;
CREATE INDEX harvest_sessions_failed ON read.harvest_sessions (closed_at)
    WHERE state IN ('closed', 'rewarded') AND reason ->> 'kind' IN ('flapping', 'abandoned');
RESET ROLE;
"""


def upgrade() -> None:
    op.execute(FAILED)


def downgrade() -> None:
    raise NotImplementedError("An index that nobody uses may stay.")
