"""The bookshop with objectives, under load: a drill, a proof, a leak that the watch takes back, and the report of all of it."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.e2e.installation import Installation, Load, until

pytestmark = pytest.mark.timeout(400)

EXAMPLE = Path(__file__).parents[2] / "examples" / "05-objectives"
POOL = 300
"""Connections of a replica: with them v3 fails after 1,200 visits of each."""


@pytest.fixture(scope="module")
def shop() -> Iterator[Installation]:
    with Installation() as shop:
        shutil.rmtree(shop.project)
        shutil.copytree(EXAMPLE, shop.project)
        spec = yaml.safe_load((EXAMPLE / "crossfade.yaml").read_text())
        spec["build"]["command"] = [sys.executable, "build.py"]
        spec["run"] |= {"command": [sys.executable, "-B", "shop.py"], "env": {"CONNECTIONS": POOL}}
        spec["strategy"]["steps"] = [{"weight": "50%", "duration": "2s"}]
        spec["slo"]["probe"]["every"] = "1s"
        spec["drills"] = [{"name": "each-minute", "schedule": "* * * * *", "hold": "3s"}]
        spec["environments"] = {"production": {"port": shop.port}}
        (shop.project / "crossfade.yaml").write_text(yaml.safe_dump(spec))
        shop.up()
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


def drills(shop: Installation) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = shop.json("drill", "list")["drills"]
    return [one for one in found if one["ended"]]


def test_the_bookshop_keeps_its_promises(shop: Installation) -> None:
    deploy(shop, "v1")
    with Load(shop.port, pause=0.02) as load:
        deploy(shop, "v2")

        # A drill that its schedule has begun, with nobody's help.
        until(lambda: drills(shop), 150, "the scheduled drill")
        (drill, *_) = drills(shop)
        assert drill["ok"], drill
        assert drill["name"] == "each-minute"
        until(lambda: live(shop) == "r2" and shop.client().environment("bookshop/production")["rollout"] is None)
        assert load.seen.broken == []
        assert set(load.seen.statuses) == {200}

        # Every release of the window is started and asked.
        proofs = shop.json("prove")["proofs"]
        assert [(one["release"], one["ok"]) for one in proofs] == [("r1", True)], proofs

        # v3 passes its checks, its canary and its promotion, and fails some time after it. (No drill goes back before that.)
        spec = yaml.safe_load((shop.project / "crossfade.yaml").read_text())
        spec["drills"][0].pop("schedule")
        (shop.project / "crossfade.yaml").write_text(yaml.safe_dump(spec))
        deploy(shop, "v3")
        assert live(shop) == "r3"
        until(lambda: live(shop) == "r2", 120, "the watch to take r3 back")
        before = load.seen.statuses.get(500, 0)
        assert before > 0, "it was harmful"
        time.sleep(2)
        assert load.seen.statuses.get(500, 0) <= before + 5, "what was in flight may still have failed"

    (watch, *_) = shop.json("watches", "bookshop/production")["watches"]
    assert (watch["release"], watch["phase"]) == ("r3", "helped"), watch
    assert watch["receipt"]["harmed"] >= before, watch["receipt"]
    found = shop.json("slo", "bookshop/production")
    assert {one["name"] for one in found["objectives"]} == {"answered", "quick"}
    report = shop.json("report")
    assert report, report
    shown = shop.run("slo", "bookshop/production").stdout
    assert "answered" in shown, shown


def test_all_of_it_is_in_the_dashboard(shop: Installation) -> None:
    link = shop.json("dashboard")["url"]
    with httpx.Client(follow_redirects=True, trust_env=False) as browser:
        browser.get(link)
        base = f"http://127.0.0.1:{shop.api_port}"
        place = f"{base}/environments/bookshop/production"
        assert "answered" in browser.get(f"{place}/slo").text
        assert "each-minute" in browser.get(f"{place}/drills").text
        assert "r3" in browser.get(f"{base}/report").text
