"""What a session's samples look like on a chart: as measured, or means over a minute or an hour, from one query."""

from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

MAX_POINTS: Final = 2_000
RESOLUTIONS: Final = {"RAW": 0, "MINUTE": 60, "HOUR": 3_600}
VALUES: Final = ("battery_percent", "battery_temp", "skin_temp", "cpu_temp", "cpu_percent", "memory_percent")

_MEAN = "sum({0} * samples) / sum(samples) FILTER (WHERE {0} IS NOT NULL) AS {0}"
_MEANS = ", ".join(map(_MEAN.format, VALUES))
# What is thinned stands beside what it was made of until that is deleted, and counts once: in its coarsest form.
_POINTS = f"""
    WITH done AS (
        SELECT coalesce(max(done_until) FILTER (WHERE resolution_s = 60), '-infinity') AS minutes,
               coalesce(max(done_until) FILTER (WHERE resolution_s = 3600), '-infinity') AS hours
        FROM edge.harvest_thinning
    )
    SELECT date_bin(%(width)s, sampled_at, 'epoch') AS at, sum(samples) AS samples, {_MEANS}
    FROM edge.harvest_samples, done
    WHERE session_id = %(session_id)s AND sampled_at >= %(start)s AND sampled_at < %(end)s
      AND CASE resolution_s WHEN 0 THEN sampled_at >= minutes
          WHEN 60 THEN %(resolution_s)s = 60 OR sampled_at >= hours ELSE %(resolution_s)s = 3600 END
    GROUP BY 1 ORDER BY 1 LIMIT {MAX_POINTS}
"""
_RAW = f"""
    SELECT sampled_at AS at, samples, {", ".join(VALUES)} FROM edge.harvest_samples
    WHERE session_id = %(session_id)s AND resolution_s = 0 AND sampled_at >= %(start)s AND sampled_at < %(end)s
    ORDER BY 1 LIMIT {MAX_POINTS}
"""

LATEST: Final = f"""
    SELECT newest.* FROM unnest(ARRAY[{", ".join(map(str, RESOLUTIONS.values()))}]) AS resolution, LATERAL (
        SELECT sampled_at AS at, samples, {", ".join(VALUES)} FROM edge.harvest_samples
        WHERE session_id = %(session_id)s AND resolution_s = resolution ORDER BY sampled_at DESC LIMIT 1
    ) AS newest ORDER BY resolution LIMIT 1
"""
"""The newest sample of a session; a mean of the coarser kind where what was measured is gone."""


def points(session_id: UUID, start: datetime, end: datetime, resolution: str) -> tuple[str, dict[str, Any]]:
    """The query of at most 2,000 points of a session, and its parameters. Raises KeyError for another resolution."""
    seconds = RESOLUTIONS[resolution]
    asked = {"session_id": session_id, "start": start, "end": end, "resolution_s": seconds}
    return (_POINTS, asked | {"width": timedelta(seconds=seconds)}) if seconds else (_RAW, asked)
