"""Who is paid nothing: a device from its suspension on, until it is reinstated."""

from collections.abc import Sequence
from uuid import UUID

from domain.device_registry.device import Device
from domain.kernel import EventLog


def forfeits(log: EventLog, device_id: UUID) -> bool:
    """Whether a device is of the village, and what it has earned is void. A command that asks stands only while it is
    so: whichever of it and a suspension is recorded first, the other one knows.
    """
    return bool(which_forfeit(log, [device_id]))


def which_forfeit(log: EventLog, device_ids: Sequence[UUID]) -> set[UUID]:
    """Those of these devices, which differ, that forfeit."""
    return {device.id for device in log.find_all(Device, device_ids) if device is not None and device.forfeits}
