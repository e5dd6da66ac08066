"""Who is paid nothing: a device from its suspension on, until it is reinstated."""

from uuid import UUID

from domain.device_registry.device import Device
from domain.kernel import EventLog


def forfeits(log: EventLog, device_id: UUID) -> bool:
    """Whether a device is of the village, and what it has earned is void. A command that asks stands only while it is
    so: whichever of it and a suspension is recorded first, the other one knows.
    """
    device = log.find(Device, device_id)
    return device is not None and device.forfeits
