"""Runs, looked at and ordered from a browser: a real server, real git, real processes."""

from __future__ import annotations

import re
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from playwright.sync_api import BrowserContext, Page, expect

from crossfade.domain.access import Grant
from crossfade.web.app import mount
from tests.browser.conftest import Watch
from tests.engine.pipelines import ADA, Installation, Repository, script

Axe = Callable[[Page], None]
Shot = Callable[[Page, str], Any]
Contexts = Callable[..., BrowserContext]

PASSWORD = "a password of some length"
HEAVIEST = 300_000
REPORT = (
    "<testsuite><testcase name='total' classname='cart'><failure message='expected 12, got 13'/></testcase></testsuite>"
)
TALK = """
import time
print("\\x1b[31mfirst\\x1b[0m line", flush=True)
for number in range(600):
    print("line", number, "<b>", flush=True)
    time.sleep(0.1)
"""


@dataclass
class Site:
    """An installation with a run that failed; ``slow`` begins one that writes for a minute."""

    installation: Installation
    repository: Repository
    url: str
    failed: int

    def slow(self) -> int:
        self.repository.configure({"commit": {"steps": {"talk": script(TALK)}}}, branches=["none"])
        self.repository.commit("A slow one")
        return self.installation.start(self.repository)

    def log_in(self, page: Page, name: str, place: str) -> None:
        page.goto(f"{self.url}/login?next={place}")
        page.get_by_label("Name").fill(name)
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Log in").click()
        expect(page).to_have_url(f"{self.url}{place}")


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    installation, folder = Installation(), Path(tempfile.mkdtemp(prefix="cf-"))
    repository = Repository(folder / "shop")
    tests = script(f"open('junit.xml', 'w').write({REPORT!r})")
    steps = {"format": script("pass"), "tests": {"run": tests, "needs": ["format"]}, "lint": script("print('lint')")}
    gates = {"results": {"kind": "junit", "report": "junit.xml", "after": ["tests"]}}
    repository.configure({"commit": {"steps": steps, "gates": gates}, "integration": {"steps": {"later": script("")}}})
    repository.write("app.py", "")
    repository.commit("<img src=x> in a subject")
    installation.add(repository)
    failed = installation.start(repository)
    installation.ended(failed)
    for name, grant in (("olga", "operator"), ("vera", "viewer")):
        installation.service.accounts.add(name, [Grant.parse(grant)], PASSWORD, ADA)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        app = FastAPI(docs_url=None, openapi_url=None)
        mount(app, installation.service, origin=url, key=b"k" * 32)
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=1))
        installation.service.hub.start()
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        yield Site(installation, repository, url, failed)
        installation.service.hub.stop()
        server.should_exit = True
        thread.join()
    installation.remove()
    shutil.rmtree(folder)


def test_a_run_is_watched_to_its_end_and_cancelled_from_its_page(site: Site, page: Page, shot: Shot) -> None:
    id = site.slow()
    site.log_in(page, "olga", "/runs")
    row = page.get_by_role("row").filter(has_text=f"#{id}")
    expect(row).to_contain_text("running")
    row.get_by_role("link", name=f"#{id}").click()
    page.evaluate("window.neverReloaded = true")
    node = page.locator(".node").filter(has=page.get_by_role("link", name="talk"))
    expect(node).to_contain_text("running")
    shot(page, "run")
    with page.context.expect_page() as opened:
        node.get_by_role("link", name="talk").click(modifiers=["Control"])
    log = opened.value
    expect(log.locator("#run-log[data-live]")).to_contain_text(re.compile(r"first line\nline 0 <b>"))
    before = log.locator("#run-log").inner_text()
    log.wait_for_function("before => document.getElementById('run-log').innerText.length > before", arg=len(before))
    log.get_by_role("link", name=f"#{id}").click()
    log.get_by_role("link", name="Cancel", exact=True).click()
    expect(log.get_by_text("What is at work in commit is ended: talk.")).to_be_visible()
    log.get_by_role("button", name="Cancel it").click()
    expect(log).to_have_url(f"{site.url}/runs/{id}")
    expect(page.locator(".run-says")).to_contain_text("Cancelled")
    expect(page.locator(".run-why")).to_contain_text("cancelled by olga")
    assert page.evaluate("window.neverReloaded") is True


def test_what_failed_is_read_without_leaving_the_page(site: Site, page: Page, page_watch: Watch) -> None:
    sizes: list[int] = []
    page.on("response", lambda answer: sizes.append(int(answer.headers.get("content-length", 0))))
    site.log_in(page, "vera", f"/runs/{site.failed}")
    expect(page.get_by_role("heading", level=1)).to_contain_text("<img src=x> in a subject")
    expect(page.locator(".results")).to_contain_text("expected 12, got 13")
    expect(page.locator(".node").filter(has_text="artifact")).to_contain_text("skipped")
    expect(page.get_by_role("button", name="Restart")).to_be_disabled()
    expect(page.get_by_text("This wants the role operator for shop/pipeline.")).to_be_visible()
    assert sum(sizes) < HEAVIEST
    page.get_by_role("link", name="results", exact=True).first.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_contain_text("results in commit")


@pytest.mark.parametrize("how", ["light", "dark", "phone"])
def test_the_pages_of_runs_can_be_read_by_everybody(
    site: Site, open_context: Contexts, how: str, axe: Axe, shot: Shot
) -> None:
    options: dict[str, Any] = {"color_scheme": "dark" if how == "dark" else "light"}
    if how == "phone":
        options["viewport"] = {"width": 390, "height": 844}
    page = open_context(**options).new_page()
    site.log_in(page, "olga", "/runs")
    places = {
        "runs": "/runs",
        "run-failed": f"/runs/{site.failed}",
        "run-node": f"/runs/{site.failed}/stages/commit/nodes/results",
        "run-ask": f"/runs/{site.failed}/orders/restart",
        "value-stream": "/services/shop/stream",
    }
    for name, place in places.items():
        page.goto(site.url + place)
        axe(page)
        shot(page, f"{name}-{how}")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), place


def test_a_run_is_looked_at_and_restarted_without_scripts(site: Site, open_context: Contexts) -> None:
    page = open_context(java_script_enabled=False).new_page()
    site.log_in(page, "olga", f"/runs/{site.failed}")
    page.get_by_role("link", name="lint", exact=True).click()
    expect(page.locator("#run-log")).to_contain_text("lint")
    page.get_by_role("link", name=f"#{site.failed}").click()
    page.get_by_role("link", name="Restart").click()
    page.get_by_role("button", name="Restart it").click()
    expect(page).to_have_url(f"{site.url}/runs/{site.failed}")
    assert site.installation.ended(site.failed)["stages"][0]["attempt"] == 2
