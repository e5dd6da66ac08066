"""Commands on what a device may do and can do: suspend, reinstate, retire, a new key, capabilities and evidence."""

from uuid import UUID

from domain.kernel import EventLog, Receipt, command, scope
from domain.kernel.unit import Recordable

from .capabilities import Capabilities
from .device import Device, DeviceUnknown
from .enrolment import check_rotation
from .evidence import Evidence
from .remeasurement import SERVICES, Remeasurement, RemeasurementNotDue
from .reputation import testimony
from .reputation_rule import FULL_WEIGHT_BP
from .status import DeviceOfAnother


class Lifecycle:
    """The part of the service that is about status, keys and capabilities."""

    log: EventLog

    @command
    def suspend_device(self, *, device_id: UUID, reason: str) -> Receipt:
        """Let a device take no part for a while.

        Raises:
            DeviceUnknown, DeviceNotEnrolled, DeviceRetired, StatusReasonInvalid.
        """
        device = self._device(device_id)
        device.suspend(reason)
        return self.log.record(device)

    @command
    def reinstate_device(self, *, device_id: UUID, reason: str) -> Receipt:
        """Let a suspended device take part again.

        Raises:
            DeviceUnknown, DeviceNotEnrolled, DeviceRetired, StatusReasonInvalid.
        """
        device = self._device(device_id)
        device.reinstate(reason)
        return self.log.record(device)

    @command
    def retire_device(self, *, device_id: UUID, reason: str, owner_id: UUID | None = None) -> Receipt:
        """End a device for ever. `owner_id` is the member who asks, None for an operator.

        Raises:
            DeviceUnknown, DeviceOfAnother, DeviceNotEnrolled, StatusReasonInvalid.
        """
        device = self._device(device_id)
        if owner_id is not None and owner_id != device.owner_id:
            raise DeviceOfAnother(f"device {device_id} belongs to somebody else")
        device.retire(reason)
        return self.log.record(device)

    @command
    def rotate_key(self, *, device_id: UUID, challenge: str, ed25519_pub: str, signature: str, proof: str) -> Receipt:
        """Put a new signing key in place of the present one. The edge has checked that the challenge is fresh.

        Args:
            signature: by the present key over challenge, device and both keys. proof: the same by the new key.

        Raises:
            DeviceUnknown, DeviceNotEnrolled, DeviceSuspended, DeviceRetired, PublicKeyMalformed, PublicKeyWeak,
            KeyUnchanged, RotationSignatureInvalid, RotationProofInvalid.
        """
        device = self._device(device_id)
        known = device.ed25519_pub
        device.rotate_key(ed25519_pub)
        check_rotation(
            challenge=challenge, device_id=device_id, old=known, new=ed25519_pub, signature=signature, proof=proof
        )
        return self.log.record(device)

    @command
    def update_capabilities(
        self, *, device_id: UUID, capabilities: Capabilities, evidence: Evidence | None = None, signature: str = ""
    ) -> Receipt:
        """Record what a device can do now, and the evidence for it when it brings some.

        Evidence that was asked for is compared with what was claimed: less than half of it is bad evidence for the
        device's reputation where services choose by it.

        Raises:
            DeviceUnknown, CapabilitiesInvalid, CapabilitiesBeyondEvidence, and what `Device.prove` does.
        """
        device, beside = self._device(device_id), list[Recordable]()
        if evidence is not None:
            device.prove(evidence, signature, scope().now)
            beside = self._answered(device_id, evidence)
        device.change_capabilities(capabilities)
        return self.log.record(device, *beside)

    @command
    def ask_remeasurement(self, *, device_id: UUID, seed: str = "") -> Receipt:
        """Have a device measure again within an hour, because a seed chooses it, or an operator does (no seed).

        Raises:
            DeviceUnknown, NothingToRemeasure, RemeasurementPending, RemeasurementNotChosen, and what `require_active`
            does.
        """
        device = self._device(device_id)
        device.require_active()
        remeasurement = self._remeasurement(device_id) or Remeasurement(device_id=device_id)
        remeasurement.ask(device.evidence, seed, scope().now)
        return self.log.record(remeasurement, id=device_id)

    @command
    def miss_remeasurement(self, *, device_id: UUID) -> Receipt:
        """Drop the evidence of a device that did not measure again in time. Raises DeviceUnknown, RemeasurementNotDue.

        Silence is no lie: it costs the device its evidence, and no reputation.
        """
        device, remeasurement = self._device(device_id), self._remeasurement(device_id)
        if remeasurement is None:
            raise RemeasurementNotDue(f"device {device_id} was not asked")
        remeasurement.miss(scope().now)
        device.drop_evidence()
        return self.log.record(remeasurement, device, id=device_id)

    def _answered(self, device_id: UUID, evidence: Evidence) -> list[Recordable]:
        remeasurement = self._remeasurement(device_id)
        if remeasurement is None:
            return []
        refuted = remeasurement.answer(evidence)
        bad = [
            fact
            for service in SERVICES * bool(refuted)
            for fact in testimony(
                device_id, service, good=False, weight_bp=FULL_WEIGHT_BP, cause_event_id=scope().command_id
            )
        ]
        return [remeasurement, *bad]

    def _remeasurement(self, device_id: UUID) -> Remeasurement | None:
        return self.log.find(Remeasurement, Remeasurement.create_id(device_id))

    def _device(self, device_id: UUID) -> Device:
        device = self.log.find(Device, device_id)
        if device is None:
            raise DeviceUnknown(f"no device {device_id}")
        return device
