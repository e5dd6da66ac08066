"""A message of the bus: what one fact of the log looks like to those outside."""

from dataclasses import dataclass
from uuid import UUID

POSITION = "ce-position"
EVENT_ID = "ce-id"
CONTENT_TYPE = "application/json"

_OVERHEAD = 32
"""Bytes of a message that are neither header lines nor payload: the version line, line ends and lengths."""


class MessageMalformed(ValueError):
    """A message of the bus names the event it carries by a UUID in `ce-id`, and its position in `ce-position`."""


@dataclass(frozen=True, slots=True)
class Message:
    """One fact, addressed. `headers` are as they go over the wire (printable ASCII)."""

    subject: str
    payload: bytes
    headers: dict[str, str]
    position: int
    event_id: UUID

    @property
    def size(self) -> int:
        """Bytes that count against a server's `max_payload`, rounded up a little."""
        return len(self.payload) + _OVERHEAD + sum(len(name) + len(value) + 4 for name, value in self.headers.items())


def header_value(text: str) -> str:
    """A CloudEvents attribute as a header's value: percent-encoded as the protocol bindings have it."""
    return "".join(_encoded(letter) for letter in text)


def _encoded(letter: str) -> str:
    if "!" <= letter <= "~" and letter not in '"%':
        return letter
    return "".join(f"%{byte:02X}" for byte in letter.encode())
