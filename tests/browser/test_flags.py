"""Flags, looked at, changed and killed from a browser: a real server, a real ledger."""

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
from playwright.sync_api import BrowserContext, Locator, Page, expect

from crossfade.web.app import mount
from tests.browser.conftest import Watch
from tests.web.flagged import GUARDED, HOSTILE, KEY, PASSWORD, ROOT, STAGING, Flagged, boolean, split

Axe = Callable[[Page], None]
Shot = Callable[[Page, str], Any]
Contexts = Callable[..., BrowserContext]

HERE = f"/environments/{KEY}"
HEAVIEST = 300_000
"""Bytes that a page may have with all that it needs."""
CALM = 0.05
"""Cumulative layout shift that a page may have while it is updated: 0.1 is what is called good."""
SHIFTED = """
window.shifted = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifted += entry.value;
}).observe({ type: "layout-shift", buffered: true });
"""


@dataclass
class Site:
    """A server of the installation with flags."""

    flagged: Flagged
    url: str

    def log_in(self, page: Page, name: str, place: str) -> None:
        page.goto(f"{self.url}/login?next={quote(place, safe='/')}")
        page.get_by_label("Name").fill(name)
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Log in").click()
        expect(page).to_have_url(f"{self.url}{place}")

    def flag(self, name: str, **more: Any) -> str:
        """A new one at 10 %, and where its page is."""
        rules = [split("ramp", {"on": [[0, 1000]]})]
        self.flagged.service.flags.save(KEY, name, boolean(rules=rules, owner="ada", **more), ROOT)
        return f"{HERE}/flags/{name}"

    def data(self, name: str) -> dict[str, Any]:
        data: dict[str, Any] = self.flagged.service.flags.flag(KEY, name)["flag"]
        return data


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    flagged = Flagged()
    flagged.trial()
    flagged.trial("unfair", fair=False)
    flagged.trial("later", start=False)
    people = ({"targetingKey": f"u{n}", "country": ("de", "fr")[n % 2], "plan": "beta"} for n in range(40))
    flagged.ask(*people)
    usage = [{"flag": "new-checkout", "variant": "on", "n": 1200, "release": "r1"}]
    flagged.service.flag_events.post(KEY, usage=usage)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        app = FastAPI(docs_url=None, openapi_url=None)
        mount(app, flagged.service, origin=url, key=b"k" * 32)
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=1))
        flagged.service.hub.start()
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        yield Site(flagged, url)
        flagged.service.hub.stop()
        server.should_exit = True
        thread.join()
    flagged.remove()


def says(page: Page) -> Locator:
    return page.locator(".flag-says")


def test_a_kill_reaches_everybody_who_looks(site: Site, open_context: Contexts, shot: Shot) -> None:
    place = site.flag("killed-live")
    olga, vera, lists = (open_context().new_page() for _ in range(3))
    for page in (vera, lists):
        page.add_init_script(SHIFTED)
    site.log_in(olga, "olga", place)
    site.log_in(vera, "vera", place)
    site.log_in(lists, "vera", f"{HERE}/flags")
    for page in (vera, lists):
        page.evaluate("window.neverReloaded = true")
    expect(says(vera)).to_contain_text("On: on to 10 %, off to 90 %")
    olga.get_by_text("Kill", exact=True).click()
    olga.get_by_label("Why", exact=True).fill("orders are <b>lost</b>")
    shot(olga, "flag-kill")
    olga.get_by_role("button", name="Kill it").click()
    expect(says(olga)).to_contain_text("Killed: everybody gets off")
    expect(says(vera)).to_contain_text("Killed: everybody gets off")
    expect(vera.locator(".flag-because")).to_contain_text("orders are <b>lost</b>")
    row = lists.get_by_role("row").filter(has=lists.get_by_role("link", name="killed-live"))
    expect(row).to_contain_text("killed")
    olga.get_by_role("link", name="Revive").click()
    olga.get_by_role("button", name="Revive it").click()
    expect(says(vera)).to_contain_text("On: on to 10 %")
    for page in (vera, lists):
        assert page.evaluate("window.neverReloaded") is True
        assert page.evaluate("window.shifted") < CALM


def test_a_reason_that_is_being_typed_is_not_lost_when_the_page_changes(site: Site, page: Page) -> None:
    place = site.flag("typed-into")
    site.log_in(page, "olga", place)
    page.get_by_text("Kill", exact=True).click()
    page.get_by_label("Why", exact=True).fill("half a sen")
    site.flagged.service.flags.set_shares(KEY, "typed-into", "ramp", {"on": 3000}, ROOT)
    expect(says(page)).to_contain_text("on to 30 %")
    expect(page.get_by_label("Why", exact=True)).to_be_focused()
    expect(page.get_by_label("Why", exact=True)).to_have_value("half a sen")


