"""Incidents: what is or was wrong by a rule."""

from alembic import op

revision = "0084"
down_revision = "0083"
branch_labels = None
depends_on = None

INCIDENTS = """
SET LOCAL ROLE village_projector;

CREATE TABLE read.incidents (
    incident_id     uuid             PRIMARY KEY,
    rule            text             NOT NULL,
    subject         text             NOT NULL,
    number          bigint           NOT NULL,
    severity        text             NOT NULL,
    state           text             NOT NULL,
    summary         text             NOT NULL,
    value           double precision NOT NULL,
    limit_value     double precision NOT NULL,
    opened_at       timestamptz      NOT NULL,
    acknowledged_at timestamptz,
    acknowledged_by text             NOT NULL,
    note            text             NOT NULL,
    resolved_at     timestamptz,
    resolved_by     text             NOT NULL,
    reason          text             NOT NULL,
    position        bigint           NOT NULL
);
CREATE UNIQUE INDEX incidents_position ON read.incidents (position);
CREATE UNIQUE INDEX incidents_number ON read.incidents (rule, subject, number);
CREATE INDEX incidents_open ON read.incidents (position) WHERE state <> 'resolved';

RESET ROLE;
"""


def upgrade() -> None:
    op.execute(INCIDENTS)


def downgrade() -> None:
    raise NotImplementedError("Read models are folded anew, not downgraded.")
