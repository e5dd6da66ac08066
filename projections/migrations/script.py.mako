"""${message}"""

from alembic import op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade() -> None:
    """Plain SQL only."""
    op.execute("")


def downgrade() -> None:
    """The log only grows: restore a backup instead."""
    raise NotImplementedError("migrations only go forward")
