"""Privacy budgets, by whom they are of."""

from alembic import op

revision = "0087"
down_revision = "0086"
branch_labels = None
depends_on = None

BUDGETS = """
SET LOCAL ROLE village_projector;

CREATE TABLE read.privacy_budgets (
    budget_id       uuid        PRIMARY KEY,
    subject_id      uuid        NOT NULL,
    purpose         text        NOT NULL,
    delta_pico      bigint      NOT NULL,
    granted_micro   bigint      NOT NULL,
    reserved_micro  bigint      NOT NULL,
    spent_micro     bigint      NOT NULL,
    remaining_micro bigint      NOT NULL CHECK (remaining_micro >= 0),
    state           text        NOT NULL,
    granted_at      timestamptz NOT NULL,
    position        bigint      NOT NULL
);
CREATE UNIQUE INDEX privacy_budgets_subject ON read.privacy_budgets (subject_id, purpose);

RESET ROLE;
"""


def upgrade() -> None:
    op.execute(BUDGETS)


def downgrade() -> None:
    op.execute("DROP TABLE read.privacy_budgets")
