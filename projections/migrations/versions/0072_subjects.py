"""Keys of subjects beside the log, who was erased, and memos of transfers sealed under those keys."""

from alembic import op

revision = "0072"
down_revision = "0071"
branch_labels = None
depends_on = None

KEYS = """
CREATE TABLE edge.subject_keys (
    subject     uuid PRIMARY KEY,
    wrapped     bytea,       -- the key, wrapped by the key of that version in the keys folder
    kek_version int,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    erased_at   timestamptz, -- the row stays, so that the subject gets no key again
    CHECK ((wrapped IS NULL) = (erased_at IS NOT NULL)),
    CHECK ((wrapped IS NULL) = (kek_version IS NULL))
);
CREATE INDEX subject_keys_version ON edge.subject_keys (kek_version);
GRANT SELECT, INSERT, UPDATE ON edge.subject_keys TO village_writer;
GRANT SELECT (subject, created_at, erased_at) ON edge.subject_keys TO village_reader;
COMMENT ON TABLE edge.subject_keys IS 'The key of each person that personal text of the log is sealed under.';
"""

READ = """
SET LOCAL ROLE village_projector;

CREATE TABLE read.subjects (
    subject_id uuid        PRIMARY KEY,
    reason     text        NOT NULL,
    actor      text        NOT NULL,
    erased_at  timestamptz NOT NULL,
    position   bigint      NOT NULL
);
CREATE UNIQUE INDEX subjects_position ON read.subjects (position);

-- What was recorded in the clear is a note now, as the upcaster of the fact says.
ALTER TABLE read.transfers RENAME COLUMN memo TO note;
ALTER TABLE read.transfers ADD COLUMN memo jsonb;

RESET ROLE;
"""


def upgrade() -> None:
    op.execute(KEYS)
    op.execute(READ)


def downgrade() -> None:
    raise NotImplementedError("A key that is dropped is an erasure: restore a backup instead.")
