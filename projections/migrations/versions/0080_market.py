"""The market: what is offered, and contracts."""

from alembic import op

revision = "0080"
down_revision = "0073"
branch_labels = None
depends_on = None

MARKET = """
SET LOCAL ROLE village_projector;

CREATE TABLE read.offerings (
    offering_id           uuid        PRIMARY KEY,
    provider_id           uuid        NOT NULL,
    device_id             uuid        NOT NULL,
    service_type          text        NOT NULL,
    region                text        NOT NULL,
    ram_mb                bigint      NOT NULL,
    cpu_cores             bigint      NOT NULL,
    compute_score         bigint      NOT NULL,
    capacity              bigint      NOT NULL,
    reserved              bigint      NOT NULL CHECK (reserved BETWEEN 0 AND capacity),
    price_grains_per_hour bigint      NOT NULL,
    sla                   jsonb       NOT NULL,
    state                 text        NOT NULL,
    valid_until           timestamptz NOT NULL,
    published_at          timestamptz NOT NULL,
    position              bigint      NOT NULL
) WITH (fillfactor = 70);
CREATE UNIQUE INDEX offerings_position ON read.offerings (position);
CREATE INDEX offerings_provider ON read.offerings (provider_id, position);
CREATE INDEX offerings_open ON read.offerings (service_type, region, position) WHERE state = 'open';

CREATE TABLE read.contracts (
    contract_id           uuid        PRIMARY KEY,
    offering_id           uuid        NOT NULL,
    device_id             uuid        NOT NULL,
    service_type          text        NOT NULL,
    provider_id           uuid        NOT NULL,
    customer_id           uuid        NOT NULL,
    units                 bigint      NOT NULL,
    duration_ms           bigint      NOT NULL,
    price_grains_per_hour bigint      NOT NULL,
    agreed_price          bigint      NOT NULL,
    sla                   jsonb       NOT NULL,
    state                 text        NOT NULL,
    outcome               text,
    reason                text        NOT NULL,
    disputed              boolean     NOT NULL,
    used_ms               bigint      NOT NULL,
    windows               bigint      NOT NULL,
    credit_grains         bigint      NOT NULL,
    charged_grains        bigint      NOT NULL CHECK (charged_grains + released_grains <= agreed_price),
    fee_grains            bigint      NOT NULL,
    penalty_grains        bigint      NOT NULL,
    provider_grains       bigint      NOT NULL CHECK (fee_grains + penalty_grains + provider_grains = charged_grains),
    released_grains       bigint      NOT NULL,
    hold_id               uuid,
    transfer_id           uuid,
    proposed_at           timestamptz NOT NULL,
    deadline_at           timestamptz NOT NULL,
    started_at            timestamptz,
    ended_at              timestamptz,
    settled_at            timestamptz,
    position              bigint      NOT NULL
) WITH (fillfactor = 70);
CREATE UNIQUE INDEX contracts_position ON read.contracts (position);
CREATE INDEX contracts_provider ON read.contracts (provider_id, position);
CREATE INDEX contracts_customer ON read.contracts (customer_id, position);
CREATE INDEX contracts_offering ON read.contracts (offering_id, position);
CREATE INDEX contracts_unsettled ON read.contracts (state, position) WHERE state <> 'settled';

RESET ROLE;
"""


def upgrade() -> None:
    op.execute(MARKET)


def downgrade() -> None:
    raise NotImplementedError("Read models are folded anew, not downgraded.")
