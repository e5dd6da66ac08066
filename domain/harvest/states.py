"""The states of a harvest session, why it pauses and why it ends."""

ADMITTED, RUNNING, THROTTLED, PAUSED, STOPPING = "admitted", "running", "throttled", "paused", "stopping"
CLOSED, REWARDED, REJECTED = "closed", "rewarded", "rejected"
ACTIVE = frozenset({RUNNING, THROTTLED})
OPEN = frozenset({ADMITTED, RUNNING, THROTTLED, PAUSED, STOPPING})

TOO_HOT, BATTERY_LOW, NOT_CHARGING, CPU_BUSY = "too_hot", "battery_low", "not_charging", "cpu_busy"
IN_USE, OFF_SCHEDULE, METERED, SENSOR_UNKNOWN = "in_use", "off_schedule", "metered_network", "sensor_unknown"
WARM, SILENT = "warm", "silent"
FLAPPING, STOPPED, ABANDONED = "flapping", "stopped", "abandoned"
