"""The status of an enrolled device: it takes part, is suspended for a while, or is retired for ever."""

from domain.kernel import Forbidden, Refusal

ACTIVE = "active"
SUSPENDED = "suspended"
RETIRED = "retired"

MAX_REASON = 500


class DeviceSuspended(Refusal):
    """A suspended device takes no part until it is reinstated."""

    status = 403


class DeviceRetired(Refusal):
    """A retired device takes no part ever again."""

    status = 403


class DeviceOfAnother(Forbidden):
    """Members retire devices of their own."""


class StatusReasonInvalid(Refusal):
    """Whoever suspends, reinstates or retires a device says why, in 1 to 500 characters."""


REFUSALS: dict[str, type[Refusal]] = {SUSPENDED: DeviceSuspended, RETIRED: DeviceRetired}
"""What a device that takes no part is told, by its status."""


def checked_reason(reason: str) -> str:
    """The reason itself. Raises StatusReasonInvalid."""
    if not len(reason.strip()) >= 1 or len(reason) > MAX_REASON or "\0" in reason:
        raise StatusReasonInvalid(f"{len(reason)} characters")
    return reason
