"""The harvest service: sessions of devices, what their samples bring, and what they are owed."""

from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

import msgspec

from domain.kernel import EventLog, Receipt, command, scope

from .audit import is_chosen, job_of
from .contribution import HarvestSessionUnknown
from .decide import Transition, Watch
from .device import DeviceNotYours, HarvestDevice
from .policy import HarvestPolicy, checked, stricter
from .rewarding import Rewarding
from .session import HarvestSession
from .states import STOPPED

Change = tuple[Transition | None, Watch]
"""A transition with what was counted up to it; None where only a segment is full."""


class DeviceOwners(Protocol):
    """Query port: the owner of an active device, None where there is none."""

    def __call__(self, device_id: UUID) -> UUID | None: ...


class HarvestService(Rewarding):
    """Each command is one record.

    Args:
        log: the village's event log.
        owner_of: the query port that says whose a device is; a process that opens no sessions has none.
    """

    def __init__(self, log: EventLog, owner_of: DeviceOwners | None = None) -> None:
        self.log = log
        self._owner_of = owner_of

    @command
    def set_harvest_policy(self, *, device_id: UUID, owner_id: UUID | None, policy: HarvestPolicy) -> Receipt:
        """What a device may do at most; `owner_id` is None for an operator. Refusals: DeviceNotYours, PolicyInvalid."""
        device = self._device(device_id)
        if owner_id not in (None, device.owner_id):
            raise DeviceNotYours(f"device {device_id}")
        device.set_policy(policy)
        return self.log.record(device)

    @command
    def start_harvest_session(self, *, device_id: UUID, policy: HarvestPolicy, sensors: Sequence[str]) -> Receipt:
        """Open a session under the stricter of what the device asks for and its owner has set.

        The answer tells the session's `status` (admitted or rejected), the `policy` it is under, for the device to obey
        when it is cut off, and its `audit` if it was chosen for one.
        Refusals: DeviceNotYours, PolicyInvalid, SessionOverlaps.
        """
        device, now = self._device(device_id), scope()
        agreed = checked(stricter(checked(policy), device.policy))
        session_id = device.open()
        has = sorted(set(sensors))
        needed = [sensor for sensor in _needed(agreed) if sensor not in has and not agreed.allows_unknown(sensor)]
        session = HarvestSession(
            session_id=session_id, device_id=device_id, owner_id=device.owner_id, number=device.sessions,
            policy=agreed, sensors=has, requested_at=now.now,
        )  # fmt: skip
        job = job_of(session_id, now.command_id)
        chosen = is_chosen(session_id, now.command_id, device.valid_in_a_row)
        session.admit(has, needed[0] if needed else None, job if chosen else None)
        if not session.is_open:
            device.end(session_id)
        audit = {"seed": job.seed, "rounds": job.rounds} if session.job else None
        told = msgspec.to_builtins(agreed)
        return self.log.record(session, device, id=session_id, status=session.status, policy=told, audit=audit)

    @command
    def monitor_harvest_conditions(self, *, session_id: UUID, changes: Sequence[Change]) -> Receipt:
        """What samples, or their absence, have brought; what is known already changes nothing."""
        session = self.get_session(session_id=session_id)
        for transition, counted in changes:
            if transition is None:
                session.close_segment(counted)
            else:
                session.take(transition, counted)
        return self._recorded(session)

    @command
    def request_stop(
        self, *, session_id: UUID, owner_id: UUID | None, reason: str, counted: Watch | None = None
    ) -> Receipt:
        """Ask a device to end its session. Refusals: HarvestSessionUnknown, HarvestSessionOver."""
        session = self.get_session(session_id=session_id)
        if owner_id not in (None, session.owner_id):
            raise HarvestSessionUnknown(f"session {session_id} of owner {owner_id}")
        session.require_open()
        if counted is not None:
            session.close_segment(counted)
        session.request_stop(reason)
        return self.log.record(session)

    @command
    def close_session(self, *, session_id: UUID, counted: Watch | None = None, reason: str = STOPPED) -> Receipt:
        """End a session with what was counted last; again changes nothing. Refusals: HarvestSessionUnknown."""
        session = self.get_session(session_id=session_id)
        if session.is_open and counted is not None:
            session.close_segment(counted)
        session.close(reason, scope().now)
        return self._recorded(session)

    def _recorded(self, session: HarvestSession) -> Receipt:
        things: list[HarvestSession | HarvestDevice] = [session]
        if not session.is_open:
            device = self.log.load(HarvestDevice, HarvestDevice.create_id(session.device_id))
            device.end(session.id)
            things.append(device)
        return self.log.record(*things, status=session.status)

    def _device(self, device_id: UUID) -> HarvestDevice:
        assert self._owner_of is not None, "this process was composed without the owners of devices"
        owner_id = self._owner_of(device_id)
        if owner_id is None:
            raise DeviceNotYours(f"device {device_id}")
        known = self.log.find(HarvestDevice, HarvestDevice.create_id(device_id))
        return known or HarvestDevice(device_id=device_id, owner_id=owner_id)


def _needed(policy: HarvestPolicy) -> list[str]:
    """The sensors that a policy asks."""
    asked = ["temperature", "cpu", "battery"]
    if policy.require_charging:
        asked.append("power")
    if policy.idle_seconds:
        asked.append("idle")
    return asked if policy.metered_network else [*asked, "network"]
