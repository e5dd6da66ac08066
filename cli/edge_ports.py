"""What the edge asks of the village without knowing it: answered here from the log."""

import base64
import time
from threading import Lock
from typing import Final, cast
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from eventsourcing.utils import get_topic

from api.edge.principals import EnrolledDevice
from domain.device_registry.device import Device
from domain.device_registry.status import REFUSALS
from domain.kernel import EventLog
from domain.kernel.errors import AggregateNotFound

MAX_KNOWN: Final = 100_000
FRESH_S: Final = 1.0
MAX_CHANGES: Final = 1_000
MAX_GAP: Final = 100_000
_CHANGES: Final = [
    get_topic(kind) for kind in (Device.KeyRotated, Device.Suspended, Device.Reinstated, Device.Retired)
]  # what may make a kept answer wrong


class EnrolledDevices:
    """The public key, owner and status of a device, for the check of its signatures.

    Read from the log, so that a device may speak the moment it is enrolled, and kept. A question that comes FRESH_S
    (1 s) after the last look first reads what has changed: so whatever is recorded of a device holds in every process
    1 s later at the latest, for one short query a second. When the log cannot be read no answer is given.
    """

    def __init__(self, log: EventLog, fresh_s: float = FRESH_S) -> None:
        self._log = log
        self._fresh_s = fresh_s
        self._known: dict[UUID, EnrolledDevice] = {}
        self._lock = Lock()
        self._position = 0
        self._looked_at: float | None = None

    def __call__(self, device_id: UUID) -> EnrolledDevice | None:
        """The device as it was within the last second, or None while it is not enrolled."""
        self._freshen()
        known = self._known.get(device_id)
        return known if known is not None else self.look_again(device_id)

    def look_again(self, device_id: UUID) -> EnrolledDevice | None:
        """The device as the log has it now."""
        position = self._position
        try:
            device = self._log.find(Device, device_id)
        except AggregateNotFound:  # an id of something else
            return None
        if device is None or not device.enrolled:
            return None
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(device.ed25519_pub))
        found = EnrolledDevice(key, device.owner_id, REFUSALS.get(device.status), device.key_number)
        with self._lock:
            if position == self._position:  # else what was read may be older than the last look
                while len(self._known) >= MAX_KNOWN:
                    self._known.pop(next(iter(self._known)))
                self._known[device_id] = found
        return found

    def _freshen(self) -> None:
        with self._lock:
            asked_at = time.monotonic()
            if self._looked_at is not None and asked_at - self._looked_at < self._fresh_s:
                return
            head = self._log.head()
            if head > self._position:
                self._forget_changed(head)
            self._position, self._looked_at = head, asked_at

    def _forget_changed(self, head: int) -> None:
        if not self._known:
            return
        if head - self._position > MAX_GAP:  # cheaper to ask again for each device that comes
            self._known.clear()
            return
        changes = self._log.recorder.select_notifications(
            self._position, MAX_CHANGES, head, _CHANGES, inclusive_of_start=False
        )
        if len(changes) == MAX_CHANGES:
            self._known.clear()
        for change in changes:
            self._known.pop(cast(UUID, change.originator_id), None)
