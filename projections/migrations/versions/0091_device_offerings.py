"""Offerings by device: what ends when a device is suspended."""

from alembic import op

revision = "0091"
down_revision = "0090"
branch_labels = None
depends_on = None

INDEX = """
SET LOCAL ROLE village_projector;
CREATE INDEX offerings_device ON read.offerings (device_id, offering_id);
RESET ROLE;
"""


def upgrade() -> None:
    op.execute(INDEX)


def downgrade() -> None:
    raise NotImplementedError("Read models are folded anew, not downgraded.")
