"""What goes out on the bus: every fact under its public name, with its public fields. Pure: a row in, a message out.

`published.txt` is the committed table of the names and fields that others build on; it only gains lines.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from domain.device_registry.device import Device
from domain.federated_learning.round import TrainingRound
from domain.harvest.session import HarvestSession
from domain.kernel.catalogue import type_name
from domain.kernel.mapper import codec_of
from domain.kernel.time import Instant
from domain.marketplace.contract import Contract
from infrastructure.event_store.reader import Record
from infrastructure.message import CONTENT_TYPE, EVENT_ID, POSITION, Message, header_value

TABLE = Path(__file__).with_suffix(".txt")
COMMAND = "python -m projections.published"
TYPE_PREFIX = "ai-village."
PUBLIC_SUBJECT = "events."
LOG_SUBJECT = "log."


class PublicEvent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every public event tells: who it is, when it was recorded (RFC 3339, UTC), and which service says so."""

    event_id: str
    timestamp: Instant
    source_service: str


class DeviceCapabilities(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Memory in MiB, cores, compute score in milli-units of the named benchmark, and two sorted lists of names."""

    ram_mb: int
    cpu_cores: int
    compute_score: int
    frameworks: list[str]
    capabilities: list[str]
    benchmark_id: str


class DeviceRegisteredEvent(PublicEvent, frozen=True, kw_only=True):
    """A device has been enrolled by its owner and may take part."""

    device_id: str
    device_type: str
    capabilities: DeviceCapabilities


class TrainingRoundCompletedEvent(PublicEvent, frozen=True, kw_only=True):
    """A round has a new model. `participants` (sorted) are the devices whose updates are in it."""

    round_id: str
    session_id: str
    participants: list[str]
    model_metrics: dict[str, float]
    privacy_budget_consumed: float
    duration_seconds: float


class SlaTerms(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a provider promises, in basis points, ms and interrupts an hour; and what a breach of it costs."""

    uptime_bp: int
    p95_ms: int
    max_interrupts_per_h: int
    window_ms: int
    penalty_bp: int


class ServiceContractCreatedEvent(PublicEvent, frozen=True, kw_only=True):
    """A customer has asked for a service. `agreed_price` is the most it may cost, a decimal string of grains."""

    contract_id: str
    service_type: str
    provider_id: str
    customer_id: str
    agreed_price: str
    sla_terms: SlaTerms


class ResourceMetrics(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Milliseconds a device ran, the same weighted by its duty (what is paid for), and the samples that show it."""

    run_ms: int
    verified_ms: int
    samples: int


class HarvestSessionCompletedEvent(PublicEvent, frozen=True, kw_only=True):
    """A device has lent itself. `quality_score` is 0 to 1; `tokens_earned` is claimed, a decimal string of grains."""

    session_id: str
    device_id: str
    resources_contributed: ResourceMetrics
    quality_score: float
    tokens_earned: str


@dataclass(frozen=True, slots=True)
class Published:
    """How one stored topic becomes a public event. `fields` gets the stored state and the row it is of.

    A field that is sealed in the log is sealed here too: nothing on this way holds a key.
    """

    kind: type[PublicEvent]
    source_service: str
    fields: Callable[[Any, Record], dict[str, Any]]


def _device_registered(state: Any, record: Record) -> dict[str, Any]:
    capabilities = msgspec.convert(msgspec.to_builtins(state.capabilities), DeviceCapabilities)
    return {"device_id": str(state.device_id), "device_type": state.device_type, "capabilities": capabilities}


def _round_completed(state: Any, record: Record) -> dict[str, Any]:
    return {
        "round_id": str(record.stream),
        "session_id": str(state.session_id),
        "participants": [str(device_id) for device_id in state.participants],
        "model_metrics": state.model_metrics,
        "privacy_budget_consumed": state.privacy_budget_consumed,
        "duration_seconds": state.duration_ms / 1_000,
    }


def _contract_created(state: Any, record: Record) -> dict[str, Any]:
    return {
        "contract_id": str(record.stream),
        "service_type": state.service_type,
        "provider_id": str(state.provider_id),
        "customer_id": str(state.customer_id),
        "agreed_price": str(state.agreed_price),
        "sla_terms": msgspec.convert(msgspec.to_builtins(state.sla_terms), SlaTerms),
    }


def _session_rewarded(state: Any, record: Record) -> dict[str, Any]:
    return {
        "session_id": str(record.stream),
        "device_id": str(state.device_id),
        "resources_contributed": msgspec.convert(msgspec.to_builtins(state.resources_contributed), ResourceMetrics),
        "quality_score": state.quality_bp / 10_000,
        "tokens_earned": str(state.grains),
    }


PUBLISHED: dict[str, Published] = {
    Device.Enrolled.TOPIC: Published(  # type: ignore[attr-defined]
        DeviceRegisteredEvent, "device_registry", _device_registered
    ),
    TrainingRound.Completed.TOPIC: Published(  # type: ignore[attr-defined]
        TrainingRoundCompletedEvent, "federated_learning", _round_completed
    ),
    Contract.ServiceContractCreated.TOPIC: Published(  # type: ignore[attr-defined]
        ServiceContractCreatedEvent, "marketplace", _contract_created
    ),
    HarvestSession.Rewarded.TOPIC: Published(  # type: ignore[attr-defined]
        HarvestSessionCompletedEvent, "harvest_management", _session_rewarded
    ),
}


def message_of(record: Record, origin: str) -> Message:
    """The one message a fact goes out as.

    Args:
        origin: the village's name; with the service it is the CloudEvents source.

    Raises:
        UnreadableEvent: a fact with a public name was recorded by newer code than this.
    """
    public = PUBLISHED.get(record.topic)
    if public is None:
        context = record.topic.partition(".")[0]
        headers = _headers(record, context, record.topic, origin) | {"ce-actor": header_value(record.actor)}
        return Message(LOG_SUBJECT + record.topic, _as_stored(record), headers, record.position, record.event_id)
    event = public.kind(
        event_id=str(record.event_id),
        timestamp=record.recorded_at,
        source_service=public.source_service,
        **public.fields(codec_of(record.topic).decode(record.state), record),
    )
    name = public.kind.__name__
    headers = _headers(record, public.source_service, name, origin)
    return Message(PUBLIC_SUBJECT + name, msgspec.json.encode(event), headers, record.position, record.event_id)


def messages_of(records: Iterable[Record], origin: str) -> list[Message]:
    """The messages of these facts, in their order."""
    return [message_of(record, origin) for record in records]


def by_reference(message: Message, blob_hash: str) -> Message:
    """The same message with its payload left in the blob store (CloudEvents extension `dataref`)."""
    headers = message.headers | {"ce-dataref": f"/v1/blobs/{blob_hash}"}
    return Message(message.subject, b"", headers, message.position, message.event_id)


def _as_stored(record: Record) -> bytes:
    """The state as the log has it, in the present version of its class; what newer code wrote goes out as it is."""
    try:
        codec = codec_of(record.topic)
        if codec.version > 1:
            return msgspec.json.encode(codec.decode(record.state))
    except ValueError:
        pass
    return bytes(record.state)


def _headers(record: Record, service: str, name: str, origin: str) -> dict[str, str]:
    event_id, at = str(record.event_id), _rfc3339(record.recorded_at)
    headers = {
        "Nats-Msg-Id": event_id,
        "event_id": event_id,
        "timestamp": at,
        "source_service": service,
        "ce-specversion": "1.0",
        EVENT_ID: event_id,
        "ce-source": f"{quote(origin)}/{service}",
        "ce-type": TYPE_PREFIX + name,
        "ce-subject": str(record.stream),
        "ce-time": at,
        "ce-datacontenttype": CONTENT_TYPE,
        POSITION: str(record.position),
        "ce-streamversion": str(record.version),
        "ce-correlationid": str(record.correlation_id),
    }
    if record.causation_id is not None:
        headers["ce-causationid"] = str(record.causation_id)
    return headers


def _rfc3339(instant: datetime) -> str:
    return msgspec.json.encode(instant).decode().strip('"')


def lines_of_code() -> list[str]:
    """One line per public event: `subject field:type ... <- topic`, sorted."""
    return sorted(_line(topic, public) for topic, public in PUBLISHED.items())


def problems(code: Sequence[str], committed: Sequence[str]) -> list[str]:
    """What would break those who read the bus, or is not committed yet; empty when all is well."""
    gone = [f"others build on this, it may not change or leave: {line}" for line in committed if line not in code]
    return gone + [f"not committed, add it by `{COMMAND}`: {line}" for line in code if line not in committed]


def committed_lines(path: Path = TABLE) -> list[str]:
    """The lines of the committed table."""
    return path.read_text().splitlines() if path.exists() else []


def append_missing(path: Path = TABLE) -> list[str]:
    """Append the lines that the table lacks, and answer them."""
    missing = [line for line in lines_of_code() if line not in committed_lines(path)]
    if missing:
        with path.open("a") as file:
            file.writelines(f"{line}\n" for line in missing)
    return missing


def _line(topic: str, public: Published) -> str:
    hints = msgspec.structs.fields(public.kind)
    fields = " ".join(f"{field.name}:{type_name(field.type)}" for field in hints)
    return f"{PUBLIC_SUBJECT}{public.kind.__name__} {fields} <- {topic}"


if __name__ == "__main__":
    for added in append_missing():
        print(added)
