"""Tokens: wallets, accounts, transfers and their legs, reward epochs, claims, and payouts by device."""

from alembic import op

revision = "0020"
down_revision = "0010"
branch_labels = None
depends_on = None

TOKENS = """
SET LOCAL ROLE village_projector;

CREATE TABLE read.wallets (
    wallet_id        uuid        PRIMARY KEY,
    owner_id         uuid        NOT NULL,
    posted_grains    bigint      NOT NULL,
    held_grains      bigint      NOT NULL CHECK (held_grains >= 0),
    available_grains bigint      NOT NULL CHECK (available_grains >= 0),
    opened_at        timestamptz NOT NULL,
    position         bigint      NOT NULL
) WITH (fillfactor = 70);
CREATE UNIQUE INDEX wallets_owner ON read.wallets (owner_id);

CREATE TABLE read.accounts (
    account_id     uuid   PRIMARY KEY,
    name           text,
    balance_grains bigint NOT NULL,
    transfers      bigint NOT NULL,
    position       bigint NOT NULL
) WITH (fillfactor = 70);
COMMENT ON TABLE read.accounts IS 'The balance of every account, wallets and system accounts, from transfers alone.';

CREATE TABLE read.transfers (
    transfer_id    uuid        PRIMARY KEY,
    kind           text        NOT NULL,
    state          text        NOT NULL,
    reason         text,
    memo           text        NOT NULL,
    moved_grains   bigint      NOT NULL,
    legs           jsonb       NOT NULL,
    cause_event_id uuid,
    posted_at      timestamptz NOT NULL,
    position       bigint      NOT NULL
);
CREATE UNIQUE INDEX transfers_position ON read.transfers (position);

CREATE TABLE read.transfer_legs (
    account_id  uuid        NOT NULL,
    position    bigint      NOT NULL,
    transfer_id uuid        NOT NULL,
    kind        text        NOT NULL,
    grains      bigint      NOT NULL CHECK (grains <> 0),
    posted_at   timestamptz NOT NULL,
    PRIMARY KEY (account_id, position)
);

CREATE TABLE read.epochs (
    epoch_id        uuid        PRIMARY KEY,
    number          bigint      NOT NULL,
    budget_grains   bigint      NOT NULL,
    reserved_grains bigint      NOT NULL CHECK (reserved_grains <= budget_grains),
    state           text        NOT NULL,
    starts_at       timestamptz NOT NULL,
    ends_at         timestamptz NOT NULL,
    position        bigint      NOT NULL
) WITH (fillfactor = 70);
CREATE UNIQUE INDEX epochs_number ON read.epochs (number);

CREATE TABLE read.reward_claims (
    claim_id             uuid        PRIMARY KEY,
    device_id            uuid        NOT NULL,
    owner_id             uuid        NOT NULL,
    wallet_id            uuid        NOT NULL,
    activity_type        text        NOT NULL,
    activity_id          uuid        NOT NULL,
    verified_ms          bigint      NOT NULL,
    quality_bp           bigint      NOT NULL,
    multiplier_bp        bigint      NOT NULL,
    rate_grains_per_hour bigint      NOT NULL,
    rule_version         text        NOT NULL,
    carry                bigint      NOT NULL,
    grains               bigint      NOT NULL,
    state                text        NOT NULL,
    transfer_id          uuid,
    epoch_id             uuid,
    accrued_at           timestamptz NOT NULL,
    posted_at            timestamptz,
    position             bigint      NOT NULL
) WITH (fillfactor = 80);
CREATE UNIQUE INDEX reward_claims_position ON read.reward_claims (position);
CREATE INDEX reward_claims_device ON read.reward_claims (device_id, position);
CREATE INDEX reward_claims_owner ON read.reward_claims (owner_id, position);
CREATE INDEX reward_claims_activity ON read.reward_claims (activity_id, position);
CREATE INDEX reward_claims_pending ON read.reward_claims (position) WHERE state = 'pending';

CREATE TABLE read.device_payouts (
    device_id      uuid   PRIMARY KEY,
    owner_id       uuid   NOT NULL,
    claims         bigint NOT NULL,
    paid_grains    bigint NOT NULL,
    pending_grains bigint NOT NULL CHECK (pending_grains >= 0),
    position       bigint NOT NULL
) WITH (fillfactor = 70);
CREATE INDEX device_payouts_owner ON read.device_payouts (owner_id, device_id);

RESET ROLE;
"""

TABLES = ("device_payouts", "reward_claims", "epochs", "transfer_legs", "transfers", "accounts", "wallets")


def upgrade() -> None:
    op.execute(TOKENS)


def downgrade() -> None:
    for table in TABLES:
        op.execute(f"DROP TABLE read.{table}")
