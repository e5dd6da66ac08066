"""Stored states as people read them: sealed fields opened, or a tombstone where the person is erased."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import msgspec

from domain.kernel.errors import UnreadableEvent
from domain.kernel.mapper import codec_of
from domain.kernel.personal import Sealed, SealedText, Shown


def sealed_in(topic: str, event_id: UUID, state: Mapping[str, Any]) -> dict[str, SealedText]:
    """The sealed fields of a stored state, by name; none in what another version recorded in the clear."""
    try:
        fields = codec_of(topic).personal
    except UnreadableEvent:
        return {}
    return {
        name: SealedText(event_id, topic, name, msgspec.convert(state[name], Sealed))
        for name in fields
        if isinstance(state.get(name), dict)
    }


def shown_in(state: Mapping[str, Any], shown: Mapping[str, Shown]) -> dict[str, Any]:
    """The state with these fields as `{"subject", "text", "erased"}`."""
    return {**state, **{name: msgspec.to_builtins(text) for name, text in shown.items()}}
