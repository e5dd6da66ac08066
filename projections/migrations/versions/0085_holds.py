"""Holds: what wallets keep back, found by the instant they expire."""

from alembic import op

revision = "0085"
down_revision = "0084"
branch_labels = None
depends_on = None

HOLDS = """
SET LOCAL ROLE village_projector;

CREATE TABLE read.holds (
    wallet_id       uuid        NOT NULL,
    hold_id         uuid        NOT NULL,
    grains          bigint      NOT NULL CHECK (grains > 0),
    captured_grains bigint      NOT NULL,
    expires_at      timestamptz NOT NULL,
    purpose         text        NOT NULL,
    state           text        NOT NULL,
    held_at         timestamptz NOT NULL,
    ended_at        timestamptz,
    position        bigint      NOT NULL,
    PRIMARY KEY (wallet_id, hold_id)
);
CREATE INDEX holds_due ON read.holds (expires_at, position) WHERE state = 'open';
CREATE INDEX holds_position ON read.holds (position);

RESET ROLE;
"""


def upgrade() -> None:
    op.execute(HOLDS)


def downgrade() -> None:
    op.execute("DROP TABLE read.holds")
