"""Devices bring evidence of what they have measured of themselves, and are found by it."""

from alembic import op

revision = "0093"
down_revision = "0092"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL ROLE village_projector")
    op.execute(
        "ALTER TABLE read.devices ADD COLUMN benchmark jsonb NOT NULL DEFAULT '{}', ADD COLUMN matrix_mflops bigint,"
        " ADD COLUMN memory_mb_s bigint, ADD COLUMN disk_mb_s bigint"
    )
    op.execute("COMMENT ON COLUMN read.devices.benchmark IS 'Signed evidence: cores, MiB, and each method''s result.'")
    op.execute("RESET ROLE")


def downgrade() -> None:
    op.execute(
        "ALTER TABLE read.devices DROP COLUMN benchmark, DROP COLUMN matrix_mflops, DROP COLUMN memory_mb_s,"
        " DROP COLUMN disk_mb_s"
    )
