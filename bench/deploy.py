"""``python -m bench.deploy``: how long a blue-green deploy takes, and what an idle control plane costs.

A whole installation of its own gets one release after the other by ``crossfade deploy``, under load; each is timed from
the start of the command to the moment at which the rollout counts as promoted. The application starts at once; the
little that it takes is measured and taken off, for it is not ours.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bench.load import OnSchedule
from bench.processes import BenchFailed, Processes, accepts, cpu_seconds_of, free_ports, resident_bytes, say, until
from bench.report import Report, run
from crossfade import bootstrap
from crossfade.routers.haproxy import version as haproxy_version
from crossfade.runtimes.supervisor import Supervisor

APP: Final = Path(__file__).with_name("quick_app.py")
RATE: Final = 200.0
"""Requests a second while deploying."""

COLUMNS: Final = ("", "median", "least", "greatest")


@dataclass
class Timings:
    """One figure for each deploy, in seconds. ``phases``: how long each phase of a rollout took."""

    application: list[float] = field(default_factory=list)
    promoted: list[float] = field(default_factory=list)
    rollout: list[float] = field(default_factory=list)
    steps: list[dict[str, float]] = field(default_factory=list)
    requests: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Idle:
    """CPU as a share of one core over ``seconds``, resident memory in bytes; by process."""

    seconds: float
    cpu: dict[str, float]
    memory: dict[str, int]


def measure(given: argparse.Namespace) -> Report:
    """The whole bench. Raises BenchFailed."""
    short: bool = given.short
    deploys, idle_for = (1, 2.0) if short else (given.rounds, 30.0)
    timings = Timings()
    with Processes() as processes:
        for _ in range(3 if short else 10):
            timings.application.append(_start_time(processes))
        state = processes.folder / "state"
        try:
            idle = _installation(processes, state, timings, deploys, idle_for)
        finally:
            bootstrap.down(state, False, lambda _: None)
    return _report(timings, idle, deploys)


def _start_time(processes: Processes) -> float:
    """From starting the application to its first accepted connection."""
    (port,) = free_ports(1)
    began = time.monotonic()
    process = processes.start(_command(APP), env={"PORT": str(port)}, log="application")
    while not accepts(port):
        if process.poll() is not None or time.monotonic() > began + 20:
            raise BenchFailed("the application of the bench does not start")
        time.sleep(0.0005)
    took = time.monotonic() - began
    processes.end(process)
    return took


def _command(app: Path | str) -> list[str]:
    return [sys.executable, "-I", "-S", str(app)]


def _installation(processes: Processes, state: Path, timings: Timings, deploys: int, idle_for: float) -> Idle:
    api, edge = free_ports(2)
    say("bench.deploy: starts an installation")
    bootstrap.up(state, "127.0.0.1", api, lambda _: None)
    project = processes.folder / "project"
    project.mkdir()
    shutil.copy(APP, project / "app.py")
    _deploy(state, project, edge, 0)
    with OnSchedule(processes.folder, edge, RATE, 20.0 * deploys + 30) as load:
        until(lambda: accepts(edge), "the edge")
        time.sleep(1.0)
        for number in range(1, deploys + 1):
            say(f"bench.deploy: deploy {number} of {deploys}")
            began, receipt = _deploy(state, project, edge, number)
            timings.promoted.append(receipt["ended"] - began)
            timings.rollout.append(receipt["duration"])
            timings.steps.append({step["what"]: step["at"] - began for step in receipt["steps"]})
        load.stop()
        records = load.records()
    timings.requests, timings.failed = len(records), records.failed + records.unfinished
    return _idle(state, idle_for)


def _deploy(state: Path, project: Path, port: int, number: int) -> tuple[float, dict[str, Any]]:
    """One deploy by the command line: when it began (epoch seconds), and its receipt. Raises BenchFailed."""
    config = {
        "service": "quick",
        "run": {"command": _command("app.py"), "env": {"VERSION": f"v{number}"}, "stop_timeout": "2s"},
        "health": [{"name": "health", "path": "/health", "json": {"$.status": "ok"}}],
        "strategy": {"kind": "blue-green", "watch": "0s"},
        "drain": {"timeout": "2s"},
        "environments": {"production": {"port": port}},
    }
    (project / "crossfade.yaml").write_text(json.dumps(config))
    command = [sys.executable, "-m", "crossfade.cli.main", "--state", str(state), "deploy", str(project), "--json"]
    began = time.time()
    done = subprocess.run(
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120, check=False, env=os.environ
    )
    if done.returncode:
        raise BenchFailed(f"crossfade deploy ended with {done.returncode}: {(done.stderr or done.stdout)[-600:]}")
    receipt: dict[str, Any] = json.loads(done.stdout)["receipt"]
    return began, receipt


def _idle(state: Path, seconds: float) -> Idle:
    """What runs for us when nothing happens. The edge is no part of the control plane, but is named beside it."""
    say(f"bench.deploy: watches the idle control plane for {seconds:.0f} s")
    supervisor = Supervisor(state)
    pids = {"server": supervisor.states()["server"].pid, "supervisord": supervisor.pid()}
    time.sleep(min(seconds, 5.0))  # the last deploy's tidying up
    before = {name: cpu_seconds_of(pid) for name, pid in pids.items()}
    began = time.monotonic()
    time.sleep(seconds)
    elapsed = time.monotonic() - began
    return Idle(
        elapsed,
        {name: (cpu_seconds_of(pid) - before[name]) / elapsed for name, pid in pids.items()},
        {name: resident_bytes(pid) for name, pid in pids.items()},
    )


def _report(timings: Timings, idle: Idle, deploys: int) -> Report:
    own = statistics.median(timings.application)
    ours = [promoted - own for promoted in timings.promoted]
    report = Report("Deploy: blue-green, of an application that starts at once", COLUMNS)
    for name, values in (
        ("`crossfade deploy`, from the command to promoted, s", timings.promoted),
        ("of that, the rollout in the server, s", timings.rollout),
        ("of that, the application's own start, s", timings.application),
        ("**ours: the first less the third, s**", ours),
    ):
        report.rows.append((name, *(f"{one:.3f}" for one in (statistics.median(values), min(values), max(values)))))
    for name in idle.cpu:
        report.rows.append((f"{name} when idle: CPU, % of a core", f"{idle.cpu[name] * 100:.2f}", "", ""))
        report.rows.append((f"{name} when idle: memory, MB", f"{idle.memory[name] / 1e6:.0f}", "", ""))
    cpu, memory = sum(idle.cpu.values()) * 100, sum(idle.memory.values()) / 1e6
    report.failures = timings.failed
    report.goals = [
        (f"a deploy takes {statistics.median(ours):.2f} s of ours (≤ 1.5)", statistics.median(ours) <= 1.5),
        (f"control plane idle, all together: {cpu:.2f} % CPU (≤ 1)", cpu <= 1),
        (f"control plane idle, all together: {memory:.0f} MB (≤ 150)", memory <= 150),
        (f"requests that failed while deploying: {timings.failed} of {timings.requests}", not timings.failed),
    ]
    report.notes = [
        f"{deploys} deploys one after the other, one replica, watch: 0s, under {RATE:.0f} requests/s",
        f"idle: over {idle.seconds:.0f} s, one service deployed and warm, no load",
    ]
    report.versions = {"haproxy": haproxy_version()}
    report.measured = {
        "to_promoted_seconds": timings.promoted,
        "rollout_seconds": timings.rollout,
        "application_start_seconds": timings.application,
        "steps_seconds": timings.steps,
        "requests": timings.requests,
        "failed": timings.failed,
        "idle_seconds": idle.seconds,
        "idle_cpu_share": idle.cpu,
        "idle_resident_bytes": idle.memory,
    }
    return report


if __name__ == "__main__":
    sys.exit(run("deploy", (__doc__ or "").partition("\n")[0].partition(": ")[2], measure, rounds=10))
