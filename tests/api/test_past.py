"""asOf over GraphQL: for any history, what was answered live at a position is what is answered for it later."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4, uuid5

import graphql
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from strawberry.printer import print_schema

import api.log
from api.schema import build_schema
from cli import contexts
from domain.kernel import Receipt, Refusal, new_scope, within
from domain.tokenomics.pricing import Activity
from infrastructure.database import Database
from infrastructure.event_store import LogReader
from infrastructure.settings import Settings
from tests.api.office import Office, open_office
from tests.devices import Applicant, enrol

WHO = [uuid5(UUID(int=9), str(number)) for number in range(3)]
EVERYTHING = """query($at: AsOf, $who: UUID!, $device: UUID!, $account: UUID) {
    wallets(first: 100, asOf: $at) {
        totalCount edges { cursor node { walletId ownerId postedGrains heldGrains availableGrains openedAt } }
    }
    wallet(ownerId: $who, asOf: $at) { walletId ownerId postedGrains heldGrains availableGrains openedAt }
    transfers(first: 100, asOf: $at) { totalCount edges { cursor node {
        transferId kind state reason note memo { subject text erased }
        movedGrains postedAt position legs { account name grains } } } }
    ofAccount: transfers(first: 100, account: $account, asOf: $at) { edges { node { transferId } } }
    epochs(first: 100, asOf: $at) { edges { cursor node { number budgetGrains reservedGrains state } } }
    rewardClaims(first: 100, asOf: $at) { totalCount edges { cursor node {
        claimId deviceId ownerId grains state transferId epochId accruedAt postedAt } } }
    pending: rewardClaims(first: 100, state: "pending", asOf: $at) { edges { node { claimId } } }
    devicePayouts(first: 100, asOf: $at) { edges { cursor node { deviceId ownerId claims paidGrains pendingGrains } } }
    devices(first: 100, asOf: $at) { totalCount edges { cursor node {
        deviceId ownerId presence seenAt latencyMs ramMb reputation { service scoreBp } enrolledAt position } } }
    supply(asOf: $at) { issuedGrains totalGrains treasuryGrains driftGrains conserved }
    device(deviceId: $device, asOf: $at) { deviceId presence position }
    online: devices(first: 100, asOf: $at, criteria: { minRamMb: 1000, minReputationScore: [
        { service: "federated_learning", scoreBp: 3000 }] }) { totalCount edges { node { deviceId } } }
}"""
WALLETS = """query($first: Int!, $after: String, $at: AsOf) { wallets(first: $first, after: $after, asOf: $at) {
    totalCount pageInfo { endCursor hasNextPage } edges { node { ownerId } }
} }"""


@pytest.fixture
def office(database: Database, database_url: str, tmp_path: Path) -> Iterator[Office]:
    yield from open_office(database_url, database, tmp_path)


class Town:
    """Owners and devices who do things, by commands."""

    def __init__(self, office: Office) -> None:
        self.office = office
        self.devices: list[UUID] = []
        self.claims: list[UUID] = []
        self.do(office.village.tokenomics.genesis)

    def do(self, command: Callable[..., Receipt], **arguments: Any) -> UUID | None:
        """Run a command; a refusal is part of life."""
        try:
            with within(new_scope("test")):
                return command(**arguments).id
        except Refusal:
            return None

    def deeds(self) -> list[Callable[[int], Any]]:
        """All there is to do; each takes the number of who does it."""
        tokens, registry = self.office.village.tokenomics, self.office.village.device_registry
        tomorrow = datetime.now(UTC) + timedelta(days=1)

        def earn(who: int) -> None:
            device = self.devices[who % len(self.devices)] if self.devices else uuid4()
            work = Activity("fl_participation", uuid4(), device, WHO[who], 3_600_000, 10_000)
            claim = self.do(tokens.accrue_reward, activity=work)
            assert claim is not None
            self.claims.append(claim)

        def post(who: int) -> None:
            self.do(tokens.distribute_rewards, batch_id=uuid4(), claim_ids=self.claims[-2:])

        def enrolled(who: int) -> None:
            self.devices.append(enrol(registry, Applicant(), owner_id=WHO[who], now=datetime.now(UTC)))

        def of_device(who: int, command: Callable[..., Receipt], **arguments: Any) -> None:
            if self.devices:
                self.do(command, device_id=self.devices[who % len(self.devices)], **arguments)

        def trust(who: int) -> None:
            evidence = {"service": "federated_learning", "good": who != 1, "weight_bp": 10_000}
            of_device(who, registry.update_reputation, cause_event_id=uuid4(), **evidence)

        return [
            lambda who: self.do(tokens.open_wallet, owner_id=WHO[who]),
            earn,
            post,
            lambda who: self.do(
                tokens.process_payment,
                payment_id=str(uuid4()),
                from_owner_id=WHO[who],
                to_owner_id=WHO[who - 1],
                grains=1_000_000 + who,
            ),
            lambda who: self.do(
                tokens.hold_funds,
                owner_id=WHO[who],
                hold_id=uuid4(),
                grains=5_000,
                expires_at=tomorrow,
                purpose="a job",
            ),
            enrolled,
            lambda who: of_device(who, registry.device_went_online, seen_at=datetime.now(UTC)),
            lambda who: of_device(who, registry.device_went_offline, last_seen_at=datetime.now(UTC)),
            trust,
        ]


DEEDS = 9
histories = st.lists(st.tuples(st.integers(0, DEEDS - 1), st.integers(0, 2)), min_size=4, max_size=14)


# Examples share one log, so that a smaller one would not show what failed: none is searched for.
@settings(max_examples=5, phases=[Phase.generate], suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(histories)
def test_what_was_answered_live_is_what_is_answered_for_its_position_later(
    office: Office, history: list[tuple[int, int]]
) -> None:
    town = Town(office)
    deeds = town.deeds()
    assert len(deeds) == DEEDS
    for first in (0, 1, 2, 5, 6):  # so that every example has something of each kind
        deeds[first](first % 3)
    seen: list[tuple[int, dict[str, Any], Any]] = []
    given: dict[str, Any]
    for deed, who in history:
        deeds[deed](who)
        office.projector.run_once()
        given = {"who": str(WHO[who]), "device": str(town.devices[-1]), "account": None}
        found = office.ask(EVERYTHING, **given)
        given["account"] = found["wallets"]["edges"][0]["node"]["walletId"]
        seen.append((office.log.head(), given, office.ask(EVERYTHING, **given)))
    for position, given, live in seen:
        assert office.ask(EVERYTHING, at={"position": position}, **given) == live
    position, given, live = seen[len(seen) // 2]
    with office.database.reader.connection() as connection:
        last, *after = LogReader(connection).at([position, position + 1])
    if not after or after[0].recorded_at > last.recorded_at:
        assert office.ask(EVERYTHING, at={"time": last.recorded_at.isoformat()}, **given) == live


def test_the_past_is_paged_in_the_order_of_the_present(office: Office) -> None:
    owners = [uuid4() for _ in range(5)]
    for owner in owners:
        with within(new_scope("test")):
            office.village.tokenomics.open_wallet(owner_id=owner)
    office.projector.run_once()
    past = {"position": office.log.head()}
    for at in (None, past):
        found, after, pages = [], None, 0
        while True:
            page = office.ask(WALLETS, first=2, after=after, at=at)["wallets"]
            found += [edge["node"]["ownerId"] for edge in page["edges"]]
            after, pages = page["pageInfo"]["endCursor"], pages + 1
            assert page["totalCount"] == 5
            if not page["pageInfo"]["hasNextPage"]:
                break
        assert (pages, sorted(found)) == (3, sorted(map(str, owners)))
        if at is None:
            live = found
    assert found == live
    assert office.code(WALLETS, first=0, at=past) == "page_size_invalid"
    assert office.code(WALLETS, first=1, after="WyJldmVudHMiLDFd", at=past) == "cursor_invalid"


def test_a_member_sees_only_its_own_past(office: Office) -> None:
    mine, theirs = uuid4(), uuid4()
    for owner in (mine, theirs):
        with within(new_scope("test")):
            office.village.tokenomics.open_wallet(owner_id=owner)
    past = {"position": office.log.head()}
    page = office.ask(WALLETS, mine, first=5, at=past)["wallets"]
    assert (page["totalCount"], [edge["node"]["ownerId"] for edge in page["edges"]]) == (1, [str(mine)])
    one = "query($o: UUID!, $at: AsOf) { wallet(ownerId: $o, asOf: $at) { ownerId } }"
    assert office.ask(one, mine, o=str(mine), at=past)["wallet"] == {"ownerId": str(mine)}
    assert office.ask(one, mine, o=str(theirs), at=past)["wallet"] is None


def test_a_moment_that_is_none_or_has_not_come_is_refused_by_name(office: Office) -> None:
    office.opened()
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    for at, code in (
        ({}, "as_of_invalid"),
        ({"position": 1, "time": "2026-01-01T00:00:00Z"}, "as_of_invalid"),
        ({"time": "2026-01-01T00:00:00"}, "as_of_invalid"),
        ({"position": office.log.head() + 1}, "position_ahead"),
        ({"time": tomorrow}, "position_ahead"),
    ):
        assert office.code(WALLETS, first=1, at=at) == code, at


def test_before_the_first_fact_there_was_nothing(office: Office) -> None:
    office.opened()
    for at in ({"position": 0}, {"time": "1970-01-01T00:00:00Z"}):
        assert office.ask(WALLETS, first=1, at=at)["wallets"]["totalCount"] == 0


def test_whatever_can_be_asked_of_a_read_model_can_be_asked_of_its_past() -> None:
    modules, left_out = contexts.modules("api", contexts.running(Settings()))
    assert not left_out
    queries = graphql.build_schema(print_schema(build_schema((api.log, *modules)))).query_type
    assert queries is not None
    folded = {name: field.args for name, field in queries.fields.items() if "atLeast" in field.args}
    assert {"wallets", "jobs", "sagas", "incidents"} <= folded.keys()
    assert [name for name, args in folded.items() if "asOf" not in args] == []


def test_a_past_that_is_too_long_to_fold_is_refused_by_name(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        with within(new_scope("test")):
            office.village.tokenomics.open_wallet(owner_id=uuid4())
    monkeypatch.setattr("api.edge.past.MAX_FOLDED", 2)
    head = office.log.head()
    assert office.code(WALLETS, first=1, at={"position": head}) == "too_far_to_fold"
    assert office.ask(WALLETS, first=1, at={"position": head - 1})["wallets"]["totalCount"] == 2
    office.opened("somebody", 1, 2)  # other facts do not count
    assert office.code(WALLETS, first=1, at={"position": head + 2}) == "too_far_to_fold"
    epochs = "query($at: AsOf) { epochs(first: 1, asOf: $at) { totalCount } }"
    assert office.ask(epochs, at={"position": head + 3})["epochs"]["totalCount"] == 0
