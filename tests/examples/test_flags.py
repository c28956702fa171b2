"""The bookshop with flags, under load: a segment, a ramp, a variant that kills itself, an experiment, a canary that survives."""

from __future__ import annotations

import os
import random
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import yaml

from tests.e2e.installation import Installation, until

EXAMPLE = Path(__file__).parents[2] / "examples" / "04-flags"
BUY = {"classic": 0.15, "one-page": 0.45}
"""How likely a reader buys who sees a page: what the experiment has to find out."""


class Readers:
    """Open-loop clients: each turn is a reader's visit, at which all pages are asked for. Who saw and did what is remembered."""

    def __init__(self, port: int, pause: float = 0.02, clients: int = 4) -> None:
        self.port, self.pause = port, pause
        self.failed: list[str] = []
        self.pages: dict[str, str] = {}
        self.bought: set[str] = set()
        self.errors: dict[str, int] = {}
        self.asked: dict[str, int] = {}
        self.recommended = 0
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._number, self._due = 0, time.monotonic()
        self._chance = random.Random(7)
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(clients)]

    def __enter__(self) -> Readers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=20)

    def share_recommended(self, seconds: float = 1.0) -> float:
        """Of the visits of the next seconds, how many were recommended something."""
        with self._lock:
            shown, visits = self.recommended, self._number
        time.sleep(seconds)
        with self._lock:
            return (self.recommended - shown) / max(1, self._number - visits)

    def _run(self) -> None:
        connection: HTTPConnection | None = None
        while not self._stop.is_set():
            with self._lock:
                self._number += 1
                reader, due = f"reader-{self._number}", self._due
                self._due = max(self._due + self.pause, time.monotonic() - 1)
                buys = self._chance.random()
            self._stop.wait(max(0.0, due - time.monotonic()))
            connection = connection or HTTPConnection("127.0.0.1", self.port, timeout=20)
            for page in ("book", "search", "gift", "checkout", "buy"):
                if page == "buy" and buys >= BUY[self.pages.get(reader, "classic")]:
                    continue
                connection, answer = self._ask(connection, page, reader)
                if answer is None:
                    continue
                with self._lock:
                    if page == "book":
                        self.recommended += "recommended" in answer
                    elif page == "checkout":
                        self.pages[reader] = answer["page"]
                    elif page == "buy":
                        self.bought.add(reader)

    def _ask(self, connection: HTTPConnection, page: str, reader: str) -> tuple[HTTPConnection, Any]:
        for attempt in (1, 2):
            try:
                connection.request("POST" if page == "buy" else "GET", f"/{page}?reader={quote(reader)}")
                answer = connection.getresponse()
                body = answer.read()
            except (OSError, HTTPException) as error:
                # A kept connection that was closed while idle is the client's to reopen.
                connection.close()
                connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
                if attempt == 2:
                    self.failed.append(f"{page}: {error!r}")
                continue
            assert answer.headers.get("X-Crossfade-Variant") is None, "what the edge is told is not for clients"
            with self._lock:
                self.asked[page] = self.asked.get(page, 0) + 1
                if answer.status != 200:
                    self.errors[page] = self.errors.get(page, 0) + 1
                    return connection, None
            return connection, httpx.Response(200, content=body).json()
        return connection, None


@pytest.fixture(scope="module")
def shop() -> Iterator[Installation]:
    with Installation() as shop:
        shutil.rmtree(shop.project)
        shutil.copytree(EXAMPLE, shop.project)
        spec = yaml.safe_load((EXAMPLE / "crossfade.yaml").read_text())
        spec["build"]["command"] = [sys.executable, "build.py"]
        spec["run"]["command"] = [sys.executable, "-B", "shop.py"]
        spec["strategy"]["steps"] = [{"weight": "50%", "duration": "6s"}]
        spec["analysis"] = {"deadline": "5s", "when_unsure": "promote", "error_rate": {"margin": "3%"}}
        spec["warm_for"] = "5s"
        spec["environments"] = {"production": {"port": shop.port}}
        (shop.project / "crossfade.yaml").write_text(yaml.safe_dump(spec))
        shop.up()
        deploy(shop, "v1")
        shop.run("flags", "import", str(EXAMPLE / "flags.json"), "--note", "the shop opens")
        yield shop


def deploy(shop: Installation, version: str) -> dict[str, Any]:
    os.environ["BOOKSHOP_VERSION"] = version
    try:
        done: dict[str, Any] = shop.deploy("--label", version)
    finally:
        del os.environ["BOOKSHOP_VERSION"]
    assert done["rollout"]["phase"] == "promoted", done["rollout"]["reason"]
    return done


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
