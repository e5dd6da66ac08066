"""What a reader sees and can do, from the locked door to a restart of the API in the middle of a round."""

import re
from collections.abc import Sequence
from uuid import UUID

import pytest
from playwright.sync_api import Page, expect

from tests.needs import needs_chromium

from .conftest import Open
from .site import PRICE, Site

pytestmark = [pytest.mark.browser, needs_chromium]

# A browser reports every failed request by itself, whatever the page makes of it.
UNAUTHORIZED = "401 (Unauthorized)"
AWAY = ("ERR_CONNECTION_REFUSED", "ERR_CONNECTION_RESET", "ERR_EMPTY_RESPONSE")
GRAINS = 10**8


def shown(grains: int) -> str:
    """An amount of grains as the page must show it."""
    return f"{grains // GRAINS:,}.{grains % GRAINS:08d}"


def run_round(site: Site, session_id: UUID, accuracy: float, devices: Sequence[UUID] | None = None) -> UUID:
    """Play the open round of a session to its end; answers its id."""
    round_id = site.open_round(session_id)
    for device_id in devices or site.participants(round_id):
        site.submit(round_id, device_id)
    site.complete(round_id, accuracy, 1.0 - accuracy)
    return round_id


def expect_round(page: Page, number: int, state: str) -> None:
    """Wait until the page shows a round in a state."""
    expect(page.get_by_test_id("round-number")).to_have_text(str(number))
    expect(page.get_by_test_id("round-state")).to_have_text(state)


def test_a_reader_without_a_session_is_told_how_to_get_in_and_shown_nothing_else(site: Site, open_page: Open) -> None:
    site.enrol(2)
    watched = open_page(site.url, tolerated=(UNAUTHORIZED,))
    page = watched.page
    expect(page.get_by_role("heading", name="You are not signed in")).to_be_visible()
    expect(page.get_by_text("village token login")).to_be_visible()
    assert not any(str(device_id)[:8] in page.content() for device_id in site.devices)
    assert watched.violations() == []


def test_a_login_link_opens_the_page_and_works_once(site: Site, open_page: Open) -> None:
    link = site.login_link()
    page = open_page(link).page
    expect(page.get_by_test_id("link")).to_contain_text("Live")
    assert page.url == f"{site.url}/"
    assert page.context.cookies()[0]["httpOnly"]
    assert page.evaluate("document.cookie") == ""
    second = open_page(link, tolerated=(UNAUTHORIZED,)).page
    expect(second.get_by_role("heading", name="You are not signed in")).to_be_visible()
    expect(second.get_by_role("alert")).to_contain_text("used before or has expired")


def test_signing_out_forgets_the_session_and_what_was_shown(site: Site, open_page: Open) -> None:
    site.enrol(2)
    page = open_page(site.login_link(), tolerated=(UNAUTHORIZED,)).page
    expect(page.get_by_test_id("devices").locator("tbody tr")).to_have_count(2)
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="You are not signed in")).to_be_visible()
    assert page.context.cookies() == []
    assert not any(str(device_id)[:8] in page.content() for device_id in site.devices)
    page.reload()
    expect(page.get_by_role("heading", name="You are not signed in")).to_be_visible()


def test_a_round_is_followed_live_to_its_end_and_paid_to_the_grain(site: Site, open_page: Open) -> None:
    watched = open_page(site.login_link())
    page = watched.page
    expect(page.get_by_text("No training session yet")).to_be_visible()
    page.evaluate("window.sameDocument = true")

    site.enrol(3)
    expect(page.get_by_test_id("device-summary")).to_have_text("3 of 3 online")
    session_id = site.train(name="digits", rounds=2)
    round_id = site.open_round(session_id)
    expect_round(page, 1, "Collecting updates")
    expect(page.get_by_test_id("deadline")).to_contain_text("left until the deadline")
    first, second, third = site.participants(round_id)
    for answered, device_id in enumerate((first, second), start=1):
        site.submit(round_id, device_id)
        expect(page.get_by_test_id("accepted")).to_have_text(str(answered))
    site.submit(round_id, third)
    expect_round(page, 1, "Aggregating")
    site.complete(round_id, 0.4951, 1.5)

    expect(page.get_by_test_id("accuracy")).to_have_text("49.5 %")
    expect(page.get_by_test_id("rounds-done")).to_have_text("1")
    run_round(site, session_id, 0.8127)
    expect(page.get_by_test_id("accuracy")).to_have_text("81.3 %")
    rows = page.get_by_test_id("accuracy-table").locator("tbody tr")
    expect(rows).to_have_count(2)
    expect(page.get_by_role("img", name=re.compile("Test accuracy by round, from 49.5 % .* to 81.3 %"))).to_be_visible()
    _expect_payouts(page, site)
    assert page.evaluate("window.sameDocument"), "the page was loaded again"


