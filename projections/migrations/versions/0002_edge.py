"""The edge's operational tables: spent nonces, login codes, presence. Changed in place; nothing is folded from them."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

UP = """
CREATE SCHEMA IF NOT EXISTS edge;

CREATE TABLE edge.nonces (
    device_id uuid NOT NULL,
    nonce text NOT NULL CHECK (length(nonce) BETWEEN 1 AND 64),
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (device_id, nonce)
);
CREATE INDEX nonces_expiry ON edge.nonces (expires_at);

CREATE TABLE edge.login_codes (
    code_sha256 bytea PRIMARY KEY CHECK (length(code_sha256) = 32),
    role text NOT NULL,
    subject text NOT NULL,
    expires_at timestamptz NOT NULL,
    used_at timestamptz
);
CREATE INDEX login_codes_expiry ON edge.login_codes (expires_at);

CREATE TABLE edge.presence (
    device_id uuid PRIMARY KEY,
    sequence bigint NOT NULL,
    last_seen_at timestamptz NOT NULL,
    state text NOT NULL,
    latency_ms integer
) WITH (fillfactor = 70);

GRANT USAGE ON SCHEMA edge TO village_writer, village_reader;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA edge TO village_writer;
GRANT SELECT ON edge.presence TO village_reader;
"""


def upgrade() -> None:
    op.execute(UP)


def downgrade() -> None:
    op.execute("DROP SCHEMA edge CASCADE")
