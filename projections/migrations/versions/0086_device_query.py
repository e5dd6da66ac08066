"""Devices are found by an index that decides every number in itself, in the order they are answered.

The index of tags goes: as a bitmap of all that have a common tag it took a hundred times as long as looking at the few
devices that the numbers leave.
"""

from alembic import op

revision = "0086"
down_revision = "0085"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL ROLE village_projector")
    op.execute("DROP INDEX read.devices_online, read.devices_tags")
    op.execute(
        "CREATE INDEX devices_matching ON read.devices"
        " (region, device_id, ram_mb, cpu_cores, compute_score, latency_ms)"
        " WHERE status = 'active' AND presence = 'online'"
    )
    op.execute("RESET ROLE")


def downgrade() -> None:
    op.execute("DROP INDEX read.devices_matching")
    op.execute(
        "CREATE INDEX devices_tags ON read.devices USING gin (frameworks jsonb_path_ops, capabilities jsonb_path_ops)"
    )
    op.execute("CREATE INDEX devices_online ON read.devices (region, compute_score) WHERE presence = 'online'")
