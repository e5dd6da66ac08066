"""Devices: the read model, and the latency class beside the presence of each."""

from alembic import op

revision = "0010"
down_revision = "0002"
branch_labels = None
depends_on = None

DEVICES = """
SET LOCAL ROLE village_projector;

CREATE TABLE read.devices (
    device_id     uuid        PRIMARY KEY,
    owner_id      uuid        NOT NULL,
    device_type   text        NOT NULL,
    region        text        NOT NULL,
    ed25519_pub   text        NOT NULL,
    x25519_pub    text        NOT NULL,
    ram_mb        bigint      NOT NULL,
    cpu_cores     bigint      NOT NULL,
    compute_score bigint      NOT NULL,
    frameworks    jsonb       NOT NULL,
    capabilities  jsonb       NOT NULL,
    benchmark_id  text        NOT NULL,
    presence      text        NOT NULL,
    seen_at       timestamptz,
    latency_ms    bigint,
    reputation    jsonb       NOT NULL,
    evidence      jsonb       NOT NULL,
    enrolled_at   timestamptz NOT NULL,
    position      bigint      NOT NULL
) WITH (fillfactor = 80);
CREATE INDEX devices_online ON read.devices (region, compute_score) WHERE presence = 'online';
CREATE INDEX devices_tags ON read.devices USING gin (frameworks jsonb_path_ops, capabilities jsonb_path_ops);
CREATE INDEX devices_owner ON read.devices (owner_id, device_id);

RESET ROLE;
"""

# Without an index: heartbeats change these rows all the time, and stay cheap as long as no index has to follow.
PRESENCE = """
ALTER TABLE edge.presence ADD COLUMN latency_class_ms integer;
COMMENT ON COLUMN edge.presence.state IS
    'online, degraded or offline as the log says; unsettled while a transition is being recorded.';
COMMENT ON COLUMN edge.presence.latency_ms IS 'Moving average of what the device has measured.';
COMMENT ON COLUMN edge.presence.latency_class_ms IS 'The latency class last recorded.';
"""


def upgrade() -> None:
    op.execute(DEVICES)
    op.execute(PRESENCE)


def downgrade() -> None:
    op.execute("ALTER TABLE edge.presence DROP COLUMN latency_class_ms")
    op.execute("DROP TABLE read.devices")
