"""The bus: what consumers have handled, what nobody could handle, and how the relay is."""

from alembic import op

revision = "0050"
down_revision = "0030"
branch_labels = None
depends_on = None

BUS = """
CREATE TABLE engine.bus_inbox (
    consumer   text        NOT NULL,
    event_id   uuid        NOT NULL,
    position   bigint      NOT NULL,
    failures   int         NOT NULL DEFAULT 0,
    error      text,                           -- of the newest failure
    handled_at timestamptz,                    -- set in the transaction of the effect
    seen_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (consumer, event_id)
) WITH (fillfactor = 90);
CREATE INDEX bus_inbox_handled ON engine.bus_inbox (consumer, handled_at);
GRANT SELECT, INSERT, UPDATE, DELETE ON engine.bus_inbox TO village_writer;
GRANT SELECT ON engine.bus_inbox TO village_reader;
COMMENT ON TABLE engine.bus_inbox IS 'What a consumer has handled, so that no message has its effect twice.';

CREATE TABLE engine.bus_dead_letters (
    consumer    text        NOT NULL,
    message_id  text        NOT NULL,          -- the event id; for a message without one, its sequence
    stream      text        NOT NULL,
    sequence    bigint      NOT NULL,
    subject     text,                          -- null, with headers and payload: the stream no longer had it
    headers     jsonb,
    payload     bytea,
    deliveries  int         NOT NULL,
    reason      text        NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    resolved_at timestamptz,                   -- handled after all
    PRIMARY KEY (consumer, message_id)
);
GRANT SELECT, INSERT, UPDATE, DELETE ON engine.bus_dead_letters TO village_writer;
GRANT SELECT ON engine.bus_dead_letters TO village_reader;
COMMENT ON TABLE engine.bus_dead_letters IS 'Messages of the bus that a consumer could not handle in any delivery.';

CREATE TABLE engine.bus_relays (
    name          text        PRIMARY KEY,     -- as in engine.cursors
    published     bigint      NOT NULL DEFAULT 0,
    referred      bigint      NOT NULL DEFAULT 0, -- payloads too large for the broker, left in the blob store
    reconciled    bigint      NOT NULL DEFAULT 0, -- times the cursor was set to where the stream ends
    failures      bigint      NOT NULL DEFAULT 0,
    failing       boolean     NOT NULL DEFAULT false,
    error         text,                        -- of the newest failure
    failed_at     timestamptz,
    published_at  timestamptz
) WITH (fillfactor = 50);
GRANT SELECT, INSERT, UPDATE ON engine.bus_relays TO village_writer;
GRANT SELECT ON engine.bus_relays TO village_reader;
COMMENT ON TABLE engine.bus_relays IS 'How the relay from the log to the bus is, for health and metrics.';
"""


def upgrade() -> None:
    op.execute(BUS)


def downgrade() -> None:
    op.execute("DROP TABLE engine.bus_inbox, engine.bus_dead_letters, engine.bus_relays")
