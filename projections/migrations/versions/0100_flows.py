"""What owners have paid each other, and why two of them were flagged."""

from alembic import op

revision = "0100"
down_revision = "0099"
branch_labels = None
depends_on = None

TABLES = """
SET LOCAL ROLE village_projector;

CREATE TABLE read.flows (
    wallet_id     uuid   NOT NULL,
    partner_id    uuid   NOT NULL,
    gave_grains   bigint NOT NULL,
    got_grains    bigint NOT NULL,
    paid_grains   bigint NOT NULL,
    earned_grains bigint NOT NULL,
    moved_grains  bigint NOT NULL,
    position      bigint NOT NULL,
    PRIMARY KEY (wallet_id, partner_id)
);
CREATE INDEX flows_moved ON read.flows (wallet_id, moved_grains DESC, partner_id);

ALTER TABLE read.dealings
    ADD COLUMN rule        text   NOT NULL DEFAULT '',
    ADD COLUMN low_gave    bigint NOT NULL DEFAULT 0,
    ADD COLUMN high_gave   bigint NOT NULL DEFAULT 0,
    ADD COLUMN low_around  bigint NOT NULL DEFAULT 0,
    ADD COLUMN high_around bigint NOT NULL DEFAULT 0;

RESET ROLE;
"""


def upgrade() -> None:
    op.execute(TABLES)


def downgrade() -> None:
    raise NotImplementedError("Read models are folded anew, not downgraded.")
