"""How every saga stands."""

from alembic import op

revision = "0060"
down_revision = "0050"
branch_labels = None
depends_on = None

SAGAS = """
SET LOCAL ROLE village_projector;
CREATE TABLE read.sagas (
    saga_id        uuid        PRIMARY KEY,
    kind           text        NOT NULL,
    state          text        NOT NULL,
    step           text        NOT NULL,
    reason         text        NOT NULL,
    steps          bigint      NOT NULL,
    correlation_id uuid        NOT NULL,
    started_at     timestamptz NOT NULL,
    updated_at     timestamptz NOT NULL,
    position       bigint      NOT NULL
);
CREATE INDEX sagas_position ON read.sagas (position);
CREATE INDEX sagas_unfinished ON read.sagas (state, position) WHERE state NOT IN ('completed', 'compensated');
RESET ROLE;
"""


def upgrade() -> None:
    op.execute(SAGAS)


def downgrade() -> None:
    raise NotImplementedError("Read models are folded anew, not downgraded.")