def test_the_editor_shows_who_would_get_what_before_it_saves(site: Site, page: Page, shot: Shot) -> None:
    place = site.flag("edited")
    page.add_init_script(SHIFTED)
    site.log_in(page, "olga", f"{place}/edit")
    preview = page.locator("#preview")
    expect(page.locator("#preview[data-looks='1']")).to_be_attached()
    expect(preview).to_contain_text(re.compile(r"None of 2.000 would get anything else"))
    share = page.locator("[data-share=on]")
    share.fill("60")
    expect(preview.locator(".crowd").last).to_contain_text(re.compile(r"of 2.000 would get something else"))
    expect(preview.locator(".moves").last).to_contain_text(re.compile(r"off . on"))
    expect(page.locator("[data-share=off]")).to_have_value("40")
    page.get_by_label("Try it on contexts, one a line").fill('{"targetingKey": "<b>grace</b>"}')
    expect(preview.locator(".examples")).to_contain_text('{"targetingKey": "<b>grace</b>"}')
    shot(page, "flag-edit-preview")
    page.get_by_label("Needs release").fill("twelve")
    fault = page.locator("#fault-needs")
    expect(fault).to_contain_text("a release, for example r12")
    expect(page.get_by_label("Needs release")).to_have_attribute("aria-invalid", "true")
    shot(page, "flag-edit-fault")
    page.get_by_label("Needs release").fill("")
    expect(fault).to_be_empty()
    assert site.data("edited")["crossfade"]["rules"][0]["serve"]["split"]["shares"] == {"on": [[0, 1000]]}
    page.get_by_label("Note").fill("more of it")
    page.get_by_role("button", name="Save").click()
    expect(page).to_have_url(f"{site.url}{place}")
    expect(says(page)).to_contain_text("on to 60 %, off to 40 %")
    expect(page.locator(".versions li").first).to_contain_text("more of it")


def test_enter_in_a_field_does_not_save(site: Site, page: Page) -> None:
    place = site.flag("entered")
    site.log_in(page, "olga", f"{place}/edit")
    expect(page.locator("#preview[data-looks]")).to_be_attached()
    page.get_by_label("What it is").fill("half")
    page.keyboard.press("Enter")
    expect(page).to_have_url(f"{site.url}{place}/edit")
    assert "description" not in site.data("entered")["crossfade"]


def test_two_who_change_a_flag_at_once_lose_nothing(site: Site, page: Page, page_watch: Watch, shot: Shot) -> None:
    page_watch.allow(r"status of 409")
    place = site.flag("shared")
    site.log_in(page, "olga", f"{place}/edit")
    page.get_by_label("What it is").fill("mine")
    site.flagged.service.flags.set_shares(KEY, "shared", "ramp", {"on": 5000}, ROOT)
    page.get_by_role("button", name="Save").click()
    note = page.locator(".note-bad")
    expect(note).to_contain_text("on to 50 %, off to the rest")
    expect(page.get_by_label("What it is")).to_have_value("mine")
    shot(page, "flag-conflict")
    page.get_by_role("button", name="Save mine nevertheless").click()
    expect(page).to_have_url(f"{site.url}{place}")
    expect(page.locator(".flag-because")).to_contain_text("mine")


def test_a_viewer_may_look_at_all_of_it_and_do_nothing(site: Site, page: Page, shot: Shot) -> None:
    place = site.flag("looked-at")
    site.log_in(page, "vera", place)
    for name in ("Kill", "Switch off", "Edit", "Begin a guarded ramp"):
        expect(page.get_by_role("button", name=name)).to_be_disabled()
    expect(page.get_by_text(f"This wants the role operator for {KEY}.").first).to_be_visible()
    shot(page, "flag-viewer")
    page.goto(f"{site.url}{place}/edit")
    expect(page.get_by_role("button", name="Save")).to_be_disabled()
    page.locator("[data-share=on]").fill("50")
    expect(page.locator("#preview")).to_contain_text("would get something else")


def test_a_ramp_is_watched_and_aborted(site: Site, page: Page, shot: Shot) -> None:
    place = site.flag("ramped")
    site.log_in(page, "olga", place)
    page.get_by_role("link", name="Begin a guarded ramp").click()
    page.get_by_label("Steps: a share, and for how long").fill("20 % 5m, 60 % 5m, 100 % 5m")
    page.get_by_role("button", name="Begin it").click()
    site.flagged.service.ramps.look()
    expect(says(page)).to_contain_text("Ramps up: on to 20 %")
    expect(page.locator(".ramp-says")).to_contain_text("Step 1 of 3: 20 % get on, the rest off")
    expect(page.locator(".ramp-steps [aria-current]")).to_contain_text("20 %")
    shot(page, "flag-ramp")
    page.get_by_role("link", name="Pause", exact=True).click()
    page.get_by_role("button", name="Pause it").click()
    expect(page.locator(".ramp-says")).to_contain_text("Paused: on stays at 20 %")
    page.get_by_role("link", name="Abort").click()
    page.get_by_role("button", name="Abort it").click()
    site.flagged.service.ramps.look()
    expect(page.locator("[data-part=rules]")).to_contain_text("off 100 %")