def _expect_payouts(page: Page, site: Site) -> None:
    paid = {device_id: site.settled_balance(device_id, claims=2) for device_id in site.devices}
    assert all(grains > 0 for grains in paid.values())
    for device_id, grains in paid.items():
        cells = page.locator(f'tr[data-device="{device_id}"] .number')
        expect(cells).to_have_text([re.compile(r"^\d+\.\d\d$"), "2", shown(grains), shown(0)])
    expect(page.get_by_test_id("supply")).to_contain_text("Supply conserved")
    expect(page.get_by_test_id("supply")).to_contain_text("1,000,000,000 tokens")
    transfers = page.get_by_test_id("transfers").locator("li[data-transfer]")
    expect(transfers).to_have_count(3)  # genesis and one batch a round
    expect(transfers.last.locator("summary .amount")).to_have_text("1,000,000,000.00000000")
    transfers.first.locator("summary").click()
    legs = transfers.first.locator(".legs .amount")
    expect(legs).to_have_count(4)  # three devices and the treasury
    expect(transfers.first.locator(".legs")).to_contain_text("treasury")
    expect(transfers.first.locator(".legs")).to_contain_text(f"device {str(site.devices[0])[:8]}")
    moved = [int(legs.nth(index).get_attribute("data-grains") or "") for index in range(4)]
    assert sum(moved) == 0


def test_harvest_and_contracts_are_followed_live_with_their_reasons_and_amounts(site: Site, open_page: Open) -> None:
    watched = open_page(site.login_link())
    page = watched.page
    expect(page.get_by_text("No device lends itself")).to_be_visible()
    expect(page.get_by_text("Nobody has bought anything")).to_be_visible()
    site.enrol(3)
    buyer, seller, lender = site.devices
    run_round(site, site.train(name="digits", rounds=1), 0.5)
    site.settled_balance(buyer, claims=1)

    sample = site.lend(lender)
    row = page.get_by_test_id("harvest").locator("li[data-session]")
    expect(row).to_contain_text("admitted")
    sample()
    expect(row).to_contain_text("running")
    expect(row).to_contain_text("battery 80 % · 30 °C · cpu 5 %")
    sample()
    sample(battery_temp=61.0)
    expect(row).to_contain_text("paused")
    expect(row).to_contain_text("battery observed 61, the limit is 55 (too hot)")
    expect(row).to_contain_text("61 °C")
    expect(row).to_contain_text("2.0 s")

    bought = site.buy(site.offer(seller), site.owner_of(buyer), duration_ms=30_000)
    row = page.get_by_test_id("contracts").locator(f'li[data-contract="{bought.id}"]')
    expect(row).to_contain_text("active")
    site.break_off(bought, delivered_ms=500)
    expect(row).to_contain_text("settled, completed, credited")
    expect(row).to_contain_text("used 500 ms of 30.0 s")
    usage = 500 * PRICE // 3_600_000
    price = 30_000 * PRICE // 3_600_000
    expect(row.locator(".amount")).to_have_text([shown(0), shown(price), shown(usage)])
    assert watched.violations() == []


def test_the_page_goes_on_where_it_stood_when_the_api_restarts(site: Site, open_page: Open) -> None:
    site.enrol(3)
    session_id = site.train(name="digits", rounds=2)
    round_id = site.open_round(session_id)
    page = open_page(site.login_link(), tolerated=AWAY).page
    expect_round(page, 1, "Collecting updates")
    first, second, third = site.participants(round_id)
    site.submit(round_id, first)
    expect(page.get_by_test_id("accepted")).to_have_text("1")

    site.stop_api()
    expect(page.get_by_role("alert")).to_contain_text("Reconnecting")
    expect(page.get_by_test_id("accepted")).to_have_text("1")
    site.submit(round_id, second)
    site.start_api()
    expect(page.get_by_test_id("link")).to_contain_text("Live")
    expect(page.get_by_role("alert")).to_have_count(0)
    expect(page.get_by_test_id("accepted")).to_have_text("2")
    site.submit(round_id, third)
    site.complete(round_id, 0.75, 0.5)
    expect(page.get_by_test_id("rounds-done")).to_have_text("1")
    expect_round(page, 2, "Collecting updates")

    head = site.settled()
    expect(page.get_by_test_id("events").locator("li .position").first).to_have_text(f"{head:,}")
    positions = [int(text.replace(",", "")) for text in page.locator(".events .position").all_inner_texts()]
    assert positions == list(range(head, head - len(positions), -1))


