"""Whether a device can serve now: it is there, and does not rest."""

from typing import Protocol
from uuid import UUID

from domain.kernel import Refusal


class DeviceOffline(Refusal):
    """Time is bought of a device that is active and online."""


class DeviceRests(Refusal):
    """Time is bought of a device that does not rest by its harvest policy."""


class PresentDevices(Protocol):
    """Query port: whether a device is active and online."""

    def __call__(self, device_id: UUID) -> bool: ...


class RestingDevices(Protocol):
    """Query port: whether a device may not work now, by the policy it lends itself under."""

    def __call__(self, device_id: UUID) -> bool: ...


class Serving:
    """The part of the marketplace service that asks of devices. Without a port they are there, and do not rest."""

    _rests: RestingDevices | None
    _present: PresentDevices | None

    def device_rests(self, *, device_id: UUID) -> bool:
        """Whether a device may not work now, by the policy it lends itself under."""
        return self._rests is not None and self._rests(device_id)

    def _require_serving(self, device_id: UUID) -> None:
        """Raises DeviceOffline, DeviceRests."""
        if self._present is not None and not self._present(device_id):
            raise DeviceOffline(f"device {device_id}")
        if self.device_rests(device_id=device_id):
            raise DeviceRests(f"device {device_id}")
