"""The archive: which files hold the states of closed streams, and the one way a state may leave the log."""

from alembic import op

revision = "0073"
down_revision = "0072"
branch_labels = None
depends_on = None

ROLE = "village_archiver"

FILES = f"""
CREATE TABLE log.archives (
    id             int         PRIMARY KEY,
    sha256         bytea       NOT NULL UNIQUE CHECK (length(sha256) = 32),
    bytes          bigint      NOT NULL,
    facts          int         NOT NULL,
    first_position bigint      NOT NULL,
    last_position  bigint      NOT NULL,
    archived_at    timestamptz NOT NULL DEFAULT clock_timestamp()
);
GRANT SELECT ON log.archives TO village_writer, village_reader, village_projector, {ROLE};
COMMENT ON TABLE log.archives IS 'Parquet files that hold states of log.events, by the SHA-256 of their content.';

ALTER TABLE log.events ADD COLUMN archive int; -- log.archives.id, where state is NULL
GRANT USAGE ON SCHEMA log TO {ROLE};
GRANT SELECT ON log.events, log.hashes, log.checkpoints TO {ROLE};
"""

# A definer's function instead of a right to update: who archives can do nothing else to the log.
MOVE = f"""
CREATE FUNCTION log.archive(sha256 bytea, bytes bigint, positions bigint[], hashes bytea[]) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    file  int;
    moved int;
BEGIN
    INSERT INTO log.archives AS a (id, sha256, bytes, facts, first_position, last_position)
        SELECT (SELECT coalesce(max(o.id), 0) + 1 FROM log.archives AS o), archive.sha256, archive.bytes,
               count(*), min(p), max(p) FROM unnest(positions) AS p
        RETURNING a.id INTO file;
    UPDATE log.events AS e SET state = NULL, archive = file
        FROM unnest(positions, hashes) AS given (position, hash)
        JOIN log.hashes AS h ON h.level = 0 AND h.index = given.position - 1 AND h.hash = given.hash
        WHERE e.position = given.position AND e.state IS NOT NULL
          AND e.position <= (SELECT max(c.size) FROM log.checkpoints AS c)
          AND e.position < (SELECT max(n.position) FROM log.events AS n);
    GET DIAGNOSTICS moved = ROW_COUNT;
    IF moved <> cardinality(positions) THEN
        RAISE EXCEPTION 'only facts as they were sealed are archived, each once and never the newest: % of % are',
            moved, cardinality(positions) USING ERRCODE = 'check_violation';
    END IF;
    RETURN file;
END $$;
REVOKE EXECUTE ON FUNCTION log.archive FROM PUBLIC;
GRANT EXECUTE ON FUNCTION log.archive TO {ROLE};
COMMENT ON FUNCTION log.archive IS 'States of sealed facts leave the log for a file; hashes are of what it gave back.';
"""


def upgrade() -> None:
    op.execute(f"""
        DO $$ BEGIN
            IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{ROLE}') THEN CREATE ROLE {ROLE} NOLOGIN; END IF;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
        END $$""")
    op.execute(f"""
        DO $$ BEGIN
            -- From Postgres 16 on, who makes a role may not act as it until that is granted too.
            IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
                EXECUTE format('GRANT {ROLE} TO %I', current_user);
            END IF;
        END $$""")
    op.execute(FILES)
    op.execute(MOVE)


def downgrade() -> None:
    raise NotImplementedError("The log is append-only: restore a backup instead.")
