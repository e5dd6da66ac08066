"""Bursts: the same work on several devices at once."""

from alembic import op

revision = "0090"
down_revision = "0089"
branch_labels = None
depends_on = None

BURSTS = """
SET LOCAL ROLE village_projector;

CREATE TABLE read.bursts (
    burst_id     uuid        PRIMARY KEY,
    customer_id  uuid        NOT NULL,
    nodes        jsonb       NOT NULL,
    price_grains bigint      NOT NULL,
    state        text        NOT NULL,
    reason       text        NOT NULL,
    requested_at timestamptz NOT NULL,
    decided_at   timestamptz,
    position     bigint      NOT NULL
) WITH (fillfactor = 70);
CREATE UNIQUE INDEX bursts_position ON read.bursts (position);
CREATE INDEX bursts_customer ON read.bursts (customer_id, position);

RESET ROLE;
"""


def upgrade() -> None:
    op.execute(BURSTS)


def downgrade() -> None:
    raise NotImplementedError("Read models are folded anew, not downgraded.")
