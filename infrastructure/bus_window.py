"""Publications on their way: in batches stored whole or not at all, or in a window where each names what it follows."""

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any, Final
from uuid import uuid4

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import Header

from .message import Message

WINDOW: Final = 256
"""Messages on their way without an answer, at most."""
BATCH_BYTES: Final = 4 << 20
ACK_TIMEOUT_S: Final = 5.0
WRONG_LAST: Final = (10_070, 10_071, 10_201)
"""Error codes of the broker: another last message id, another last sequence, a batch with an id it has already."""


class BusUnavailable(Exception):
    """The broker does not answer. What was sent last may or may not be in the stream."""


class OrderLost(Exception):
    """The stream does not end where it should: somebody else has written, or the end has changed. Look again."""


class BusRefused(Exception):
    """The broker does not store a message: it is full, or misconfigured. The message says why."""


class _Refusal(msgspec.Struct):
    err_code: int = 0
    description: str = ""


class _PubAck(msgspec.Struct):
    stream: str = ""
    seq: int = 0
    error: _Refusal | None = None


class Answers:
    """Where the broker's answers to publications come in, by number. (The client's own futures never learn of a
    refusal.)
    """

    def __init__(self, client: Client) -> None:
        self.lost = asyncio.Event()
        self._client = client
        self._inbox = client.new_inbox()
        self._numbers = count()
        self._waiting: dict[str, asyncio.Future[bytes]] = {}

    async def open(self) -> None:
        await self._client.subscribe(f"{self._inbox}.*", cb=self._answered)

    async def publish(self, message: Message, headers: dict[str, str]) -> asyncio.Future[bytes]:
        number = str(next(self._numbers))
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        answer.add_done_callback(lambda _: self._waiting.pop(number, None))
        reply = f"{self._inbox}.{number}"
        await self._client.publish(message.subject, message.payload, reply=reply, headers=message.headers | headers)
        return answer

    async def send(self, message: Message, headers: dict[str, str]) -> None:
        """Publish without asking for an answer."""
        await self._client.publish(message.subject, message.payload, headers=message.headers | headers)

    async def wait(self, answer: asyncio.Future[bytes]) -> bytes:
        """The answer, once it is there.

        Raises:
            BusUnavailable: the connection broke, or nothing came in time.
        """
        if not answer.done():
            losing = asyncio.ensure_future(self.lost.wait())
            both: set[asyncio.Future[Any]] = {answer, losing}
            await asyncio.wait(both, timeout=ACK_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
            losing.cancel()
        if not answer.done():
            answer.cancel()
            raise BusUnavailable("the connection broke" if self.lost.is_set() else "no answer to a publication")
        return answer.result()

    async def _answered(self, answer: Msg) -> None:
        waiting = self._waiting.get(answer.subject.rpartition(".")[2])
        if waiting is not None and not waiting.done():
            waiting.set_result(answer.data)


class Batches:
    """Messages in atomic batches: one flush to the broker's disk and one answer for up to 256 of them."""

    def __init__(self, answers: Answers, stream: str, after: int) -> None:
        self.count = 0
        self._answers, self._stream, self._after = answers, stream, after

    async def publish(self, messages: Sequence[Message]) -> None:
        for batch in _batches(messages):
            _check(await self._commit(batch), self._stream, self._after + self.count + len(batch))
            self.count += len(batch)

    async def _commit(self, batch: Sequence[Message]) -> bytes:
        batch_id = uuid4().hex
        for number, message in enumerate(batch, start=1):
            headers = {Header.BATCH_ID.value: batch_id, Header.BATCH_SEQUENCE.value: str(number)}
            if number == 1:
                headers[Header.EXPECTED_LAST_SEQUENCE.value] = str(self._after + self.count)
            if number == len(batch):
                headers[Header.BATCH_COMMIT.value] = "1"
                return await self._answers.wait(await self._answers.publish(message, headers))
            await self._answers.send(message, headers)
        raise AssertionError("a batch is not empty")

    def cancel(self) -> None:
        """Nothing to do: a batch without its end is not stored."""


class Window:
    """Messages one by one, at most 256 without an answer, for brokers older than atomic batches (2.12)."""

    def __init__(self, answers: Answers, stream: str, after: int) -> None:
        self.count = 0
        self._answers, self._stream, self._after = answers, stream, after
        self._sent: deque[asyncio.Future[bytes]] = deque()
        self._follows = {Header.EXPECTED_LAST_SEQUENCE.value: str(after)}

    async def publish(self, messages: Sequence[Message]) -> None:
        for message in messages:
            await self._send(message)
        while self._sent:
            await self._settle()

    async def _send(self, message: Message) -> None:
        while len(self._sent) >= WINDOW:
            await self._settle()
        self._sent.append(await self._answers.publish(message, self._follows))
        # By id from here on: a stranger's message in between would make the sequences fit again one message later.
        self._follows = {Header.EXPECTED_LAST_MSG_ID.value: message.headers[Header.MSG_ID.value]}

    def cancel(self) -> None:
        for answer in self._sent:
            answer.cancel()

    async def _settle(self) -> None:
        """Wait for the oldest answer, which must say that its message has the next sequence."""
        answer = await self._answers.wait(self._sent[0])
        _check(answer, self._stream, self._after + self.count + 1)
        self._sent.popleft()
        self.count += 1


def _batches(messages: Sequence[Message]) -> Iterator[Sequence[Message]]:
    start, size = 0, 0
    for number, message in enumerate(messages):
        if number > start and (number - start == WINDOW or size + message.size > BATCH_BYTES):
            yield messages[start:number]
            start, size = number, 0
        size += message.size
    if messages:
        yield messages[start:]


def _check(answer: bytes, stream: str, sequence: int) -> None:
    """Raises unless the answer says that the message is in this stream at this sequence."""
    if not answer:
        raise BusUnavailable("no stream takes this subject")
    told = msgspec.json.decode(answer, type=_PubAck)
    if told.error is not None:
        kind = OrderLost if told.error.err_code in WRONG_LAST else BusRefused
        raise kind(f"{told.error.err_code}: {told.error.description}")
    if (told.stream, told.seq) != (stream, sequence):
        raise OrderLost(f"stored in {told.stream} at {told.seq}, not in {stream} at {sequence}")
