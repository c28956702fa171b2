"""Objectives, alerts, drills and notices, looked at and used from a browser: a real server, twins of everything else."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest
import uvicorn
from fastapi import FastAPI
from playwright.sync_api import BrowserContext, Page, expect

from crossfade.domain.alert import Severity
from crossfade.domain.drill import Fault
from crossfade.web.app import mount
from tests.service.stage import ADMIN
from tests.web.promised import KEY, PASSWORD, STAGING, Promised

Axe = Callable[[Page], None]
Shot = Callable[[Page, str], Any]
Contexts = Callable[..., BrowserContext]

HERE = f"/environments/{KEY}"
CALM = 0.05
"""Cumulative layout shift that a page may have while it is updated: 0.1 is what is called good."""
SHIFTED = """
window.shifted = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifted += entry.value;
}).observe({ type: "layout-shift", buffered: true });
"""
INKED = """canvas => {
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  let inked = 0;
  for (let i = 3; i < pixels.length; i += 4) if (pixels[i]) inked += 1;
  return inked;
}"""
"""How many pixels of a chart have been drawn."""
PAGES = {
    "slo": f"{HERE}/slo",
    "environment": HERE,
    "glance": "/",
    "alerts": "/alerts",
    "alert": "/alerts/{alert}",
    "drills": f"{HERE}/drills",
    "drill": "/drills/{drill}",
    "drill-new": f"{HERE}/new-drill",
    "watch": "/watches/{watch}",
    "notices": "/notices",
    "slo-empty": f"/environments/{STAGING}/slo",
    "drills-empty": f"/environments/{STAGING}/drills",
}


@dataclass
class Site:
    """A server of an installation that has promised something."""

    promised: Promised
    url: str
    numbers: dict[str, int]

    def log_in(self, page: Page, name: str, place: str) -> None:
        page.goto(f"{self.url}/login?next={quote(place, safe='/')}")
        page.get_by_label("Name").fill(name)
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Log in").click()
        expect(page).to_have_url(f"{self.url}{place}")


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    promised = Promised()
    promised.peopled()
    promised.drilled(name="weekly")
    promised.drilled("failed")
    drill = promised.drilled(name="game-day", fault=Fault.KILL_REPLICA)
    promised.served()
    promised.told()
    watch = promised.watched()
    promised.alerted()
    promised.promoted(STAGING)
    promised.service.proofs.prove(KEY, None, ADMIN)
    assert promised.service.proofs.look()
    promised.now += 5.0
    alert = promised.service.alerts.list(KEY, open_only=True)[-1].id
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        app = FastAPI(docs_url=None, openapi_url=None)
        mount(app, promised.service, origin=url, key=b"k" * 32)
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=1))
        promised.service.hub.start()
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        yield Site(promised, url, {"drill": drill, "watch": watch, "alert": alert})
        promised.service.hub.stop()
        promised.service.notices.stop()
        server.should_exit = True
        thread.join()


def test_curves_are_drawn_and_a_gap_is_said_to_be_one(site: Site, page: Page, shot: Shot) -> None:
    site.log_in(page, "vera", f"{HERE}/slo")
    card = page.locator("article", has=page.locator("#objective-answers"))
    bad = card.locator("[data-curve=bad]")
    expect(bad).to_have_attribute("data-drawn", "hour")
    expect(bad.locator("[data-now]")).to_contain_text("% lately")
    assert bad.locator("canvas").evaluate(INKED) > 500
    expect(card.locator("[data-curve=left] [data-now]")).to_contain_text("% now")
    page.get_by_role("button", name="whole window").click()
    expect(bad).to_have_attribute("data-drawn", "window")
    card.get_by_text("The same as a table").click()
    expect(card.locator("tbody").last).to_contain_text("not known")
    shot(page, "slo-window")
    new = page.locator("article", has=page.locator("#objective-new"))
    expect(new.locator("[data-curve=bad] [data-now]")).to_have_text("nothing is known")


def test_an_alert_appears_and_goes_on_every_page_that_is_open(site: Site, open_context: Contexts, shot: Shot) -> None:
    olga, vera, lists = (open_context().new_page() for _ in range(3))
    for page in (vera, lists):
        page.add_init_script(SHIFTED)
    site.log_in(olga, "olga", "/alerts")
    site.log_in(vera, "vera", f"{HERE}/slo")
    site.log_in(lists, "vera", "/")
    expect(vera.locator("[data-curve=bad][data-drawn]").first).to_be_attached()
    for page in (olga, vera, lists):
        page.evaluate("window.neverReloaded = true")
    alerts = site.promised.service.alerts
    alert = alerts.open(KEY, "prober", Severity.PAGE, "nobody <b>answers</b>")
    expect(vera.locator("[data-part=alerts]")).to_contain_text("Nobody <b>answers</b>.")
    card = olga.locator("article", has_text="The edge, asked from outside")
    expect(card).to_contain_text("Nobody <b>answers</b>.")
    expect(lists.locator("#row-bookshop--production")).to_contain_text("3 alerts")
    assert olga.evaluate("window.neverReloaded") is True
    card.get_by_role("button", name="I look after it").click()
    expect(olga.locator("article", has_text="The edge, asked from outside")).to_contain_text("Seen by olga")
    expect(vera.locator("[data-part=alerts]")).to_contain_text("Seen by olga")
    alerts.resolve(KEY, "prober", "it is answered again")
    expect(olga.locator("[data-part=past]")).to_contain_text("It is answered again.")
    expect(vera.locator("[data-part=alerts]")).not_to_contain_text("Nobody <b>answers</b>.")
    expect(lists.locator("#row-bookshop--production")).to_contain_text("2 alerts")
    shot(olga, "alerts-after")
    for page in (vera, lists):
        assert page.evaluate("window.neverReloaded") is True
    assert vera.evaluate("window.shifted") < CALM
    assert alert.id


def test_a_drill_says_what_it_will_do_as_one_chooses_and_is_watched(
    site: Site, open_context: Contexts, shot: Shot
) -> None:
    olga, vera = (open_context().new_page() for _ in range(2))
    place = f"/environments/{STAGING}/new-drill"
    site.log_in(olga, "olga", place)
    what = olga.locator("#what")
    expect(what).to_contain_text("All traffic goes from r6 back to r5")
    olga.get_by_label("What is done to it first").select_option("errors")
    expect(what).to_contain_text("The judge has to see it")
    olga.get_by_label("What is done to it first").select_option("")
    olga.get_by_label("The older release serves for").fill("for ever")
    olga.get_by_label("Name").click()
    expect(what).to_contain_text("up to an hour")
    olga.get_by_label("The older release serves for").fill("2min")
    olga.get_by_label("Name").click()
    expect(what).to_contain_text("r5 serves for 2 min")
    shot(olga, "drill-asked")
    olga.get_by_role("button", name="Begin it").click()
    expect(olga).to_have_url(re.compile(r"/drills/\d+$"))
    expect(olga.locator("[data-part=head]")).to_contain_text("Begins")
    site.log_in(vera, "vera", olga.url.removeprefix(site.url))
    expect(vera.get_by_role("button", name="Abort")).to_be_disabled()
    vera.evaluate("window.neverReloaded = true")
    olga.get_by_role("link", name="Abort").click()
    expect(olga.get_by_text("All traffic returns to r6")).to_be_visible()
    olga.get_by_role("button", name="Abort it").click()
    expect(vera.locator("[data-part=journal]")).to_contain_text("aborted by olga")
    assert vera.evaluate("window.neverReloaded") is True
    shot(vera, "drill-under-way")


def test_an_admin_tries_a_target_from_the_page(site: Site, page: Page, shot: Shot) -> None:
    site.log_in(page, "ada", "/notices")
    page.get_by_label("Try whether").select_option("desk")
    page.get_by_role("button", name="Send a test").click()
    row = page.get_by_role("row").nth(1)
    expect(row).to_contain_text("told")
    expect(row).to_contain_text("Nothing is wrong.")
    shot(page, "notices-tried")


@pytest.mark.parametrize("look", ["light", "dark", "phone"])
def test_every_page_can_be_read_by_everybody(
    site: Site, open_context: Contexts, axe: Axe, shot: Shot, look: str
) -> None:
    phone = look == "phone"
    context = open_context(
        viewport={"width": 390, "height": 844} if phone else {"width": 1280, "height": 900},
        color_scheme="dark" if look == "dark" else "light",
    )
    page = context.new_page()
    site.log_in(page, "ada", "/")
    for name, place in PAGES.items():
        page.goto(site.url + place.format(**site.numbers))
        if name == "slo":
            expect(page.locator("[data-curve=bad][data-drawn]").last).to_be_attached()
        shot(page, f"{name}-{look}")
        axe(page)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (name, look)


def test_pages_say_all_of_it_without_scripts(site: Site, open_context: Contexts) -> None:
    page = open_context(java_script_enabled=False).new_page()
    site.log_in(page, "olga", f"{HERE}/slo")
    expect(page.locator("#objective-answers")).to_be_visible()
    expect(page.get_by_role("group", name="Time that the curves show")).to_be_hidden()
    page.goto(f"{site.url}/environments/{STAGING}/new-drill")
    expect(page.get_by_label("Go back")).to_be_visible()
