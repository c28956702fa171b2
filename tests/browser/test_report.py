"""The report in a browser: read in light and dark, on a phone and on paper, and taken along."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from playwright.sync_api import BrowserContext, Page, expect

from crossfade.domain.access import Grant
from crossfade.domain.alert import Severity
from crossfade.domain.report.span import DAY
from crossfade.domain.slo import EDGE, PROBE, Counted, Objective, Series, SloPolicy
from crossfade.domain.values import EnvKey
from crossfade.web.app import mount
from tests.service.report_stage import NOVEMBER, Ledger, at
from tests.service.stage import ADMIN, KEY, Stage

Axe = Callable[[Page], None]
Shot = Callable[[Page, str], Any]
Contexts = Callable[..., BrowserContext]

PASSWORD = "a password of some length"
HOSTILE = "=1+1 <img src=x onerror=alert(1)> \u202e"
POLICY = SloPolicy((Objective("answers", 0.999), Objective("paid", 0.995)))


@dataclass
class Site:
    """A server with a November of its own."""

    stage: Stage
    url: str

    def log_in(self, page: Page, place: str, name: str = "vera") -> None:
        page.goto(f"{self.url}/login?next={place}")
        page.get_by_label("Name").fill(name)
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("Report")


def october(stage: Stage) -> None:
    """A deployment every other day."""
    bookshop = Ledger(stage.parts, KEY, POLICY)
    for day in range(-29, 0, 2):
        bookshop.deploy(at(day, 9), took=200.0)
        if day % 3 == 0:
            bookshop.fail(at(day, 11), took=90.0)
        bookshop.quiet_day(int(at(day)), bad=60.0)


def november(stage: Stage) -> None:
    """Deployments on most days, some of which fail; one bad hour, one gap, and a drill each week."""
    bookshop, atlas = Ledger(stage.parts, KEY, POLICY), Ledger(stage.parts, EnvKey("atlas", "production"))
    first = bookshop.deploy(at(1, 8))
    atlas.deploy(at(1, 9))
    for day in range(2, 29):
        if day % 7 in (0, 1):
            continue  # a weekend
        release = bookshop.deploy(at(day, 9), took=90.0)
        if day % 5 == 0:
            bookshop.fail(at(day, 11), took=6.0 + day, reason=HOSTILE if day == 10 else "5xx: 31 % against 0.1 %")
        if day == 17:
            bookshop.go_back(at(day, 9) + 700.0, first.plan.candidate)
        atlas.deploy(at(day, 14))
        first = release
    for day in range(1, 31):
        for ledger in (bookshop, atlas):
            if ledger is bookshop and day == 22:
                continue  # the server was down
            bad, day_of = 4.0 * (day % 3), int(at(day))
            if ledger is bookshop and day == 12:
                # A bad quarter of an hour; histories go on from where they are.
                bad, begins = 900.0, int(at(12, 15))
                for begin, end, failed in (
                    (day_of, begins, 0.0),
                    (begins, begins + 900, bad),
                    (begins + 900, day_of + DAY, 0.0),
                ):
                    counted = Counted(5.0 * (end - begin), failed, end - begin)
                    stage.parts.histories.add(Series(KEY, EDGE), begin, end, counted)
            else:
                ledger.count(day_of, total=432_000.0, bad=bad)
            ledger.count(int(at(day)), total=8640.0, bad=float(day % 4 == 0), name=PROBE)
            for name in ("answers", "paid"):
                ledger.count(int(at(day)), total=432_000.0, bad=bad, name=name)
    before, stage.now = stage.now, at(12, 15) + 130.0
    stage.service.alerts.open(
        KEY, "burn:answers", Severity.PAGE, "answers burns 41 times too fast: 20 % of requests fail"
    )
    stage.now = at(12, 15) + 1800.0
    stage.service.alerts.resolve(KEY, "burn:answers", "it is over")
    stage.now = before
    for week in range(4):
        receipt = {"detection": 0.4, "decision": 0.1, "switch": 0.3 + week / 10, "recovery": 1.9 + week, "harmed": 0}
        data = {"drill": {}, "outcome": "failed" if week == 2 else "passed", "receipt": receipt}
        began = at(3 + 7 * week, 4)
        stage.parts.records.add("drill", KEY, "weekly", data, began, ended=began + 60.0)
        stage.parts.records.add("proof", KEY, f"r{week + 1}", {"ok": True, "took": 3.1}, began, ended=began + 4.0)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    stage = Stage()
    stage.now = float(NOVEMBER.begins) - 1.0
    october(stage)
    stage.service.reports.days.keep()
    stage.now = float(NOVEMBER.ends) + 3600.0
    november(stage)
    stage.service.reports.days.keep()
    stage.service.accounts.add("vera", [Grant.parse("viewer")], PASSWORD, ADMIN)
    stage.service.accounts.add("only", [Grant.parse("viewer@atlas/production")], PASSWORD, ADMIN)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        app = FastAPI(docs_url=None, openapi_url=None)
        mount(app, stage.service, origin=url, key=b"k" * 32)
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=1))
        stage.service.hub.start()
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        yield Site(stage, url)
        stage.service.hub.stop()
        server.should_exit = True
        thread.join()


@pytest.mark.parametrize("how", ["light", "dark", "phone"])
def test_the_report_can_be_read_by_everybody(
    site: Site, open_context: Contexts, how: str, axe: Axe, shot: Shot
) -> None:
    options: dict[str, Any] = {"color_scheme": "dark" if how == "dark" else "light"}
    if how == "phone":
        options["viewport"] = {"width": 390, "height": 844}
    page = open_context(**options).new_page()
    site.log_in(page, "/report")
    page.goto(f"{site.url}/report?month=2026-11")
    axe(page)
    shot(page, f"report-{how}")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    expect(page.get_by_text("<img src=x onerror=alert(1)>").first).to_be_visible()


def test_a_month_is_chosen_filtered_and_turned_without_scripts(site: Site, open_context: Contexts) -> None:
    page = open_context(java_script_enabled=False).new_page()
    site.log_in(page, "/report?month=2026-11")
    expect(page.get_by_role("heading", level=1)).to_have_text("Report of November 2026")
    page.get_by_label("Service").select_option("atlas")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_text("Of atlas/production.")).to_be_visible()
    page.get_by_role("link", name="2026-10").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Report of October 2026")
    expect(page.get_by_text("Of atlas/production.")).to_be_visible()
    # Of a month without anything nothing is said, and no 0.
    expect(page.locator(".figures .unknown")).to_have_count(6)


def test_who_sees_one_environment_sees_a_report_of_that_one(site: Site, page: Page) -> None:
    site.log_in(page, "/report?month=2026-11", "only")
    expect(page.get_by_text("Of atlas/production.")).to_be_visible()
    expect(page.locator("main")).not_to_contain_text("bookshop")


@pytest.mark.parametrize(
    ("name", "file", "begins"),
    [("Markdown", "report-2026-11.md", "# Report"), ("CSV", "report-2026-11.csv", "section,"), ("JSON", "report-2026-11.json", "{")],
)  # fmt: skip
def test_it_is_taken_along(site: Site, page: Page, name: str, file: str, begins: str) -> None:
    site.log_in(page, "/report?month=2026-11")
    with page.expect_download() as begun:
        page.get_by_role("link", name=name, exact=True).click()
    assert begun.value.suggested_filename == file
    assert begun.value.path().read_text().startswith(begins)


def test_on_paper_it_is_light_and_has_only_what_belongs_there(site: Site, open_context: Contexts, shot: Shot) -> None:
    page = open_context(color_scheme="dark", viewport={"width": 794, "height": 1123}).new_page()
    site.log_in(page, "/report?month=2026-11")
    page.emulate_media(media="print", color_scheme="light")
    expect(page.locator("header.top")).to_be_hidden()
    expect(page.get_by_role("button", name="Show")).to_be_hidden()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    shot(page, "report-print")
    assert page.pdf(format="A4").startswith(b"%PDF")
