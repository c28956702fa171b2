"""Crossfade's way in ``bench.year``: a whole installation, canaries with the judge, and the watch after a promotion.

Spoken to over its API, as the command line does. Every key of its configuration that is not a default is in `configure`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from bench.processes import BenchFailed, free_ports
from bench.year_client import SLOW
from bench.year_deployer import APP, DRAIN_WITHIN, REPLICAS
from bench.year_schedule import Release
from crossfade import bootstrap
from crossfade.cli.client import Client, Problem
from crossfade.domain.errors import Unavailable
from crossfade.runtimes.supervisor import Supervisor

NAME: Final = "**Crossfade**"
KEY: Final = "shop/production"
STEPS: Final = (("5%", 4), ("25%", 2), ("50%", 2))
"""Of the canary: shares and seconds. Minutes in life; what is not sure at the end of a step goes on all the same."""
LEAST: Final = 20
"""Requests of a candidate from which anything is decided; the default of 50 takes longer than these steps last."""
WATCH: Final = 90
"""Seconds after a promotion in which a burn takes the release back."""
BY: Final = "bench"


def configure(port: int, release: Release, database: str, start: float, within: float) -> dict[str, Any]:
    """The crossfade.yaml of a release, as data."""
    return {
        "service": "shop",
        "run": {
            "command": [sys.executable, "-I", "-S", "app.py"],
            "env": {**release.env, "DATABASE": database, "START": f"{start:g}"},
            "replicas": REPLICAS,
            "start_timeout": f"{within:g}s",
            "stop_timeout": "2s",
        },
        "health": [{"name": "the shop has books", "path": "/health", "json": {"$.books": {"min": 1}}}],
        "strategy": {
            "kind": "canary",
            "steps": [{"weight": weight, "duration": f"{seconds}s"} for weight, seconds in STEPS],
            "limits": {"error_rate": "1%", "min_requests": LEAST},
        },
        "analysis": {
            "latency": {"p95": {"margin": "100%", "required": False}},
            "when_unsure": "promote",
            "deadline": f"{max(seconds for _, seconds in STEPS)}s",
        },
        # A budget of thirty days is used up within minutes here, as a year's bad releases come within the hour.
        "slo": {
            "objectives": [
                {"name": "answers", "target": "99.9%"},
                {"name": "fast", "kind": "latency", "target": "99%", "under": f"{SLOW * 1000:.0f}ms"},
            ],
            "watch": f"{WATCH}s",
            "exhausted": "warn",
        },
        "drain": {"timeout": f"{DRAIN_WITHIN:g}s"},
        "warm_for": "2m",
        "environments": {"production": {"port": port}},
    }


class Own:
    """An installation of its own, for `bench.year_run`."""

    heals = True

    def __init__(self, folder: Path, start: float, within: float) -> None:
        self.name = NAME
        self._state, self._start, self._within = folder, start, within
        self._ended = False
        self._project = folder.with_name(f"{folder.name}-project")
        self._project.mkdir()
        shutil.copy(APP, self._project / "app.py")
        self._database = str(self._project.with_name("own-books.db"))
        api, self.port = free_ports(2)
        try:
            bootstrap.up(self._state, "127.0.0.1", api, lambda _: None)
            self._client = Client.of(self._state)
        except BaseException:
            self.end()
            raise

    def deploy(self, release: Release, kill_after: float | None = None) -> bool:
        """Whether it was promoted. ``kill_after`` seconds from the rollout's beginning the server gets SIGKILL."""
        config = configure(self.port, release, self._database, self._start, self._within)
        (self._project / "crossfade.yaml").write_text(json.dumps(config))
        with bootstrap.package(self._project, None, None, lambda _: None) as package:
            self._client.upload(package.file, package.digest)
            body = package.request(f"v{release.number}", BY)
        rollout = self._begin(body)
        killing = threading.Timer(kill_after or 0.0, self._kill_server)
        if kill_after is not None:
            killing.start()
        try:
            return self._follow(rollout) == "promoted"
        finally:
            killing.cancel()

    def _begin(self, body: dict[str, Any]) -> int:
        """A rollout that the watch has begun meanwhile goes first."""
        for _ in self._patiently("the environment to be free"):
            with contextlib.suppress(Problem):
                begun: Any = self._client.deploy(body)
                return int(begun["id"])
        raise AssertionError  # `_patiently` ends only by raising

    def _follow(self, rollout: int) -> str:
        """Its last phase. A server that starts again is waited for."""
        for _ in self._patiently(f"the end of rollout {rollout}"):
            with contextlib.suppress(Unavailable, Problem):
                now = self._client.rollout(rollout)
                if now["ended"]:
                    return now["phase"]
        raise AssertionError  # as above

    def _patiently(self, what: str) -> Iterator[None]:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not self._ended:
            yield
            time.sleep(0.1)
        if self._ended:
            raise BenchFailed("the installation of Crossfade was stopped")
        raise BenchFailed(f"waited 120 s in vain for {what} of Crossfade")

    def healed(self, bad: Release) -> bool:
        """Whether another release is live, and nothing moves any more."""
        with contextlib.suppress(Unavailable, Problem):
            seen = self._client.environment(KEY)
            return seen["label"] != f"v{bad.number}" and seen["rollout"] is None
        return False

    def repair(self, good: Release) -> None:
        """What the operator does where Crossfade has not: `crossfade rollback`."""
        with contextlib.suppress(Problem):  # it has begun by itself just now
            self._follow(int(self._client.rollback(KEY, None, BY)["id"]))

    def kill_replica(self) -> None:
        """SIGKILL for one that has traffic."""
        live = self._client.environment(KEY)["live"]
        for name, state in Supervisor(self._state).states().items():
            if f".{live}." in f"{name.replace('-', '.')}." and state.pid:
                os.kill(state.pid, signal.SIGKILL)
                return
        raise BenchFailed(f"no replica of {live} runs")

    def _kill_server(self) -> None:
        with contextlib.suppress(OSError):
            os.kill(Supervisor(self._state).states()["server"].pid, signal.SIGKILL)

    def end(self) -> None:
        """Stop all of it."""
        self._ended = True
        bootstrap.down(self._state, False, lambda _: None)
