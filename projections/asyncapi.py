"""The AsyncAPI 3 document of the bus, generated from the public events and the event classes of the log."""

import json
from pathlib import Path
from typing import Any

import msgspec

from domain.kernel.catalogue import event_topics
from domain.kernel.mapper import codec_of

from .published import LOG_SUBJECT, PUBLIC_SUBJECT, PUBLISHED, TYPE_PREFIX, Published

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "asyncapi.json"
COMMAND = "python -m projections.asyncapi"
CONTRACT_VERSION = "1.0.0"
_REFERENCE = "#/components/schemas/{name}"

_DESCRIPTION = (
    "Every fact of the village's log, once and in its order, on NATS JetStream. `events.*` is the contract for other"
    " systems: names and fields stay. `log.*` is the rest, for operators; fields may be added. Messages are CloudEvents"
    " 1.0 in binary content mode. A payload over the broker's limit stays in the blob store: the message is empty then,"
    " and the header ce-dataref says where it is."
)
_HEADERS: dict[str, Any] = {
    "type": "object",
    "required": [
        "Nats-Msg-Id", "event_id", "timestamp", "source_service", "ce-specversion", "ce-id", "ce-source", "ce-type",
        "ce-subject", "ce-time", "ce-datacontenttype", "ce-position", "ce-streamversion", "ce-correlationid",
    ],
    "properties": {
        "Nats-Msg-Id": {"type": "string", "format": "uuid", "description": "The event id."},
        "event_id": {"type": "string", "format": "uuid"},
        "timestamp": {"type": "string", "format": "date-time", "description": "When the fact was recorded."},
        "source_service": {"type": "string"},
        "ce-specversion": {"type": "string", "const": "1.0"},
        "ce-id": {"type": "string", "format": "uuid", "description": "The event id."},
        "ce-source": {"type": "string", "format": "uri-reference", "description": "The log's name and the service."},
        "ce-type": {"type": "string"},
        "ce-subject": {"type": "string", "format": "uuid", "description": "The stream: what the fact is about."},
        "ce-time": {"type": "string", "format": "date-time"},
        "ce-datacontenttype": {"type": "string", "const": "application/json"},
        "ce-position": {"type": "string", "pattern": "^[0-9]+$", "description": "Place in the log, from 1."},
        "ce-streamversion": {"type": "string", "pattern": "^[0-9]+$", "description": "Place in its stream, from 1."},
        "ce-correlationid": {"type": "string", "format": "uuid"},
        "ce-causationid": {"type": "string", "format": "uuid", "description": "The fact that caused this one."},
        "ce-actor": {"type": "string", "description": "Who commanded it; on log.* only."},
        "ce-dataref": {"type": "string", "format": "uri-reference", "description": "Where a large payload is."},
    },
}  # fmt: skip


def document() -> dict[str, Any]:
    """The document. It depends on nothing but the code."""
    public = {PUBLIC_SUBJECT + entry.kind.__name__: _public(topic, entry) for topic, entry in PUBLISHED.items()}
    topics = [topic for topic in event_topics() if topic not in PUBLISHED]
    hints = [field.type for topic in topics for field in msgspec.structs.fields(codec_of(topic).shape)]
    found, shared = msgspec.json.schema_components(
        [*(entry.kind for entry in PUBLISHED.values()), *hints], ref_template=_REFERENCE
    )
    types = iter(found[len(PUBLISHED) :])
    logged = {LOG_SUBJECT + topic: _logged(topic, types) for topic in topics}
    messages = public | logged
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "AI Village bus",
            "version": CONTRACT_VERSION,
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {"bus": {"host": "localhost:4222", "protocol": "nats", "description": "VILLAGE_NATS_URL"}},
        "channels": {subject: _channel(subject) for subject in messages},
        "operations": {f"publish.{subject}": _operation(subject) for subject in messages},
        "components": {"messages": messages, "schemas": {"Headers": _HEADERS, **dict(sorted(shared.items()))}},
    }


def rendered() -> str:
    """The document as the committed file holds it."""
    return json.dumps(document(), indent=1, ensure_ascii=False) + "\n"


def _public(topic: str, entry: Published) -> dict[str, Any]:
    name = entry.kind.__name__
    payload = {"$ref": _REFERENCE.format(name=name)}
    return _message(name, (entry.kind.__doc__ or "").splitlines()[0], payload, f"Made of {topic}.")


def _logged(topic: str, types: Any) -> dict[str, Any]:
    codec = codec_of(topic)
    names = [field.name for field in msgspec.structs.fields(codec.shape)]
    payload = {
        "type": "object",
        "properties": {name: next(types) for name in names},
        "required": names,
        "additionalProperties": False,
    }
    return _message(topic, topic, payload, f"The state of the fact as the log holds it, version {codec.version}.")


def _message(name: str, summary: str, payload: dict[str, Any], description: str) -> dict[str, Any]:
    return {
        "name": name,
        "title": name,
        "summary": summary,
        "description": f"{description} CloudEvents type: {TYPE_PREFIX}{name}.",
        "contentType": "application/json",
        "headers": {"$ref": _REFERENCE.format(name="Headers")},
        "payload": payload,
    }


def _channel(subject: str) -> dict[str, Any]:
    return {"address": subject, "messages": {subject: {"$ref": f"#/components/messages/{subject}"}}}


def _operation(subject: str) -> dict[str, Any]:
    channel = f"#/channels/{subject}"
    return {"action": "send", "channel": {"$ref": channel}, "messages": [{"$ref": f"{channel}/messages/{subject}"}]}


if __name__ == "__main__":
    DOCUMENT.write_text(rendered())
    print(DOCUMENT)
