"""What a village has to bear during the chaos: members who pay and hold, and a client that follows the log."""

import random
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4, uuid5

from websockets.exceptions import InvalidHandshake, WebSocketException

from cli.console import Console, VillageError
from tests.api.edge.socket_client import socket
from workers.device_agent.client import RetryPolicy

PATIENT = RetryPolicy(attempts=150, cap_s=2.0)
"""Minutes: a command is repeated under its key until it is answered."""

EVENTS = "subscription Follow($after: Position) { events(after: $after) { position } }"


class Load(threading.Thread):
    """A client that goes on until it is told to stop; `failure` is why it could not."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.stopping = threading.Event()
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            self.work()
        except BaseException as error:
            self.failure = error

    def work(self) -> None:
        raise NotImplementedError

    def stop(self, timeout_s: float = 120.0) -> None:
        """Let it finish what it has begun. Raises what it failed of."""
        self.stopping.set()
        self.join(timeout_s)
        assert not self.is_alive(), f"{self.name} does not end"
        if self.failure is not None:
            raise self.failure


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A command that was answered: what it did, and the answer."""

    command: str
    id: UUID
    grains: int
    position: int


class Member(Load):
    """Pays others, and holds and captures or voids, one command after the other. Nothing it does can be refused."""

    def __init__(self, number: int, url: str, token: str, owners: Sequence[UUID], pause_s: float) -> None:
        super().__init__(f"member {number}")
        self.acknowledged: list[Acknowledged] = []
        self._console = Console(url, token, PATIENT)
        self._me = owners[number]
        self._others = [owner for owner in owners if owner != self._me]
        self._chance = random.Random(number)
        self._pause_s = pause_s

    def work(self) -> None:
        with self._console:
            while not self.stopping.wait(self._chance.uniform(0, 2 * self._pause_s)):
                self._chance.choice((self._pay, self._pay, self._hold))()

    def _pay(self) -> None:
        grains = self._chance.randint(1, 1_000)
        self._ask("process_payment", grains, from_owner_id=self._me, to_owner_id=self._other(), kind="service_payment")

    def _hold(self) -> None:
        hold_id, grains = uuid4(), self._chance.randint(1, 1_000)
        expires_at = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
        own: dict[str, Any] = {"owner_id": self._me, "hold_id": hold_id}
        self._ask("hold_funds", grains, **own, expires_at=expires_at, purpose="chaos")
        if self._chance.random() < 0.5:
            self._ask("capture_hold", grains, **own, to_owner_id=self._other())
        else:
            self._ask("void_hold", None, **own)

    def _other(self) -> UUID:
        return self._chance.choice(self._others)

    def _ask(self, command: str, grains: int | None, **body: Any) -> None:
        plain = {name: str(value) if isinstance(value, UUID) else value for name, value in body.items()}
        if grains is not None:
            plain["grains"] = str(grains)
        answer = self._console.command(f"/v1/tokenomics/{command}", plain)
        self.acknowledged.append(Acknowledged(command, UUID(answer["id"]), grains or 0, answer["position"]))


class Follower(Load):
    """Follows every event of the log over a socket, and comes back after the last one it has seen when it is cut."""

    def __init__(self, url: str, token: str) -> None:
        super().__init__("follower")
        self.seen: list[int] = []
        self.cuts = 0
        self._url, self._token = url, token

    def work(self) -> None:
        while not self.stopping.wait(0.2):
            with suppress(WebSocketException, InvalidHandshake, OSError, AssertionError, VillageError):
                self._follow()
            self.cuts += 1

    def _follow(self) -> None:
        with socket(self._url, {"token": self._token}) as client:
            client.subscribe(EVENTS, after=self.seen[-1] if self.seen else 0)
            while not self.stopping.is_set():
                with suppress(TimeoutError):
                    self.seen.append(client.next(timeout=1.0)["events"]["position"])


def owners(count: int) -> list[UUID]:
    """The members' ids."""
    return [uuid5(UUID(int=0), f"chaos-{number}") for number in range(count)]
