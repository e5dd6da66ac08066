"""Sagas have names in one style: the cursors of two go on under their new ones."""

from alembic import op

revision = "0095"
down_revision = "0094"
branch_labels = None
depends_on = None

RENAME = """
UPDATE engine.cursors AS old SET name = renamed.new FROM (VALUES
    ('saga:CoordinateTraining', 'saga:coordinate_training'),
    ('saga:RewardTraining', 'saga:reward_training')
) AS renamed (old, new)
WHERE old.name = renamed.old AND NOT EXISTS (SELECT FROM engine.cursors WHERE name = renamed.new)
"""


def upgrade() -> None:
    op.execute(RENAME)


def downgrade() -> None:
    raise NotImplementedError("A saga that finds no cursor would read all of the log again.")