def test_a_member_sees_own_payouts_and_no_event_of_others(site: Site, open_page: Open) -> None:
    site.enrol(3)
    session_id = site.train(name="digits", rounds=1)
    run_round(site, session_id, 0.5)
    device_id = site.devices[0]
    grains = site.settled_balance(device_id, claims=1)
    page = open_page(site.login_link("member", str(site.owner_of(device_id)))).page
    expect(page.get_by_text("The event feed is for operators")).to_be_visible()
    rows = page.get_by_test_id("devices").locator("tbody tr")
    expect(rows).to_have_count(1)
    expect(rows.first).to_contain_text(shown(grains))
    expect(page.get_by_role("alert")).to_have_count(0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_rule_of_accessibility_is_broken(site: Site, open_page: Open, scheme: str) -> None:
    site.enrol(3)
    session_id = site.train(name="digits", rounds=3)
    run_round(site, session_id, 0.5)
    run_round(site, session_id, 0.7)
    watched = open_page(site.login_link(), color_scheme=scheme, reduced_motion="reduce")
    page = watched.page
    expect(page.get_by_test_id("rounds-done")).to_have_text("2")
    expect(page.get_by_test_id("transfers").locator("li[data-transfer]")).to_have_count(3)
    page.locator(".rows summary").first.click()
    assert watched.violations() == []
    page.set_viewport_size({"width": 390, "height": 800})
    assert watched.violations() == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"


def test_the_keyboard_reaches_and_sorts_the_devices_and_a_suspended_one_stands_out(site: Site, open_page: Open) -> None:
    site.enrol(3)
    page = open_page(site.login_link()).page
    expect(page.get_by_test_id("devices").locator("tbody tr")).to_have_count(3)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the round")).to_be_focused()
    column = page.get_by_role("button", name="Device")
    for _ in range(20):
        page.keyboard.press("Tab")
        if column.evaluate("element => element === document.activeElement"):
            break
    expect(column).to_be_focused()
    ids = sorted(str(device_id)[:8] for device_id in site.devices)
    cells = page.get_by_test_id("devices").locator("tbody th")
    expect(cells).to_have_text(ids)
    page.keyboard.press("Enter")
    expect(cells).to_have_text(ids[::-1])
    expect(page.get_by_role("columnheader", name="Device")).to_have_attribute("aria-sort", "descending")
    site.suspend(site.devices[0], "audit failed")
    suspended = page.locator(f'tr[data-device="{site.devices[0]}"] .presence')
    expect(suspended).to_have_text("suspended, online")
    expect(suspended).to_have_attribute("title", "audit failed")
    expect(page.get_by_test_id("device-summary")).to_have_text("3 of 3 online, 1 suspended")


def test_amounts_are_exact_far_beyond_what_a_float_can_hold(site: Site, open_page: Open) -> None:
    page = open_page(site.login_link()).page
    amounts = [0, 1, 99_999_999, GRAINS, 123_456_789_012_345_678, 2**63 - 1, 10**17 + 1]
    texts = page.evaluate(
        """async (amounts) => {
            const { tokens } = await import("/dashboard/format.js");
            return amounts.map(tokens);
        }""",
        [str(sign * amount) for amount in amounts for sign in (1, -1)],
    )
    assert texts == [
        ("\N{MINUS SIGN}" if sign < 0 and amount else "") + shown(amount) for amount in amounts for sign in (1, -1)
    ]


def test_a_part_that_cannot_be_read_says_so_and_the_rest_goes_on(site: Site, open_page: Open) -> None:
    site.enrol(3)
    page = open_page(site.login_link()).page
    expect(page.get_by_test_id("devices").locator("tbody tr")).to_have_count(3)
    with site.unreadable("read.transfers"):
        site.train(name="digits", rounds=1)
        expect_round(page, 1, "Collecting updates")
        page.reload()
        expect(page.get_by_role("alert")).to_contain_text("Could not be read")
        expect(page.get_by_test_id("devices").locator("tbody tr")).to_have_count(3)
    expect(page.get_by_role("alert")).to_have_count(0)
    expect(page.get_by_test_id("transfers").locator("li[data-transfer]")).to_have_count(1)