def test_flags_are_made_and_killed_without_scripts(site: Site, open_context: Contexts) -> None:
    page = open_context(java_script_enabled=False).new_page()
    site.log_in(page, "olga", f"{HERE}/flags")
    page.get_by_role("link", name="New flag").click()
    page.get_by_label("Name", exact=True).fill("no-scripts")
    page.get_by_role("button", name="Add a rule").click()
    page.get_by_role("button", name="Add a condition to rule 1").click()
    page.get_by_label("Attribute 1 of rule 1").fill("country")
    page.get_by_label("Value 1 of rule 1").fill("de")
    page.get_by_role("button", name="Preview", exact=True).last.click()
    expect(page.get_by_text("would get something else").first).to_be_visible()
    page.get_by_role("button", name="Save").click()
    expect(page).to_have_url(f"{site.url}{HERE}/flags/no-scripts")
    expect(page.locator(".rules")).to_contain_text('country is "de"')
    page.get_by_text("Kill", exact=True).click()
    page.get_by_role("button", name="Kill it").click()
    expect(says(page)).to_contain_text("Killed")
    page.get_by_label("A context, as JSON").fill('{"country": "de"}')
    page.get_by_role("button", name="Ask").click()
    expect(page.get_by_role("region", name="The answer")).to_contain_text("It gets off")


def places(site: Site) -> dict[str, str]:
    if not site.flagged.service.flags.requests(GUARDED):
        site.flagged.asked()
    long = HOSTILE[-1]
    return {
        "flags": "/flags",
        "flags-of": f"{HERE}/flags",
        "flag": f"{HERE}/flags/new-checkout?context=%7B%22email%22%3A%22a%40shop.test%22%7D",
        "flag-killed": f"{HERE}/flags/old-cart",
        "flag-hostile": f"{HERE}/flags/{quote(HOSTILE[0])}",
        "flag-long": f"{HERE}/flags/{long}",
        "flag-edit": f"{HERE}/flags/new-checkout/edit",
        "flag-edit-long": f"{HERE}/flags/{long}/edit",
        "flag-edit-variants": f"{HERE}/flags/checkout-page/edit",
        "flag-new": f"{HERE}/new-flag",
        "flag-version": f"{HERE}/flags/new-checkout/versions/1",
        "flag-promote": f"{HERE}/flags/new-checkout/promote?to=staging",
        "flag-ask": f"{HERE}/flags/new-checkout/orders/off",
        "flag-ramp-begin": f"{HERE}/flags/search-v2/ramp",
        "flag-requests": "/flag-requests",
        "flag-request": "/flag-requests/1",
        "experiments": f"{HERE}/experiments",
        "experiments-none": f"/environments/{STAGING}/experiments",
        "experiment": f"{HERE}/experiments/short%20page",
        "experiment-unfair": f"{HERE}/experiments/unfair",
        "experiment-later": f"{HERE}/experiments/later",
        "experiment-new": f"{HERE}/new-experiment?flag=checkout-page",
        "experiment-conclude": f"{HERE}/experiments/short%20page/orders/conclude",
    }


@pytest.mark.parametrize("how", ["light", "dark", "phone"])
def test_the_pages_of_flags_can_be_read_by_everybody(
    site: Site, open_context: Contexts, how: str, axe: Axe, shot: Shot
) -> None:
    options: dict[str, Any] = {"color_scheme": "dark" if how == "dark" else "light"}
    if how == "phone":
        options["viewport"] = {"width": 390, "height": 844}
    page = open_context(**options).new_page()
    page.add_init_script(SHIFTED)
    sizes: list[int] = []
    page.on("response", lambda answer: sizes.append(int(answer.headers.get("content-length", 0))))
    site.log_in(page, "oskar", "/flags")
    for name, place in places(site).items():
        sizes.clear()
        page.goto(site.url + place, wait_until="load")
        if "/edit" in place:
            expect(page.locator("#preview[data-looks]")).to_be_attached()
        axe(page)
        shot(page, f"{name}-{how}")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), place
        assert page.evaluate("window.shifted") < CALM, place
        assert sum(sizes) < HEAVIEST, place
