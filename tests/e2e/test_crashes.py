"""SIGKILL everywhere: the server at every boundary between two steps, replicas, the edge. Traffic never notices."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from crossfade.domain.errors import CrossfadeError
from crossfade.domain.traffic import Slot
from crossfade.domain.values import EnvKey
from crossfade.routers.haproxy import HAProxyRouter
from tests.e2e.installation import Installation, Load, until

KEY = EnvKey("shop", "production")


@pytest.fixture
def shop() -> Iterator[Installation]:
    with Installation() as installation:
        installation.up()
        installation.configure("v1")
        installation.deploy()
        yield installation


class Dying:
    """Runs the server that kills itself, again and again, in place of the supervised one."""

    def __init__(self, shop: Installation, record: Path, mode: str) -> None:
        self._shop, self._record, self._mode = shop, record, mode
        self.deaths = 0
        self._process: subprocess.Popen[bytes] | None = None

    def tend(self) -> None:
        """Start it when it is not running."""
        if self._process is not None and self._process.poll() is None:
            return
        if self._process is not None:
            assert self._process.returncode == -signal.SIGKILL, self._log()
            self.deaths += 1
        arguments = [str(self._shop.state), str(self._shop.api_port), str(self._record), self._mode]
        with open(self._shop.state / "logs" / "dying.log", "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.e2e.dying_server", *arguments], stdout=log, stderr=log
            )

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def _log(self) -> str:
        return (self._shop.state / "logs" / "dying.log").read_text()[-2000:]


@contextmanager
def dying(shop: Installation, record: Path, mode: str) -> Iterator[Dying]:
    shop.run("down", "--keep-traffic")
    server = Dying(shop, record, mode)
    try:
        yield server
    finally:
        server.stop()


def follow(shop: Installation, server: Dying, rollout: int, seconds: float) -> dict[str, Any]:
    """Keep the server alive until the rollout has ended; the rollout."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        server.tend()
        try:
            state = shop.client().rollout(rollout)
            if state["ended"]:
                return state
        except CrossfadeError:
            pass  # it is down more often than up
        time.sleep(0.05)
    raise AssertionError(f"rollout #{rollout} has not ended after {seconds} s")


def begin(shop: Installation, server: Dying) -> int:
    """Start a deployment while the server keeps dying."""
    for _ in range(400):
        server.tend()
        done = shop.run("deploy", str(shop.project), "--detach", "--json", check=False)
        if done.returncode == 0 or '"busy"' in done.stdout:
            break
        time.sleep(0.2)
    return 2


@pytest.mark.timeout(400)
@pytest.mark.parametrize("strategy", ["blue-green", "canary", "bad-canary"])
def test_a_server_killed_at_every_boundary_of_a_rollout_ends_it_where_it_should(
    shop: Installation, tmp_path: Path, strategy: str
) -> None:
    bad = strategy == "bad-canary"
    if strategy == "blue-green":
        shop.configure("v2")
    else:
        shop.configure("v2", "failing" if bad else "good", strategy=shop.canary("30%"))
    record = tmp_path / "boundaries"
    with Load(shop.port, clients=2, pause=0.02) as load, dying(shop, record, "kill") as server:
        ended = follow(shop, server, begin(shop, server), 300)
        until(lambda: shop.client().receipt(2)["dropped_by_switch"] == 0, what="the receipt")
    boundaries = record.read_text().split("\n")
    actions = {"clear-slot", "start-replicas", "connect", "probe", "snapshot", "set-split", "close"}
    actions |= {"discard"} if bad else {"commit"}
    for action in actions:
        assert {f"{action} before", f"{action} done"} <= set(boundaries)
    assert {"done saved", "observed saved"} <= set(boundaries)
    assert server.deaths >= 2 * len(actions)
    assert ended["phase"] == ("rolled-back" if bad else "promoted"), ended
    assert load.seen.broken == []
    assert set(load.seen.statuses) <= ({200, 500} if bad else {200})
    assert shop.version() == ("v1" if bad else "v2")


@pytest.mark.timeout(300)
def test_a_killed_replica_costs_no_idempotent_request(shop: Installation) -> None:
    with Load(shop.port) as load:
        until(lambda: load.seen.total > 50, what="load")
        for name in [r["name"] for r in shop.json("status")[0]["slots"]["blue"]["replicas"]]:
            wanted = load.seen.total + 100
            shop.kill(name)
            until(partial(shop.pid_of, name), what=f"{name} to be back")
            until(partial(load.has_seen, wanted), what="load to go on")
    assert load.seen.broken == []
    assert set(load.seen.statuses) == {200}, load.seen.statuses


