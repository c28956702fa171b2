"""A real browser for the pages: Debian's Chromium, driven by Playwright.

What a page must never do fails its test: an error in the console or in a script, a violation of its own content security
policy, a request to anywhere but this machine. Pictures are kept in `build/browser/`, of failures with a trace beside them.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Error, Page, Request, expect, sync_playwright

# On a machine with other work a page may take its time; what never comes fails all the same.
expect.set_options(timeout=20_000)

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "build" / "browser"
AXE = ROOT / "build" / "assets" / "axe.min.js"
LOCAL = {"127.0.0.1", "localhost", "[::1]", "::1"}
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
GRAVE = {"serious", "critical"}


@dataclass
class Watch:
    """What pages did that they must not. ``allow`` names, by a regular expression, what a test means to happen."""

    seen: list[str] = field(default_factory=list)
    allowed: list[re.Pattern[str]] = field(default_factory=list)

    def allow(self, pattern: str) -> None:
        self.allowed.append(re.compile(pattern))

    def say(self, what: str) -> None:
        self.seen.append(what)

    def wrong(self) -> list[str]:
        return [what for what in self.seen if not any(pattern.search(what) for pattern in self.allowed)]

    def follow(self, page: Page) -> None:
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.say(f"script error: {error}"))
        page.on("request", self._request)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            place = (message.location or {}).get("url", "")
            self.say(f"console: {message.text} ({place})")

    def _request(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme in ("http", "https", "ws", "wss") and parts.hostname not in LOCAL:
            self.say(f"a request off this machine: {request.url}")


# One a module, not one a session: while Playwright runs, this thread has an event loop, and no other test could run one.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium")
    assert program, "chromium is not installed: tools/setup.py dev --debian brings it"
    with sync_playwright() as playwright:
        # Chromium has no sandbox of its own when it is run by root, as in most containers; it loads our pages only.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


@pytest.fixture
def page_watch() -> Watch:
    return Watch()


@pytest.fixture
def open_context(
    browser: Browser, page_watch: Watch, request: pytest.FixtureRequest
) -> Iterator[Callable[..., BrowserContext]]:
    """Makes browser contexts, each a visitor of its own; takes what Playwright's `new_context` takes."""
    contexts: list[BrowserContext] = []

    def make(**options: Any) -> BrowserContext:
        options.setdefault("viewport", {"width": 1280, "height": 900})
        context = browser.new_context(**options)
        context.set_default_timeout(15_000)
        context.tracing.start(screenshots=False, snapshots=True)
        context.on("page", page_watch.follow)
        contexts.append(context)
        return context

    yield make
    failed = getattr(request.node, "failed", False)
    wrong = [] if failed else page_watch.wrong()
    for number, context in enumerate(contexts):
        name = re.sub(r"[^\w.-]+", "-", request.node.name)[:80]
        for place, page in enumerate(context.pages):
            if failed or wrong:
                _picture(page, f"failed-{name}-{number}-{place}")
        if failed or wrong:
            KEPT.mkdir(parents=True, exist_ok=True)
            context.tracing.stop(path=KEPT / f"failed-{name}-{number}.zip")
        context.close()
    assert wrong == []


@pytest.fixture
def page(open_context: Callable[..., BrowserContext]) -> Page:
    return open_context().new_page()


@pytest.fixture
def shot() -> Callable[[Page, str], Path]:
    """Keeps a picture of a page in `build/browser/`."""
    return _picture


@pytest.fixture(scope="session")
def axe() -> Callable[[Page], None]:
    """Fails when axe-core finds something serious on a page. The page's policy does not bind what a test evaluates."""
    source = AXE.read_text()

    def check(page: Page) -> None:
        page.evaluate(source + "; undefined")
        said = page.evaluate("rules => axe.run(document, {runOnly: rules, resultTypes: ['violations']})", RULES)
        grave = [violation for violation in said["violations"] if violation["impact"] in GRAVE]
        told = [
            {"rule": v["id"], "impact": v["impact"], "help": v["help"], "at": [n["html"][:200] for n in v["nodes"][:5]]}
            for v in grave
        ]
        assert not grave, f"{page.url}: {json.dumps(told, indent=1)}"

    return check


def _picture(page: Page, name: str) -> Path:
    KEPT.mkdir(parents=True, exist_ok=True)
    path = KEPT / f"{name}.png"
    try:
        page.screenshot(path=path, full_page=True)
    except Error as error:  # a page that has crashed has no picture; the test has failed already
        path.with_suffix(".txt").write_text(str(error))
    return path


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Lets the fixtures know, when they end, whether the test has failed."""
    outcome: Any = yield
    if outcome.get_result().failed:
        item.failed = True  # type: ignore[attr-defined]  # for open_context above
