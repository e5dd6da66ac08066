"""Devices are asked to measure again, and what that refutes is shown."""

from alembic import op

revision = "0096"
down_revision = "0095"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL ROLE village_projector")
    op.execute(
        "ALTER TABLE read.devices ADD COLUMN remeasure_until timestamptz,"
        " ADD COLUMN remeasure_seed text NOT NULL DEFAULT '', ADD COLUMN disputes jsonb NOT NULL DEFAULT '[]'"
    )
    op.execute("COMMENT ON COLUMN read.devices.disputes IS 'What the last measurement asked for refuted.'")
    op.execute(
        "CREATE INDEX devices_remeasure ON read.devices (remeasure_until, device_id) WHERE remeasure_until IS NOT NULL"
    )
    op.execute("RESET ROLE")


def downgrade() -> None:
    op.execute("ALTER TABLE read.devices DROP COLUMN remeasure_until, DROP COLUMN remeasure_seed, DROP COLUMN disputes")
