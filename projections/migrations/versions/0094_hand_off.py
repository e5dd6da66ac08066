"""Contracts name the receipt they were found by, and the contract that goes on with them."""

from alembic import op

revision = "0094"
down_revision = "0093"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL ROLE village_projector")
    op.execute("ALTER TABLE read.contracts ADD COLUMN request_id uuid, ADD COLUMN handed_to uuid")
    op.execute(
        "CREATE INDEX contracts_movable ON read.contracts (contract_id)"
        " WHERE state = 'active' AND request_id IS NOT NULL"
    )
    op.execute("RESET ROLE")


def downgrade() -> None:
    op.execute("ALTER TABLE read.contracts DROP COLUMN request_id, DROP COLUMN handed_to")
