"""Receipts of matches, and what two owners have sold each other."""

from alembic import op

revision = "0097"
down_revision = "0096"
branch_labels = None
depends_on = None

TABLES = """
SET LOCAL ROLE village_projector;

CREATE TABLE read.matches (
    request_id        uuid        PRIMARY KEY,
    customer_id       uuid        NOT NULL,
    wish              jsonb       NOT NULL,
    candidates        jsonb       NOT NULL,
    rejected          jsonb       NOT NULL,
    winner            uuid,
    ruleset_hash      text        NOT NULL,
    snapshot_position bigint      NOT NULL,
    asked_at          timestamptz NOT NULL,
    position          bigint      NOT NULL
);
CREATE UNIQUE INDEX matches_position ON read.matches (position);
CREATE INDEX matches_customer ON read.matches (customer_id, position);
CREATE INDEX matches_candidates ON read.matches USING gin (candidates jsonb_path_ops);

CREATE TABLE read.dealings (
    dealing_id  uuid        PRIMARY KEY,
    low_id      uuid        NOT NULL,
    high_id     uuid        NOT NULL,
    trades      bigint      NOT NULL,
    low_grains  bigint      NOT NULL,
    high_grains bigint      NOT NULL,
    flagged     boolean     NOT NULL,
    changed_at  timestamptz NOT NULL,
    position    bigint      NOT NULL
) WITH (fillfactor = 70);
CREATE UNIQUE INDEX dealings_position ON read.dealings (position);
CREATE INDEX dealings_low ON read.dealings (low_id, position);
CREATE INDEX dealings_high ON read.dealings (high_id, position);

RESET ROLE;
"""


def upgrade() -> None:
    op.execute(TABLES)


def downgrade() -> None:
    raise NotImplementedError("Read models are folded anew, not downgraded.")
