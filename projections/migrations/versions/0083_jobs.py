"""Jobs: the work under contracts."""

from alembic import op

revision = "0083"
down_revision = "0082"
branch_labels = None
depends_on = None

JOBS = """
SET LOCAL ROLE village_projector;

CREATE TABLE read.jobs (
    job_id       uuid        PRIMARY KEY,
    contract_id  uuid        NOT NULL,
    device_id    uuid        NOT NULL,
    provider_id  uuid        NOT NULL,
    customer_id  uuid        NOT NULL,
    spec         jsonb       NOT NULL,
    state        text        NOT NULL,
    reason       text        NOT NULL,
    used_ms      bigint      NOT NULL CHECK (used_ms >= 0),
    wall_ms      bigint      NOT NULL,
    result_hash  text,
    deadline_at  timestamptz NOT NULL,
    submitted_at timestamptz NOT NULL,
    ended_at     timestamptz,
    position     bigint      NOT NULL
) WITH (fillfactor = 70);
CREATE UNIQUE INDEX jobs_position ON read.jobs (position);
CREATE INDEX jobs_contract ON read.jobs (contract_id, position);
CREATE INDEX jobs_customer ON read.jobs (customer_id, position);
CREATE INDEX jobs_provider ON read.jobs (provider_id, position);
CREATE INDEX jobs_open ON read.jobs (device_id, position) WHERE state = 'open';

RESET ROLE;
"""


def upgrade() -> None:
    op.execute(JOBS)


def downgrade() -> None:
    raise NotImplementedError("Read models are folded anew, not downgraded.")
