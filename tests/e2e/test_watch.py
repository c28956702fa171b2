"""The watch after a promotion on the real parts: harm that begins late is taken back, or proposed to be, once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crossfade.domain.errors import CrossfadeError
from tests.e2e.installation import Installation, Load, until
from tests.e2e.test_crashes import dying

KEY = "shop/production"
SLO = {
    "objectives": [{"name": "answers", "target": "99.9%"}],
    "watch": "20m",
    "probe": {"every": "1s", "path": "/health"},
    "exhausted": "warn",
}


class Shop:
    """An installation with releases that fail when they are told to."""

    def __init__(self, installation: Installation) -> None:
        self.at = installation
        self.versions = 0

    def deploy(self, *arguments: str, **changes: Any) -> str:
        """The next version; the name that it answers by."""
        self.versions += 1
        name = f"v{self.versions}"
        self.at.configure(name, **({"slo": SLO, "warm_for": "10m"} | changes))
        done = self.at.deploy(*arguments)
        assert done["rollout"]["phase"] == "promoted", done["rollout"]["reason"]
        return name

    def tell(self, what: str, *versions: str) -> None:
        for version in versions:
            (self.at.sessions / f"{what}-{version}").touch()

    def forgive(self) -> None:
        for path in self.at.sessions.glob("*-v*"):
            path.unlink()

    def watch(self) -> dict[str, Any]:
        """The newest."""
        found: list[dict[str, Any]] = self.at.client().listed(f"/environments/{KEY}/watches", 1)
        return found[0]

    def ends(self, phase: str, seconds: float = 60) -> dict[str, Any]:
        """Wait until the newest watch is in a phase."""
        until(lambda: self.watch()["phase"] == phase, seconds, f"the watch to be {phase}: {self.watch()}")
        return self.watch()

    def rollbacks(self) -> list[dict[str, Any]]:
        return [dict(one) for one in self.at.client().rollouts(50) if one["kind"] == "rollback"]

    def alerts(self) -> dict[str, dict[str, Any]]:
        found: list[dict[str, Any]] = self.at.client().listed("/alerts", 50)
        return {one["name"]: one for one in found if one["ended"] is None}


@pytest.fixture
def shop() -> Iterator[Shop]:
    with Installation() as installation:
        installation.up()
        yield Shop(installation)


def served(load: Load, more: int) -> None:
    now = load.seen.total
    until(lambda: load.has_seen(now + more), what="requests")


@pytest.mark.timeout(300)
def test_a_release_that_fails_only_after_its_promotion_is_taken_back_to_the_warm_one_at_once(shop: Shop) -> None:
    good = shop.deploy()
    with Load(shop.at.port) as load:
        served(load, 1000)
        bad = shop.deploy()
        served(load, 1000)
        assert shop.watch()["phase"] == "watching"
        began = time.time()
        shop.tell("fails", bad)
        watch = shop.ends("helped")
        assert shop.at.version() == good
    assert load.seen.broken == []
    assert watch["cause"]["means"] in ("profile", "burn")
    receipt = watch["receipt"]
    assert receipt["helped"] is True and receipt["harmed"] > 0
    assert receipt["harm"] == pytest.approx(began, abs=3)
    assert 0 < receipt["recovery"] < 60
    (back,) = shop.rollbacks()
    assert (back["by"], back["candidate"], back["phase"]) == ("crossfade", "r1", "promoted")
    assert [note["who"] for note in shop.at.client().listed("/audit", 5) if note["what"] == "rollout.rollback"] == [
        "crossfade"
    ]
    # The same release again is the same cause: a person may bring it back, and nobody takes it back by itself.
    shop.at.run("redeploy", "r2", "--detach")
    shop.forgive()
    until(lambda: shop.at.version() == bad, what="r2 to be back")
    until(lambda: shop.watch()["release"] == "r2" and shop.watch()["phase"] == "watching", what="its watch")
    with Load(shop.at.port) as load:
        served(load, 500)
        shop.tell("fails", bad)
        watch = shop.ends("proposed")
        assert "taken back before" in watch["refused"]
        alert = shop.alerts()["watch"]
        assert alert["severity"] == "page"
        assert alert["facts"]["proposal"]["command"] == "crossfade rollback shop/production --to r1"
        time.sleep(3)
        assert len(shop.rollbacks()) == 1
        shop.at.run("rollback")
        assert shop.ends("superseded")["sentence"].endswith("r1 is live now")
    until(lambda: "watch" not in shop.alerts(), what="the alert to be over")


@pytest.mark.timeout(300)
def test_where_nothing_is_warm_a_stopped_release_is_started_again(shop: Shop) -> None:
    good = shop.deploy(warm_for="1s")
    with Load(shop.at.port) as load:
        served(load, 500)
        bad = shop.deploy(warm_for="1s")
        client = shop.at.client()
        until(
            lambda: (
                [one["standing"] for one in client.listed(f"/environments/{KEY}/releases", 5)] == ["live", "stopped"]
            ),
            what="r1 to be stopped",
        )
        shop.tell("fails", bad)
        shop.ends("helped", 90)
        assert shop.at.version() == good
    assert load.seen.broken == []


@pytest.mark.timeout(300)
def test_a_release_whose_replicas_all_die_is_taken_back(shop: Shop) -> None:
    good = shop.deploy()
    bad = shop.deploy()
    shop.ends("watching")
    shop.tell("dies", bad)
    until(lambda: shop.watch()["done"], 60, "it to be taken back")
    assert shop.watch()["cause"]["means"] == "crash"
    until(lambda: shop.at.version() == good, what="r1 to serve")
    shop.ends("helped")


@pytest.mark.timeout(300)
def test_where_it_only_proposes_it_says_what_a_person_can_do(shop: Shop) -> None:
    policy = SLO | {"on_burn": "propose"}
    shop.deploy(slo=policy)
    with Load(shop.at.port) as load:
        served(load, 500)
        bad = shop.deploy(slo=policy)
        served(load, 500)
        shop.tell("fails", bad)
        watch = shop.ends("proposed")
        assert "on_burn" in watch["refused"]
        time.sleep(2)
        assert shop.rollbacks() == []
    assert "crossfade rollback" in shop.alerts()["watch"]["facts"]["proposal"]["command"]


@pytest.mark.timeout(300)
def test_a_rollback_that_does_not_help_is_said_so_and_is_the_only_one(shop: Shop) -> None:
    good = shop.deploy()
    with Load(shop.at.port) as load:
        served(load, 500)
        bad = shop.deploy()
        served(load, 500)
        shop.tell("fails", good, bad)
        watch = shop.ends("not-helped", 120)
        assert watch["receipt"]["helped"] is False
        alert = shop.alerts()["watch"]
        assert alert["sentence"].startswith("rolled back, and it did not help")
        assert shop.at.client().environment(KEY)["live"] == "r1"
        # The next release is not blamed for what was there before it.
        shop.deploy("--fix", "it may help", strategy={"kind": "blue-green", "watch": "0s"})
        shop.tell("fails", "v3")
        until(lambda: shop.watch()["release"] == "r3", what="its watch")
        time.sleep(8)
        assert shop.watch()["phase"] in ("watching", "proposed")
        assert len(shop.rollbacks()) == 1
    until(lambda: "watch" not in shop.alerts() or shop.watch()["phase"] == "proposed", what="the alert to be over")


@pytest.mark.timeout(400)
def test_a_server_killed_at_every_step_of_it_goes_back_exactly_once(shop: Shop, tmp_path: Path) -> None:
    good = shop.deploy()
    with Load(shop.at.port) as load:
        served(load, 1000)
        bad = shop.deploy()
        served(load, 500)
        shop.ends("watching")
        record = tmp_path / "boundaries"
        with dying(shop.at, record, "kill-watch") as server:
            shop.tell("fails", bad)
            watch: dict[str, Any] = {}
            rollbacks: list[dict[str, Any]] = []
            deadline = time.monotonic() + 250
            while time.monotonic() < deadline and not watch.get("ended"):
                server.tend()
                try:
                    watch, rollbacks = shop.watch(), shop.rollbacks()
                except CrossfadeError:
                    pass  # it is down more often than up
                time.sleep(0.05)
            assert watch["phase"] == "helped", watch
            assert len(rollbacks) == 1
        boundaries = set(record.read_text().split("\n")) - {""}
    assert {"saved acting", "begun", "saved settling", "saved helped"} <= boundaries
    assert shop.at.version() == good
    assert load.seen.broken == []
