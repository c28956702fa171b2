"""SIGKILL of the server at every boundary between two steps of a rollout. Traffic never notices."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from crossfade.domain.errors import CrossfadeError
from tests.e2e.installation import Installation, Load, until


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


def follow(shop: Installation, server: Dying, rollout: int, seconds: float) -> Mapping[str, Any]:
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
