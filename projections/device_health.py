"""How a device is: the newest of what its presence, its harvest and the incidents about it say, from one query."""

from typing import Final

HEALTH: Final = """
    SELECT d.status, d.status_reason, d.presence, d.seen_at, d.latency_ms,
           s.session_id, s.state AS harvest_state, s.reason ->> 'kind' AS harvest_reason,
           m.sampled_at, m.battery_percent, m.battery_temp, m.skin_temp, m.cpu_temp, m.cpu_percent, m.memory_percent,
           (SELECT coalesce(sum(t.trips), 0) FROM read.harvest_sessions AS t
            WHERE t.device_id = d.device_id AND t.changed_at > now() - interval '30 days') AS trips,
           (SELECT count(*) FROM read.incidents AS i
            WHERE i.subject = d.device_id::text AND i.state <> 'resolved') AS open_incidents
    FROM read.devices AS d
    LEFT JOIN LATERAL (
        SELECT session_id, state, reason FROM read.harvest_sessions
        WHERE device_id = d.device_id ORDER BY position DESC LIMIT 1
    ) AS s ON true
    LEFT JOIN LATERAL (
        SELECT * FROM edge.harvest_samples
        WHERE session_id = s.session_id AND resolution_s = 0 ORDER BY sampled_at DESC LIMIT 1
    ) AS m ON true
    WHERE d.device_id = %(device_id)s
"""
"""Parameter: device_id. One row, or none for a device that is not enrolled."""
