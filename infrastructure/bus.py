"""The bus: one connection to NATS JetStream in a thread of its own, for callers that know no event loop."""

import asyncio
import concurrent.futures
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from itertools import takewhile
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import nats.errors
import structlog
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.errors import APIError

from .bus_stream import Limits, Tail, ensure_streams, tail_of
from .bus_window import ACK_TIMEOUT_S, Answers, Batches, BusRefused, BusUnavailable, Window
from .message import Message

CONNECT_TIMEOUT_S: Final = 5.0
CALL_TIMEOUT_S: Final = 120.0
ATOMIC_SINCE: Final = (2, 12)

T = TypeVar("T")
_log = structlog.get_logger()


class PayloadTooLarge(Exception):
    """The broker takes no message of this size; large payloads go by reference."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How far a publication came: the first `count` messages are stored, the stream ends at `sequence`."""

    count: int
    sequence: int
    failure: Exception | None = None


class Bus:
    """Publishes in order and knows where the stream ends. Safe to share between threads.

    It connects when first asked, and anew when the connection is lost. It does not retry by itself: callers wait as
    they see fit, so that nothing old is sent after something new.
    """

    def __init__(self, url: str, stream: str, *, limits: Limits | None = None, name: str = "village") -> None:
        self.stream = stream
        self._servers = [part.strip() for part in url.split(",")]
        self._limits = limits or Limits()
        self._name = name
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="bus", daemon=True)
        self._thread.start()
        self._connecting = asyncio.Lock()
        self._client: Client | None = None
        self._context: JetStreamContext | None = None
        self._answers: Answers | None = None
        self._atomic = False

    def call(self, work: Callable[[JetStreamContext], Coroutine[Any, Any, T]], timeout_s: float = CALL_TIMEOUT_S) -> T:
        """Run work on the connection, in the bus's own loop.

        Raises:
            BusUnavailable: no connection, no answer, or the connection broke. BusRefused: it makes no stream for us.
        """
        running = asyncio.run_coroutine_threadsafe(self._guarded(work), self._loop)
        try:
            return running.result(timeout_s)
        except concurrent.futures.CancelledError as error:
            raise BusUnavailable("the connection broke") from error
        except concurrent.futures.TimeoutError as error:
            running.cancel()
            raise BusUnavailable(f"no answer within {timeout_s:.0f} s") from error

    def tail(self) -> Tail:
        """Where the stream ends now."""
        return self.call(lambda context: tail_of(context, self.stream))

    def publish(self, messages: Sequence[Message], after: int) -> Outcome:
        """Publish in order behind sequence `after`, at most 256 on their way at once.

        Each message names the one it must follow, so none can be stored unless all before it are, and two publishers
        cannot mix, however late what they sent arrives.

        Raises:
            BusUnavailable: there is no connection; nothing was sent.
        """
        return self.call(lambda _: self._publish(messages, after))

    def is_connected(self) -> bool:
        """Whether a connection stands at this moment."""
        return self._client is not None and self._client.is_connected

    def disconnect(self) -> None:
        """Give up the connection; the next call makes a new one."""
        asyncio.run_coroutine_threadsafe(self._drop(), self._loop).result(CONNECT_TIMEOUT_S)

    def close(self) -> None:
        """Disconnect and end the thread. Safe to call twice."""
        if self._loop.is_closed():
            return
        try:
            self.disconnect()
        except concurrent.futures.TimeoutError:
            _log.warning("the bus did not disconnect in time")
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CONNECT_TIMEOUT_S)
        if not self._thread.is_alive():
            self._loop.close()

    async def _guarded(self, work: Callable[[JetStreamContext], Awaitable[T]]) -> T:
        context = await self._connected()
        try:
            return await work(context)
        except (nats.errors.ConnectionClosedError, nats.errors.NoRespondersError, TimeoutError, OSError) as error:
            await self._drop()
            raise BusUnavailable(type(error).__name__) from error

    async def _connected(self) -> JetStreamContext:
        async with self._connecting:
            if self._context is not None and self.is_connected():
                return self._context
            await self._drop()
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    self._client = client = Client()
                    self._answers = answers = Answers(client)
                    await client.connect(self._servers, name=self._name, closed_cb=_setting(answers.lost), **OPTIONS)
                    await answers.open()
                    context = client.jetstream(timeout=ACK_TIMEOUT_S)
                    version = client.connected_server_version
                    atomic = (version.major, version.minor) >= ATOMIC_SINCE
                    self._atomic = await ensure_streams(context, self.stream, self._limits, atomic=atomic)
            except APIError as error:
                await self._drop()
                raise BusRefused(f"{error.err_code}: {error.description}") from error
            except (nats.errors.Error, OSError) as error:
                # The text of the error may hold the address with its password.
                await self._drop()
                raise BusUnavailable(type(error).__name__) from None
            self._context = context
            return context

    async def _drop(self) -> None:
        client, self._client, self._context = self._client, None, None
        if client is None or client.is_closed:
            return
        try:
            async with asyncio.timeout(1.0):
                await client.close()
        except (nats.errors.Error, OSError, TimeoutError) as error:
            _log.info("the connection to the broker did not end well", error=type(error).__name__)

    async def _publish(self, messages: Sequence[Message], after: int) -> Outcome:
        assert self._client is not None
        assert self._answers is not None
        limit = self._client.max_payload
        fitting = list(takewhile(lambda message: message.size <= limit, messages))
        way = (Batches if self._atomic else Window)(self._answers, self.stream, after)
        try:
            await way.publish(fitting)
        except Exception as error:
            way.cancel()
            await self._drop()
            return Outcome(way.count, after + way.count, error)
        failure = None
        if len(fitting) < len(messages):
            large = messages[len(fitting)]
            failure = PayloadTooLarge(f"{large.subject} at {large.position}: {large.size} bytes, at most {limit}")
        return Outcome(way.count, after + way.count, failure)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _setting(event: asyncio.Event) -> Callable[[], Awaitable[None]]:
    async def set_event() -> None:
        event.set()

    return set_event


async def _tell(error: Exception) -> None:
    _log.debug("the broker's connection reports", error=type(error).__name__)


# One try a connection: whoever calls decides when to try again.
OPTIONS: Final[dict[str, Any]] = {
    "allow_reconnect": False,
    "max_reconnect_attempts": 1,
    "reconnect_time_wait": 0,
    "connect_timeout": 2,
    "ping_interval": 10,
    "max_outstanding_pings": 2,
    "error_cb": _tell,
}
