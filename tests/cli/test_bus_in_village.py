"""The bus of a village that is up: its facts arrive, also those recorded while the relay was dead."""

import shutil
from pathlib import Path

import httpx2
import pytest

from infrastructure.bus import Bus
from infrastructure.bus_window import BusUnavailable
from tests.bus import positions, stored
from tests.cli.villages import environment, eventually, running, village

pytestmark = pytest.mark.slow


def test_the_facts_of_a_village_are_on_its_bus_through_the_death_of_the_relay_and_the_broker(short_home: Path) -> None:
    home = short_home / "bus-village"
    env = environment(home)
    with running(env) as up:
        address = home / "nats.url"
        assert address.stat().st_mode & 0o777 == 0o600
        with Bus(address.read_text().strip(), "ai_village_events") as bus:
            assert eventually(lambda: "log.tokenomics.Issuance.Opened" in {found.subject for found in stored(bus)})
            up.kill("clock")
            up.kill("nats-server")
            token = village("token", "issue", "--role", "operator", "--subject", "ada", env=env).stdout.strip()
            answer = httpx2.post(
                f"{up.url}/v1/tokenomics/open_wallet",
                json={"owner_id": "6f3c1a52-5d0e-5d4a-8c57-2f0f6a1b9e77"},
                headers={"Authorization": f"Bearer {token}", "Idempotency-Key": "bus"},
                timeout=30,
                trust_env=False,
            )
            assert answer.status_code == 200, answer.text
            recorded = answer.json()["position"]
            assert eventually(lambda: reached(bus, recorded))
            found = positions(stored(bus))
            assert found == list(range(1, len(found) + 1))
    assert not address.exists()
    shutil.rmtree(home, ignore_errors=True)


def reached(bus: Bus, position: int) -> bool:
    """Whether a fact is on the bus; not while the broker is down."""
    try:
        return (bus.tail().position or 0) >= position
    except BusUnavailable:
        return False
