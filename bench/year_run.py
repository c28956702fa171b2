"""One way through the year of ``bench.year``: its client, its operator, and turn after turn of the schedule."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol, Self

import numpy as np

from bench.processes import BenchFailed, Processes, accepts, say, until
from bench.report import quantile
from bench.year_account import Requests, Told
from bench.year_client import SLOW
from bench.year_schedule import Fault, Kill, Release, Turn
from crossfade.load import LoadPlan, Phase, Records, Request

MIX: Final = (Request("/books/{1-40}", weight=9), Request("/orders", method="POST", weight=1))
TIMEOUT: Final = 5.0
"""Seconds after which a client gives up: a failed request."""
PAGE_SHARE: Final = 0.05
PAGE_WINDOW: Final = 10.0
"""The operator is paged when this share of the last so many seconds' requests were bad: a tenth to a thirtieth of the
windows that pages have in life."""
REACTION: Final = 10.0
"""Seconds from the page to the command. In life it is minutes."""
PATIENCE: Final = 45.0
"""Seconds after a fault shows for which the next deployment waits for a repair."""


class Way(Protocol):
    """What deploys: `bench.year_peers.Peer` and `bench.year_own.Own`."""

    name: str
    port: int
    heals: bool

    def deploy(self, release: Release, kill_after: float | None = None) -> bool | None: ...
    def healed(self, bad: Release) -> bool: ...
    def repair(self, good: Release) -> None: ...
    def kill_replica(self) -> None: ...
    def end(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Pace:
    """``rate``: requests a second; ``quiet``: seconds between two deployments; ``seed`` of the load."""

    rate: float
    quiet: float
    seed: int


class Client:
    """The load, in a process of its own, and what it tells second by second."""

    def __init__(self, processes: Processes, name: str, port: int, pace: Pace, longest: float) -> None:
        plan = LoadPlan(
            f"http://127.0.0.1:{port}",
            (Phase(pace.rate, longest),),
            MIX,
            timeout=TIMEOUT,
            slice=60.0,
            seed=pace.seed,
        )
        file = processes.folder / f"{name}.plan"
        file.write_text(json.dumps(plan.to_data()))
        self._records, self._rate = processes.folder / f"{name}.records", pace.rate
        self._errors = processes.folder / f"{name}.client.log"
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bench.year_client", str(file), str(self._records)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        self._seconds: deque[tuple[float, int]] = deque(maxlen=1000)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._seconds.append((time.time(), json.loads(line)["bad"]))

    @property
    def begun(self) -> bool:
        """Whether requests have been answered."""
        return bool(self._seconds)

    def pages(self, since: float) -> bool:
        """Whether the operator is paged now, by what was told after ``since``."""
        begins = max(since, time.time() - PAGE_WINDOW)
        bad = sum(count for at, count in list(self._seconds) if at > begins)
        return bad >= PAGE_SHARE * PAGE_WINDOW * self._rate

    def stop(self) -> Records:
        """End the load; all that it has recorded. Raises BenchFailed."""
        self._process.terminate()
        try:
            code = self._process.wait(30)
        except subprocess.TimeoutExpired:
            code = None
        if code or not self._records.exists():
            raise BenchFailed(f"the client ended with {code}: {self._errors.read_text()[-400:]}")
        return Records.load(self._records)

    def end(self) -> None:
        """Whatever happens."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


