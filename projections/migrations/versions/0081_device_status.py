"""Devices have a status: those before were all active."""

from alembic import op

revision = "0081"
down_revision = "0080"
branch_labels = None
depends_on = None

STATUS = """
SET LOCAL ROLE village_projector;
ALTER TABLE read.devices
    ADD COLUMN status        text NOT NULL DEFAULT 'active',
    ADD COLUMN status_reason text NOT NULL DEFAULT '';
ALTER TABLE read.devices ALTER COLUMN status DROP DEFAULT, ALTER COLUMN status_reason DROP DEFAULT;
RESET ROLE;
"""


def upgrade() -> None:
    op.execute(STATUS)


def downgrade() -> None:
    op.execute("ALTER TABLE read.devices DROP COLUMN status_reason, DROP COLUMN status")
