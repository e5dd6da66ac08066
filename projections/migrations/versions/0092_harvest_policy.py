"""Offerings say whether the harvest policy of their device holds for them."""

from alembic import op

revision = "0092"
down_revision = "0091"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL ROLE village_projector")
    op.execute("ALTER TABLE read.offerings ADD COLUMN harvest_policy boolean NOT NULL DEFAULT false")
    op.execute("RESET ROLE")


def downgrade() -> None:
    op.execute("ALTER TABLE read.offerings DROP COLUMN harvest_policy")