@pytest.mark.timeout(300)
def test_a_killed_edge_is_back_with_the_same_weights(shop: Installation) -> None:
    shop.configure("v2", strategy=shop.canary("30%", duration="60s"))
    rollout = shop.json("deploy", str(shop.project), "--detach")["id"]
    until(lambda: shop.client().rollout(rollout)["weight"] == 3000, what="the step")
    router = HAProxyRouter(shop.state / "edge", shop.state / "run")
    until(lambda: router.read(KEY).split.green.bp == 3000, what="the weight at the edge")
    shop.kill("edge")
    began = time.monotonic()

    def serves() -> bool:
        try:
            return shop.get()[0] == 200
        except (OSError, HTTPException):
            return False

    until(serves, what="the edge")
    away = time.monotonic() - began
    assert router.read(KEY).split.green.bp == 3000
    assert {s.status for s in router.read(KEY).servers[Slot.GREEN]} == {"up"}
    assert away < 10, f"the edge was away for {away:.1f} s"
    shop.run("abort")


@pytest.mark.timeout(300)
def test_after_down_and_up_everything_serves_as_before(shop: Installation) -> None:
    shop.run("down", "--yes")
    with pytest.raises(OSError, match="refused"):
        shop.get()
    shop.up()
    until(lambda: shop.version() == "v1", what="v1 to serve")
    assert shop.json("status")[0]["live"] == "r1"
    assert shop.deploy()["rollout"]["phase"] == "promoted"


@pytest.mark.timeout(300)
def test_a_dead_control_plane_leaves_no_canary_in_traffic(shop: Installation) -> None:
    shop.configure("v2", lease="2s", strategy=shop.canary("50%", duration="60s", when_unsure="promote"))
    rollout = shop.json("deploy", str(shop.project), "--detach")["id"]
    until(lambda: shop.client().rollout(rollout)["weight"] == 5000, what="the step")
    router = HAProxyRouter(shop.state / "edge", shop.state / "run")
    until(lambda: router.read(KEY).split.green.bp == 5000, what="the weight at the edge")
    with Load(shop.port) as load:
        until(lambda: load.seen.versions.get("v2"), what="canary traffic")
        shop.run("down", "--keep-traffic")
        until(lambda: router.read(KEY).split.green.bp == 0, what="the lease to lapse")
        assert {shop.version() for _ in range(30)} == {"v1"}
        shop.up()
        until(lambda: router.read(KEY).split.green.bp == 5000, what="the step to begin anew")
        shop.run("promote")
        until(lambda: shop.client().rollout(rollout)["ended"], what="the end")
    assert load.seen.broken == []
    assert set(load.seen.statuses) == {200}
    journal = [entry["text"] for entry in shop.client().journal(rollout)]
    assert any("lease had lapsed" in text for text in journal)


@pytest.mark.timeout(300)
def test_all_replicas_of_a_candidate_gone_sends_its_share_to_the_baseline(shop: Installation) -> None:
    shop.configure("v2", strategy=shop.canary("50%", duration="60s", min_requests=100_000))
    rollout = shop.json("deploy", str(shop.project), "--detach")["id"]
    until(lambda: shop.client().rollout(rollout)["weight"] == 5000, what="the step")
    names = [r["name"] for r in shop.json("status")[0]["slots"]["green"]["replicas"]]
    with Load(shop.port) as load:
        until(lambda: load.seen.versions.get("v2"), what="canary traffic")
        deadline = time.monotonic() + 30
        while not shop.client().rollout(rollout)["ended"] and time.monotonic() < deadline:
            for name in names:
                if pid := shop.pid_of(name) if name in _programs(shop) else 0:
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        ended = shop.client().rollout(rollout)
    assert ended["phase"] == "rolled-back", ended
    assert "became unhealthy" in ended["reason"]
    assert load.seen.broken == []
    # A request that was already given to the candidate, and found replica after replica killed, is lost; no other is.
    assert load.seen.statuses.get(503, 0) <= 10, load.seen.statuses
    assert set(load.seen.statuses) <= {200, 503}


def _programs(shop: Installation) -> set[str]:
    from crossfade.runtimes.supervisor import Supervisor

    return set(Supervisor(shop.state).states())
