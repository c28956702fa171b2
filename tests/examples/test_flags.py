"""The bookshop with flags, under load: a segment, a ramp, a variant that kills itself, an experiment, a canary that survives."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.e2e.installation import Installation, until
from tests.examples.flagged_bookshop import BUY, EXAMPLE, Readers, deploy, set_up


@pytest.fixture(scope="module")
def shop() -> Iterator[Installation]:
    with Installation() as shop:
        set_up(shop)
        shop.up()
        deploy(shop, "v1")
        shop.run("flags", "import", str(EXAMPLE / "flags.json"), "--note", "the shop opens")
        yield shop


def live(shop: Installation) -> str:
    return str(shop.client().environment("bookshop/production")["live"])


def served(shop: Installation, flag: str, *who: str) -> str:
    return str(shop.json("flags", "why", flag, *who)["evaluation"]["variant"])


def test_a_feature_is_released_to_a_segment_and_then_ramped_to_everybody_under_the_judge(shop: Installation) -> None:
    assert served(shop, "recommendations", "key=reader-1", "email=ada@bookshop.example") == "on"
    assert served(shop, "recommendations", "key=reader-1", "email=ada@elsewhere.example") == "off"
    status, headers, body = shop.get("/book?reader=ada&email=ada@bookshop.example")
    assert (status, "recommended" in body) == (200, True)
    assert "x-crossfade-variant" not in headers
    with Readers(shop.port) as readers:
        until(lambda: readers.asked.get("buy", 0) > 20, what="visits")
        assert readers.share_recommended() == 0
        done = shop.json("flags", "ramp", "recommendations", "--steps", "30%:3s,100%:3s")
        assert done["phase"] == "finished", done
        until(lambda: readers.share_recommended(0.5) == 1.0, what="everybody to get it")
    assert (readers.failed, readers.errors) == ([], {})
    assert done["receipt"], done


def test_a_canary_whose_new_flag_fails_loses_the_flag_and_goes_on(shop: Installation) -> None:
    assert served(shop, "gift-wrap", "key=reader-1") == "off", "its code comes with r2"
    with Readers(shop.port, pause=0.015) as readers:
        until(lambda: readers.asked.get("gift", 0) > 50, what="visits")
        done = deploy(shop, "v2")
    receipt = done["receipt"]
    assert receipt["outcome"] == "promoted"
    (remedy,) = receipt["remedies"]
    assert (remedy["what"], remedy["target"]) == ("kill-flag", "gift-wrap=on"), remedy
    assert receipt["plan"], receipt
    assert set(readers.errors) == {"gift"}
    assert readers.failed == []
    assert shop.json("flags", "get", "gift-wrap")["flag"]["crossfade"]["killed"]
    assert live(shop) == "r2"


def test_a_harmful_variant_kills_itself_while_its_release_stays(shop: Installation) -> None:
    before, releases = live(shop), len(shop.json("releases"))
    with Readers(shop.port) as readers:
        until(lambda: readers.asked.get("search", 0) > 50, what="visits")
        told = shop.run("flags", "ramp", "fast-search", "--steps", "30%:20s,100%:20s", check=False)
        assert told.returncode == 1, told.stdout + told.stderr
        assert "kills the flag" in told.stdout
        until(lambda: served(shop, "fast-search", "key=reader-1") == "off", what="the flag to be killed")
        time.sleep(1.0)  # a change reaches every replica within a second
        failed, asked = readers.errors.get("search", 0), readers.asked["search"]
        until(lambda: readers.asked["search"] > asked + 150, what="visits afterwards")
        assert readers.errors.get("search", 0) == failed
    assert 0 < failed < 0.3 * asked
    assert set(readers.errors) == {"search"}
    assert readers.failed == []
    found = shop.json("flags", "get", "fast-search")
    killed = found["flag"]["crossfade"]["killed"]
    assert "errors" in killed["why"] and killed["by"] == "crossfade", killed
    assert live(shop) == before
    assert len(shop.json("releases")) == releases


def test_an_experiment_of_two_checkout_pages_finds_the_better_one_with_a_valid_interval(shop: Installation) -> None:
    create = ["experiments", "create", "checkout", "--flag", "checkout-page", "--units", "1000"]
    shop.run(*create, "--metric", "bought=conversion:purchase", "--start")
    with Readers(shop.port) as readers:

        def decided() -> Any:
            found = shop.json("experiments", "show", "checkout")
            return found if found["results"]["winner"] else None

        found = until(decided, 60, "a winner")
    assert readers.failed == []
    known = found["results"]
    assert known["winner"] == "one-page", known["why"]
    assert known["sample_ratio"]["finding"] == "ok", known["sample_ratio"]
    (estimate,) = known["metrics"][0]["estimates"]
    truth = BUY["one-page"] - BUY["classic"]
    assert 0 < estimate["low"] < truth < estimate["high"] < 1, estimate
    shown = shop.run("experiments", "show", "checkout").stdout
    assert "winner: one-page" in shown, shown
    shop.run("experiments", "conclude", "checkout")
    assert served(shop, "checkout-page", "key=anybody") == "one-page"


def test_all_of_it_is_in_the_dashboard(shop: Installation) -> None:
    link = shop.json("dashboard")["url"]
    with httpx.Client(follow_redirects=True, trust_env=False) as browser:
        browser.get(link)
        base = f"http://127.0.0.1:{shop.api_port}"
        place = f"{base}/environments/bookshop/production"
        flags = browser.get(f"{place}/flags").text
        assert all(name in flags for name in ("recommendations", "fast-search", "gift-wrap", "checkout-page"))
        assert "killed" in browser.get(f"{place}/flags/fast-search").text.lower()
        assert "one-page" in browser.get(f"{place}/experiments/checkout").text
