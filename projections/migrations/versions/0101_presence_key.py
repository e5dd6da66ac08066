"""A device's new signing key begins a new sequence of heartbeats."""

from alembic import op

revision = "0101"
down_revision = "0100"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE edge.presence ADD COLUMN key_number integer NOT NULL DEFAULT 0")
    op.execute("COMMENT ON COLUMN edge.presence.key_number IS 'How often the device had changed the key it beat with.'")


def downgrade() -> None:
    op.execute("ALTER TABLE edge.presence DROP COLUMN key_number")
