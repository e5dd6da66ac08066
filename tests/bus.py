"""The bus in tests: a stream of the test's own on a real NATS, and what is in it."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from uuid import UUID

import nats
from nats.js import JetStreamContext
from nats.js.api import RawStreamMsg, StreamConfig
from nats.js.errors import NotFoundError

from infrastructure.bus import Bus
from infrastructure.bus_stream import letters_stream
from infrastructure.message import Message

STREAM = "village_test"


@contextmanager
def fresh_bus(url: str) -> Iterator[Bus]:
    """A bus whose streams are gone before and afterwards, for a server's tests take turns at the subjects."""
    asyncio.run(delete_streams(url))
    with Bus(url, STREAM) as bus:
        yield bus
    asyncio.run(delete_streams(url))


async def delete_streams(url: str) -> None:
    """As an operator would."""
    client = await nats.connect(url)
    for name in (STREAM, letters_stream(STREAM)):
        with suppress(NotFoundError):
            await client.jetstream().delete_stream(name)
    await client.close()


def stored(bus: Bus) -> list[RawStreamMsg]:
    """Every message of the stream, in order."""

    async def read(context: JetStreamContext) -> list[RawStreamMsg]:
        state = (await context.stream_info(bus.stream)).state
        first = max(1, state.first_seq)
        numbers = range(first, state.last_seq + 1)
        return await asyncio.gather(*(context.get_msg(bus.stream, number) for number in numbers))

    return bus.call(read)


def config_of(bus: Bus) -> StreamConfig:
    async def read(context: JetStreamContext) -> StreamConfig:
        return (await context.stream_info(bus.stream)).config

    return bus.call(read)


def positions(messages: Sequence[RawStreamMsg]) -> list[int]:
    return [int((message.headers or {})["ce-position"]) for message in messages]


def message(position: int, *, subject: str = "log.testing.Account.Deposited", payload: bytes = b"{}") -> Message:
    """A message as if a fact at this position had been published."""
    event_id = UUID(int=position)
    headers = {"Nats-Msg-Id": str(event_id), "ce-id": str(event_id), "ce-position": str(position)}
    return Message(subject, payload, headers, position, event_id)


def run_of(first: int, count: int) -> list[Message]:
    """Messages at consecutive positions."""
    return [message(position) for position in range(first, first + count)]
