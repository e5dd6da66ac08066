"""What the edge asks of the village without knowing it: answered here from the log."""

import base64
from threading import Lock
from typing import Final
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from api.edge.principals import EnrolledDevice
from domain.device_registry.device import Device
from domain.kernel import EventLog
from domain.kernel.errors import AggregateNotFound

MAX_KNOWN: Final = 100_000


class EnrolledDevices:
    """The public key and owner of a device, for the check of its signatures.

    Read from the log, so that a device may speak the moment it is enrolled. Both never change, so they are kept.
    """

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._known: dict[UUID, EnrolledDevice] = {}
        self._lock = Lock()

    def __call__(self, device_id: UUID) -> EnrolledDevice | None:
        """The device, or None while it is not enrolled."""
        known = self._known.get(device_id)
        if known is not None:
            return known
        try:
            device = self._log.find(Device, device_id)
        except AggregateNotFound:  # an id of something else
            return None
        if device is None or not device.enrolled:
            return None
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(device.ed25519_pub))
        found = EnrolledDevice(key, device.owner_id)
        with self._lock:
            while len(self._known) >= MAX_KNOWN:
                self._known.pop(next(iter(self._known)))
            self._known[device_id] = found
        return found
