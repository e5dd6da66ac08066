"""Many aggregates are found at once as each is found alone, and what was decided on them stands only while it is so."""

from functools import partial
from uuid import UUID, uuid4

import pytest

from domain.device_registry.device import Device
from domain.kernel import AggregateNotFound, EventLog, Receipt, loading
from tests.devices import enrolled_device
from tests.ledger import Account, Ledger
from tests.running import asked, deposit, in_threads, opened


def enrolled(log: EventLog) -> UUID:
    with asked():
        return recorded(log, enrolled_device())


def recorded(log: EventLog, device: Device) -> UUID:
    log.record(device)
    return device.id


def suspended(log: EventLog, device_id: UUID) -> None:
    with asked():
        device = log.load(Device, device_id)
        device.suspend("a drill")
        log.record(device)


def test_many_are_found_in_their_order_as_each_alone(
    log: EventLog, elsewhere: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "LOADED_AT_ONCE", 2)
    streams = [uuid4() if number == 2 else enrolled(log) for number in range(5)]
    alone = [log.find(Device, stream) for stream in streams]
    assert [one is None for one in alone] == [False, False, True, False, False]
    for reader in (log, elsewhere.log):  # a warm cache, and a cold one
        assert reader.find_all(Device, streams) == alone
        with asked():
            assert reader.execute("find", partial(reader.find_all, Device, streams)) == alone


def test_many_with_snapshots_are_found_as_each_alone(ledger: Ledger, elsewhere: Ledger) -> None:
    streams = [opened(ledger, balance=balance) for balance in range(3)]
    for _ in range(7):
        deposit(ledger, streams[0], 1)
    for _ in range(2):
        assert [one and one.balance for one in elsewhere.log.find_all(Account, streams)] == [7, 1, 2]


def test_one_of_another_kind_is_not_found_among_many(ledger: Ledger) -> None:
    with pytest.raises(AggregateNotFound):
        ledger.log.find_all(Device, [opened(ledger)])


def test_a_unit_of_work_finds_among_many_what_it_has_decided(ledger: Ledger) -> None:
    before, account = opened(ledger, balance=1), uuid4()
    found: list[int | None] = []

    def decide() -> None:
        ledger.open(account_id=account)
        ledger.deposit_to_open(account_id=before, grains=4)
        many = ledger.log.find_all(Account, [before, account, uuid4()])
        found.extend(None if one is None else one.balance for one in many)

    with asked():
        ledger.log.transact(decide)
    assert found == [5, 0, None]


@pytest.mark.parametrize("warm", [True, False])
def test_what_was_decided_on_many_is_decided_again_when_one_of_them_moves(
    log: EventLog, elsewhere: Ledger, warm: bool
) -> None:
    streams = [enrolled(log if warm else elsewhere.log) for _ in range(3)]
    told, seen = opened(elsewhere), []

    def decide() -> Receipt:
        seen.append([device is not None and device.forfeits for device in log.find_all(Device, streams)])
        if len(seen) == 1:
            assert in_threads(1, lambda _: suspended(elsewhere.log, streams[1])) == []
        return log.record(Account.fact(Account.Deposited, told, grains=1))

    with asked():
        log.execute("decide", decide)
    assert seen == [[False, False, False], [False, True, False]]
    assert elsewhere.log.load(Account, told).balance == 1


def test_what_was_decided_on_one_that_is_not_there_is_decided_again_when_it_opens(
    log: EventLog, elsewhere: Ledger
) -> None:
    device, told, seen = enrolled_device(), opened(elsewhere), []

    def join() -> None:
        with asked():
            recorded(elsewhere.log, device)

    def decide() -> Receipt:
        seen.append(log.find_all(Device, [device.id]) == [None])
        if len(seen) == 1:
            assert in_threads(1, lambda _: join()) == []
        return log.record(Account.fact(Account.Deposited, told, grains=1))

    with asked():
        log.execute("decide", decide)
    assert seen == [True, False]
