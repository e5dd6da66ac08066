"""A headless Chromium, a village to look at, and pages that must neither complain nor ask another host."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from .site import Site

FLAGS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PAGE_TIMEOUT_MS = 60_000
expect.set_options(timeout=PAGE_TIMEOUT_MS)  # 5 s otherwise, which a busy machine takes for one step
_AXE = Path(__file__).parent / "assets" / "axe.min.js"
_RULES = "async () => (await axe.run(document, {resultTypes: ['violations']})).violations"


@dataclass
class Watched:
    """A page, and everything it complained about or asked for."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def text(self, test_id: str) -> str:
        """The text of the element with this test id."""
        return self.page.get_by_test_id(test_id).inner_text()

    def violations(self) -> list[str]:
        """What axe finds wrong with the page as it stands. Evaluated by the debugger, so the page's policy holds."""
        self.page.evaluate(f"() => {{ if (!window.axe) {{ {_AXE.read_text()} }} }}")
        found: list[dict[str, Any]] = self.page.evaluate(_RULES)
        return [f"{rule['id']}: {node['html'][:120]}" for rule in found for node in rule["nodes"]]


Open = Callable[..., Watched]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium; its sandbox is off only where it cannot work, which is for root.

    No longer than a module: while it lives, an event loop runs in this thread, and `asyncio.run` of others fails.
    """
    flags = [*FLAGS, "--no-sandbox"] if os.geteuid() == 0 else list(FLAGS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        yield browser
        browser.close()


@pytest.fixture
def site(database_url: str, tmp_path: Path) -> Iterator[Site]:
    """A village of the test's own."""
    with Site(database_url, tmp_path) as site:
        yield site


@pytest.fixture
def open_page(browser: Browser, site: Site) -> Iterator[Open]:
    """Open a page in a new profile; afterwards it must not have complained, nor have asked any other host.

    `tolerated` are parts of complaints that the test brings about itself.
    """
    opened: list[tuple[Watched, tuple[str, ...]]] = []

    def open_page(url: str, *, tolerated: tuple[str, ...] = (), **options: Any) -> Watched:
        page = browser.new_context(viewport={"width": 1280, "height": 900}, **options).new_page()
        page.set_default_timeout(PAGE_TIMEOUT_MS)
        watched = Watched(page)
        page.on("console", lambda message: _note(watched, message))
        page.on("pageerror", lambda error: watched.complaints.append(str(error)))
        page.on("request", lambda request: watched.requests.append(request.url))
        page.on("websocket", lambda socket: watched.requests.append(socket.url))
        opened.append((watched, tolerated))
        page.goto(url)
        return watched

    yield open_page
    for watched, tolerated in opened:
        watched.page.context.close()
        assert [text for text in watched.complaints if not any(part in text for part in tolerated)] == []
        assert {urlsplit(url).netloc for url in watched.requests} == {urlsplit(site.url).netloc}


def _note(watched: Watched, message: ConsoleMessage) -> None:
    if message.type in ("error", "warning"):
        watched.complaints.append(message.text)