class Year:
    """Drives one way. A thread, so that all ways have the same machine at the same time."""

    def __init__(self, processes: Processes, way: Way, turns: Sequence[Turn], pace: Pace) -> None:
        self.way, self.told = way, list[Told]()
        self.requests: Requests | None = None
        self.lag = 0.0
        self.error: BaseException | None = None
        self.client: Client | None = None
        self._processes, self._turns, self._pace = processes, turns, pace
        self._good = Release(0)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._guarded, name=way.name, daemon=True)

    def start(self) -> Self:
        self._thread.start()
        return self

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def ask_to_stop(self) -> None:
        """Let it end after the step that it is at."""
        self._stopping.set()

    def end(self) -> None:
        """See to it that nothing of it is left, whatever happened. Its way has ended before."""
        if self._thread.ident is not None:
            self._thread.join(20)
        if self.client is not None:
            self.client.end()

    def _guarded(self) -> None:
        try:
            self._run()
        except BaseException as error:  # noqa: BLE001 - it is raised where the ways are joined
            self.error = error

    def _run(self) -> None:
        way, name = self.way, self.way.name.strip("*").lower()
        if not way.deploy(self._good):
            raise BenchFailed(f"{name}: the first release does not come up")
        until(lambda: accepts(way.port), f"the edge of {name}")
        longest = 120.0 * (len(self._turns) + 1)
        self.client = client = Client(self._processes, name, way.port, self._pace, longest)
        try:
            until(lambda: client.begun, f"the load on {name}")
            for number, turn in enumerate(self._turns, 1):
                if self._stopping.is_set():
                    break
                told = Told(
                    turn.release.number, turn.release.fault.value, turn.kill.value, turn.plain, begins=time.time()
                )
                self.told.append(told)
                self._take(turn, told)
                self._pause(self._pace.quiet)
                if self._stopping.is_set():
                    break  # half a turn says nothing
                told.ends = time.time()
                say(f"bench.year: {name}: {number} of {len(self._turns)}{_words(told)}")
            records = client.stop()
            self.requests, self.lag = requests_of(records), quantile(records.lags, 0.99)
        finally:
            client.end()

    def _pause(self, seconds: float) -> None:
        self._stopping.wait(seconds)

    def _take(self, turn: Turn, told: Told) -> None:
        """One deployment with what befalls it, until all is well or nobody will see to it."""
        release, way = turn.release, self.way
        done = way.deploy(release, turn.at if turn.kill is Kill.CONTROL else None)
        told.deployed, told.ok = time.time(), bool(done)
        if done is None:
            # The team's deployer was killed; whoever started it sees that at once, and starts it again.
            told.noticed = told.deployed
            self._pause(REACTION)
            told.acted = time.time()
            told.ok = bool(way.deploy(release))
            told.deployed = time.time()
        elif not done and not way.heals:
            # The job says that it has failed: no page is needed.
            told.noticed = told.deployed
            self._repair(told)
        elif done and release.fault:
            self._see_through(release, told)
        if not release.fault and told.ok:
            self._good = release
        if turn.kill is Kill.REPLICA:
            self._pause(turn.at)
            way.kill_replica()
        if release.fault and way.heals and not done:
            told.healed_by = "itself"

    def _see_through(self, bad: Release, told: Told) -> None:
        """Until a bad release that was deployed is gone: by itself, by the operator, or never."""
        # Stopping and starting is an outage that everybody knows of; elsewhere pages count from the deployment's start.
        since = told.deployed if self.way.name == "stop-and-start" else told.begins
        client = self.client
        assert client is not None
        limit = time.time() + PATIENCE + (bad.after if bad.fault is Fault.LATE else 0.0)
        while time.time() < limit and not self._stopping.is_set():
            if self.way.healed(bad):
                told.healed_by = "itself"
                return
            if not told.noticed and client.pages(since):
                told.noticed = time.time()
                limit = told.noticed + REACTION + PATIENCE
            if told.noticed and time.time() >= told.noticed + REACTION:
                self._repair(told, waited=True)
                return
            self._pause(0.1)
        told.healed_by = "nobody"

    def _repair(self, told: Told, *, waited: bool = False) -> None:
        if not waited:
            self._pause(REACTION)
        told.acted = time.time()
        self.way.repair(self._good)
        told.healed_by = "operator"


def _words(told: Told) -> str:
    took = f"{told.deployed - told.begins:.1f} s"
    kind = told.fault or (f"good, {told.kill} killed" if told.kill else "good")
    healed = f", healed by {told.healed_by} after {told.ends - told.begins:.0f} s" if told.healed_by else ""
    return f" ({kind}): {'deployed' if told.ok else 'not deployed'} in {took}{healed}"


def requests_of(records: Records) -> Requests:
    """By due time. What was still under way when the load ended is not in it: nobody waited for it."""
    start = np.frombuffer(records.start, dtype=np.float64) + records.began_at
    failed = np.frombuffer(records.kind, dtype=np.uint8) != 0
    slow = (np.frombuffer(records.latency, dtype=np.float32) > SLOW) & ~failed
    order = np.argsort(start, kind="stable")
    return Requests(start[order], failed[order], slow[order])
