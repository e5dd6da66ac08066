"""Receipts say by which rules they were decided, and up to where devices were known."""

from alembic import op

revision = "0098"
down_revision = "0097"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL ROLE village_projector")
    op.execute("ALTER TABLE read.matches ADD COLUMN rules bigint NOT NULL DEFAULT 1")
    op.execute("ALTER TABLE read.matches ADD COLUMN known_at jsonb NOT NULL DEFAULT '{}'")
    op.execute("RESET ROLE")


def downgrade() -> None:
    op.execute("ALTER TABLE read.matches DROP COLUMN rules, DROP COLUMN known_at")
