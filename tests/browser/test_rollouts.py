"""Rollouts, run from a browser: one installation under load, real pages, real people."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from crossfade import bootstrap
from crossfade.cli.client import Client
from tests.browser.conftest import Watch
from tests.e2e.installation import Installation, Load, until

Axe = Callable[[Page], None]
Shot = Callable[[Page, str], Any]
Contexts = Callable[..., BrowserContext]

PASSWORD = "a password of some length"
HEAVIEST = 300_000
"""Bytes that a page may have with all that it needs."""
CALM = 0.05
"""Cumulative layout shift that a page may have while it is updated: 0.1 is what is called good."""


@dataclass
class Shop:
    """An installation with a release that is live, and people who may do different things."""

    installation: Installation
    client: Client

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.installation.api_port}"

    def begin(self, version: str, strategy: dict[str, Any], mode: str = "good") -> int:
        """Deploy and do not wait; the number of the rollout."""
        self.installation.configure(version, mode, strategy=strategy)
        with bootstrap.package(self.installation.project, "production", None, lambda _: None) as package:
            self.client.upload(package.file, package.digest)
            state: Mapping[str, Any] = self.client.deploy(package.request(version, "ada"))
            return int(state["id"])

    def wait(self, rollout: int, phase: str) -> None:
        until(lambda: self.client.rollout(rollout)["phase"] == phase, what=f"#{rollout} to be {phase}")

    def abort(self, rollout: int) -> None:
        """However it ended: the environment is free for the next test."""
        if not self.client.rollout(rollout)["ended"]:
            self.client.command("shop/production", "abort", "the test")
        until(lambda: not self.client.environment("shop/production")["rollout"], what="the environment to be free")

    def log_in(self, page: Page, name: str, place: str = "/") -> None:
        page.goto(f"{self.url}/login?next={place}")
        page.get_by_label("Name").fill(name)
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Log in").click()
        expect(page).to_have_url(f"{self.url}{place}")


def canary(installation: Installation) -> dict[str, Any]:
    """One that holds at its first step for as long as any test looks at it."""
    return installation.canary("20%", "60%", duration="10m")


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    with Installation() as installation:
        client = installation.up()
        made = Shop(installation, client)
        for name, grants in (("ada", ["admin"]), ("olga", ["operator@shop/*"]), ("vera", ["viewer"])):
            client.add_account(name, grants, PASSWORD)
        made.wait(made.begin("v1", {"kind": "blue-green", "watch": "100ms"}), "promoted")
        with Load(installation.port, clients=2, pause=0.02):
            yield made


@pytest.fixture
def rollout(shop: Shop) -> Iterator[int]:
    """A canary that holds at its first step."""
    number = shop.begin("v2", canary(shop.installation))
    shop.wait(number, "shifting")
    yield number
    shop.abort(number)


def watch(shop: Shop, page: Page, name: str, rollout: int) -> None:
    """Log in and open the page of a rollout; until its script is there its links lead to pages of their own."""
    shop.log_in(page, name, f"/rollouts/{rollout}")
    expect(page.locator("#rollout[data-live]")).to_be_attached()


def phase(page: Page) -> Any:
    return page.locator(".rollout-phase")


def give(page: Page, name: str) -> None:
    """Order something and confirm it."""
    page.get_by_role("link", name=name, exact=True).click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    dialog.get_by_role("button", name=name, exact=True).click()


def test_a_whole_rollout_is_run_from_its_page(shop: Shop, rollout: int, page: Page, shot: Shot) -> None:
    watch(shop, page, "olga", rollout)
    page.evaluate("window.neverReloaded = true")
    expect(phase(page)).to_contain_text("Step 1 of 2: 20 % to r")
    expect(page.locator(".weights")).to_have_attribute("aria-label", re.compile("20 %"))
    expect(page.locator("[data-chart=rps] .uplot")).to_be_visible()
    expect(page.locator("[data-chart=rps] [data-now]")).to_contain_text(re.compile(r"r1 \d"))
    expect(page.locator(".verdict")).to_contain_text("error_rate")
    give(page, "Pause")
    expect(phase(page)).to_contain_text("Paused")
    expect(page.locator(".rollout-why")).to_contain_text("paused by olga")
    give(page, "Resume")
    expect(phase(page)).not_to_contain_text("Paused")
    shot(page, "rollout")
    give(page, "Promote")
    expect(phase(page)).to_contain_text("is promoted")
    expect(page.locator(".rollout-why")).to_contain_text("promoted by olga")
    expect(page.get_by_role("link", name="receipt", exact=True)).to_be_visible()
    expect(page.locator(".journal")).to_contain_text("promote by olga")
    assert page.evaluate("window.neverReloaded") is True
    shop.wait(rollout, "promoted")
    until(lambda: not shop.client.environment("shop/production")["rollout"])
    page.reload()  # the page of an ended rollout is the same without what is live
    expect(page.locator("#rollout[data-live]")).to_be_attached()
    page.get_by_role("link", name="Roll back").click()
    expect(page.get_by_role("dialog")).to_contain_text("brings r1 back")
    page.get_by_role("dialog").get_by_role("button", name="Roll back").click()
    expect(page).to_have_url(f"{shop.url}/rollouts/{rollout + 1}")
    expect(phase(page)).to_contain_text("r1 is live again")
    shop.wait(rollout + 1, "promoted")


def test_a_rollout_is_begun_from_the_browser_too(shop: Shop, rollout: int, page: Page, axe: Axe, shot: Shot) -> None:
    shop.abort(rollout)
    release = shop.client.rollout(rollout)["candidate"]
    shop.log_in(page, "olga", "/environments/shop/production")
    page.get_by_role("link", name=release, exact=True).first.click()
    page.get_by_role("link", name=f"Deploy {release} again").click()
    expect(page.get_by_role("listitem").filter(has_text="as a canary: 20 %, then 60 %")).to_be_visible()
    axe(page)
    shot(page, "deploy-again")
    page.get_by_role("button", name=f"Deploy {release}").click()
    expect(page).to_have_url(f"{shop.url}/rollouts/{rollout + 1}")
    expect(phase(page)).to_contain_text(f"20 % to {release}", timeout=30_000)
    give(page, "Abort")
    expect(phase(page)).to_contain_text("Went back")
    shop.abort(rollout + 1)


def test_an_abort_asks_once_says_what_will_happen_and_who_did_it(
    shop: Shop, rollout: int, page: Page, axe: Axe, shot: Shot
) -> None:
    watch(shop, page, "ada", rollout)
    opener = page.get_by_role("link", name="Abort", exact=True)
    opener.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text(re.compile("All traffic goes back to r1 in (blue|green) at once"))
    axe(page)
    shot(page, "abort")
    page.keyboard.press("Escape")
    expect(dialog).not_to_be_visible()
    expect(phase(page)).to_contain_text("Step 1")
    opener.click()
    dialog.get_by_role("button", name="Abort").click()
    expect(phase(page)).to_contain_text("Went back to r1")
    expect(page.locator(".rollout-why")).to_contain_text("aborted by ada")
    expect(page.locator(".rung-failed")).to_contain_text("20 %")


def test_a_bad_release_is_seen_to_fail_and_to_be_taken_back(shop: Shop, page: Page, shot: Shot) -> None:
    shop.log_in(page, "vera")
    number = shop.begin("v3", shop.installation.canary("20%", "60%", duration="20s"), mode="failing")
    page.goto(f"{shop.url}/rollouts/{number}")
    expect(phase(page)).to_contain_text("Went back to r1", timeout=30_000)
    expect(page.locator(".rollout-why")).to_contain_text("candidate requests failed")
    expect(page.locator(".verdict .pill-fail").first).to_be_visible()
    shot(page, "failed-release")


def test_a_viewer_sees_everything_and_may_do_nothing(shop: Shop, rollout: int, page: Page) -> None:
    watch(shop, page, "vera", rollout)
    for name in ("Promote", "Pause", "Abort", "Roll back"):
        expect(page.get_by_role("button", name=name, exact=True)).to_be_disabled()
    expect(page.locator(".act-why").first).to_contain_text("This wants the role operator for shop/production.")
    expect(page.get_by_role("link", name="Abort", exact=True)).to_have_count(0)


def test_a_wrong_password_lets_nobody_in(shop: Shop, page: Page, page_watch: Watch) -> None:
    page_watch.allow("401")
    page.goto(f"{shop.url}/rollouts/1")
    expect(page).to_have_url(re.compile(r"/login\?next="))
    page.get_by_label("Name").fill("ada")
    page.get_by_label("Password").fill("not the password")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_text("The name or the password is wrong.")).to_be_visible()
    page.get_by_label("Name").fill("ada")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    expect(page).to_have_url(f"{shop.url}/rollouts/1")


def test_without_scripts_an_order_asks_on_a_page_of_its_own(shop: Shop, rollout: int, open_context: Contexts) -> None:
    page = open_context(java_script_enabled=False).new_page()
    shop.log_in(page, "ada", f"/rollouts/{rollout}")
    page.get_by_role("link", name="Pause", exact=True).click()
    expect(page.get_by_text("The rollout takes no further step until somebody resumes it")).to_be_visible()
    page.get_by_role("button", name="Pause").click()
    expect(page).to_have_url(f"{shop.url}/rollouts/{rollout}")
    until(lambda: shop.client.rollout(rollout)["paused"])
    page.reload()
    expect(phase(page)).to_contain_text("Paused")


def test_a_page_that_loses_its_server_says_so_and_comes_back_by_itself(
    shop: Shop, rollout: int, page: Page, page_watch: Watch
) -> None:
    page_watch.allow("ERR_|Failed to load resource|network error")
    watch(shop, page, "ada", rollout)
    expect(page.locator("[data-chart=rps] .uplot")).to_be_visible()
    page.evaluate("window.neverReloaded = true")
    shop.installation.kill("server")
    lost = page.locator("#connection")
    expect(lost).to_contain_text("The connection is lost since")
    expect(lost).to_be_hidden(timeout=30_000)
    until(lambda: answers(shop))
    shop.client.command("shop/production", "pause", "grace")
    expect(phase(page)).to_contain_text("Paused")
    expect(page.locator(".rollout-why")).to_contain_text("paused by grace")
    assert page.evaluate("window.neverReloaded") is True


def answers(shop: Shop) -> bool:
    try:
        return bool(shop.client.environments())
    except Exception:  # noqa: BLE001 - whatever it is, the server is not there yet
        return False


def test_a_session_that_ends_while_the_server_is_away_is_not_waited_for(
    shop: Shop, rollout: int, page: Page, page_watch: Watch
) -> None:
    page_watch.allow("ERR_|Failed to load resource|network error")
    watch(shop, page, "vera", rollout)
    page.context.clear_cookies()
    shop.installation.kill("server")
    expect(page).to_have_url(f"{shop.url}/login?next=%2Frollouts%2F{rollout}", timeout=30_000)
    until(lambda: answers(shop))


def test_a_session_that_has_ended_sends_to_the_login_and_back(
    shop: Shop, rollout: int, page: Page, page_watch: Watch
) -> None:
    page_watch.allow("401")
    watch(shop, page, "vera", rollout)
    page.context.clear_cookies()
    shop.client.command("shop/production", "pause", "grace")
    expect(page).to_have_url(f"{shop.url}/login?next=%2Frollouts%2F{rollout}")
    page.get_by_label("Name").fill("vera")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    expect(page).to_have_url(f"{shop.url}/rollouts/{rollout}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_live_page_is_calm_light_and_accessible(
    shop: Shop, rollout: int, open_context: Contexts, axe: Axe, shot: Shot, scheme: str
) -> None:
    context = open_context(color_scheme=scheme, viewport={"width": 390 if scheme == "dark" else 1280, "height": 900})
    page = context.new_page()
    shop.log_in(page, "ada", "/")
    weights: list[int] = []
    page.on("response", lambda answer: weights.append(int(answer.headers.get("content-length", 0))))
    page.add_init_script(
        "window.shifted = 0; new PerformanceObserver(list => { for (const e of list.getEntries())"
        " if (!e.hadRecentInput) window.shifted += e.value; }).observe({type: 'layout-shift', buffered: true});"
    )
    page.goto(f"{shop.url}/rollouts/{rollout}")
    expect(page.locator("[data-chart=p99] .uplot")).to_be_visible()
    expect(page.locator(".verdict")).to_contain_text("error_rate")
    page.get_by_text("The same as a table").click()
    expect(page.locator("#numbers tbody tr").nth(1)).to_be_visible()
    page.get_by_text("The same as a table").click()
    axe(page)
    shot(page, f"rollout-{scheme}")
    assert sum(weights) < HEAVIEST
    assert page.evaluate("window.shifted") < CALM
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing is cut off at the side"


PAGES = (
    "/",
    "/environments/shop/production",
    "/environments/shop/production/releases/r1",
    "/rollouts/1",
    "/rollouts/1/receipt",
    "/events",
    "/audit",
    "/settings",
    "/approvals",
)


def test_every_page_is_accessible(shop: Shop, page: Page, axe: Axe, shot: Shot) -> None:
    page.goto(f"{shop.url}/login")
    axe(page)
    shop.log_in(page, "ada")
    for place in PAGES:
        answer = page.goto(f"{shop.url}{place}")
        assert answer is not None and answer.status == 200, place
        axe(page)
        shot(page, "page" + place.replace("/", "-").rstrip("-"))


def test_a_link_logs_in_once(shop: Shop, page: Page, open_context: Contexts, page_watch: Watch) -> None:
    page_watch.allow("401|403")
    link = str(shop.client.new_link("viewer", "guest")["url"])
    page.goto(link)
    expect(page).not_to_have_url(re.compile("login"))
    again = open_context().new_page()
    again.goto(link)
    expect(again.get_by_text("This link was used, or is too old.")).to_be_visible()
