"""What operators measure: who holds an advisory lock and for how long, and sagas by state."""

from alembic import op

revision = "0071"
down_revision = "0070"
branch_labels = None
depends_on = None

# A definer's function: only who logged in as the same user may see since when another session's transaction runs.
LOCK_STATE = """
CREATE FUNCTION engine.lock_state(key bigint, OUT held_s float8, OUT waiting bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog AS $$
    SELECT coalesce(max(extract(epoch FROM clock_timestamp() - a.xact_start)) FILTER (WHERE l.granted), 0)::float8,
           count(*) FILTER (WHERE NOT l.granted)
    FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
    WHERE l.locktype = 'advisory' AND l.objsubid = 1
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND l.classid::bigint = key >> 32 AND l.objid::bigint = key & 4294967295
$$;
REVOKE EXECUTE ON FUNCTION engine.lock_state FROM PUBLIC;
GRANT EXECUTE ON FUNCTION engine.lock_state TO village_reader;
COMMENT ON FUNCTION engine.lock_state IS 'Age of the transaction that holds an advisory lock, and who waits for it.';
"""

SAGAS = """
SET LOCAL ROLE village_projector;
CREATE INDEX sagas_kind_state ON read.sagas (kind, state);
RESET ROLE;
"""


def upgrade() -> None:
    op.execute(LOCK_STATE)
    op.execute(SAGAS)


def downgrade() -> None:
    raise NotImplementedError("Measures are changed by a newer migration.")
