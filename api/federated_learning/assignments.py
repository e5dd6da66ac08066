"""The round a device has to work on, told the moment it is selected."""

from typing import Final

from api.edge.assignments import Assignments
from api.edge.context import ApiContext
from domain.federated_learning.round import OPEN, TrainingRound
from projections.federated_learning import ACCEPTED, REJECTED, SELECTED

_SELECTED_TOPIC: Final[str] = TrainingRound.ParticipantsSelected.TOPIC  # type: ignore[attr-defined]

_ASSIGNED = f"""
SELECT r.round_id, r.session_id, r.number, r.base_model_hash AS model_hash, s.manifest, s.training, r.policy,
       r.deadline_at, p.state <> '{SELECTED}' AS submitted
FROM read.round_participants AS p
JOIN read.training_rounds AS r USING (round_id)
JOIN read.training_sessions AS s USING (session_id)
WHERE p.device_id = %(device_id)s AND p.state IN ('{SELECTED}', '{ACCEPTED}', '{REJECTED}')
  AND r.state = '{OPEN}' AND r.deadline_at > now()
ORDER BY submitted, r.deadline_at, r.round_id
LIMIT 1
"""


def round_assignments(ctx: ApiContext) -> Assignments:
    """Open rounds that have selected a device."""
    return Assignments(ctx, _ASSIGNED, _SELECTED_TOPIC, lambda selected: selected.device_ids)
