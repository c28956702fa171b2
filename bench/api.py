"""``python -m bench.api``: how fast the API answers in a large installation, and what live viewers cost.

A whole installation, whose ledger gets 200 services with 50 releases each, beside one service that really runs. Reads go
over one kept connection, one after the other, in turns, so that a noisy moment hits all of them. Then a canary of the
real service is rolled out under load, once with nobody watching and once with 200 viewers of the event stream: the
difference of the server's CPU time is what they cost.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from http.client import HTTPConnection
from importlib.metadata import version
from pathlib import Path
from typing import Final

from bench.deploy import APP
from bench.load import OnSchedule
from bench.processes import BenchFailed, Processes, accepts, cpu_seconds_of, free_ports, say, until
from bench.report import Report, quantile, run
from crossfade import bootstrap
from crossfade.domain.environment import Occupant
from crossfade.domain.release import BlueGreen, ReleaseConfig
from crossfade.domain.rollout import Kind, Phase, Plan
from crossfade.domain.traffic import Slot
from crossfade.domain.values import Digest, EnvKey, ReleaseNumber
from crossfade.ports import Reading, Store
from crossfade.routers.haproxy import version as haproxy_version
from crossfade.runtimes.supervisor import Supervisor
from crossfade.store.sql import SqlStore

COLUMNS: Final = ("", "p50, ms", "p99, ms", "greatest, ms", "answer, kB")
RATE: Final = 50.0
STEPS: Final = 3


@dataclass
class Watched:
    """What the server used while a rollout ran, and what each viewer was told."""

    cpu: float
    seconds: float
    told: list[int] = field(default_factory=list)


def measure(given: argparse.Namespace) -> Report:
    """The whole bench. Raises BenchFailed."""
    short: bool = given.short
    services, releases, viewers = (5, 10, 10) if short else (200, 50, 200)
    rounds, step_lasts = (20, 1) if short else (given.rounds, 5)
    with Processes() as processes:
        state = processes.folder / "state"
        api, edge = free_ports(2)
        try:
            bootstrap.up(state, "127.0.0.1", api, lambda _: None)
            project = _project(processes.folder)
            _deploy(state, project, edge, 0, step_lasts)
            bootstrap.down(state, True, lambda _: None)
            say(f"bench.api: writes {services * releases:,} releases")
            _fill(state, services, releases)
            bootstrap.up(state, "127.0.0.1", api, lambda _: None)
            say("bench.api: reads")
            reads = _reads(state, api, rounds, f"service-{services // 2:03d}/production")
            watched = _rollouts(processes, state, project, edge, viewers, step_lasts)
        finally:
            bootstrap.down(state, False, lambda _: None)
    return _report(reads, watched, services, releases, viewers, rounds, step_lasts)


def _project(folder: Path) -> Path:
    project = folder / "project"
    project.mkdir()
    shutil.copy(APP, project / "app.py")
    return project


def _deploy(state: Path, project: Path, port: int, number: int, step_lasts: int) -> None:
    steps = [{"weight": f"{10 * step}%", "duration": f"{step_lasts}s"} for step in range(1, STEPS + 1)]
    config = {
        "service": "quick",
        "run": {"command": [sys.executable, "-I", "-S", "app.py"], "env": {"VERSION": f"v{number}"}},
        "health": [{"name": "health", "path": "/health", "json": {"$.status": "ok"}}],
        "strategy": {"kind": "canary", "steps": steps} if number else {"kind": "blue-green", "watch": "0s"},
        "analysis": {"when_unsure": "promote", "deadline": "1s"},
        "drain": {"timeout": "1s"},
        "warm_for": "1s",
        "environments": {"production": {"port": port}},
    }
    (project / "crossfade.yaml").write_text(json.dumps(config))
    command = [
        sys.executable,
        "-m",
        "crossfade.cli.main",
        "--state",
        str(state),
        "deploy",
        str(project),
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120, check=False)
    if done.returncode:
        raise BenchFailed(f"crossfade deploy ended with {done.returncode}: {(done.stderr or done.stdout)[-600:]}")


def _fill(state: Path, services: int, releases: int) -> None:
    """Releases and promoted rollouts as real ones leave them in the ledger, but for their artifacts and replicas."""
    ledger = SqlStore(f"sqlite:///{state / 'crossfade.db'}")
    store: Store = ledger
    config, digest = ReleaseConfig(("serve",), port=1), Digest("sha256:" + "a" * 64)
    for service in range(services):
        key = EnvKey(f"service-{service:03d}", "production")
        for number in range(1, releases + 1):
            store.add_release(key, digest, config, f"v{number}", time.time())
        slot = Slot.BLUE
        for number in range(releases - 4, releases + 1):
            baseline = ReleaseNumber(number - 1) if number > releases - 4 else None
            plan = Plan(key, Kind.DEPLOY, ReleaseNumber(number), baseline, slot, BlueGreen())
            rollout = store.begin(plan, "bench", time.time())
            store.occupy(key, slot, Occupant(ReleaseNumber(number), rollout.id, 1))
            store.commit(rollout.id, slot, ReleaseNumber(number), time.time() + 86_400, time.time())
            store.close(rollout.id, {}, time.time())
            store.save(replace(rollout, phase=Phase.PROMOTED), ())
            store.keep_reading(rollout.id, "after", Reading(time.time(), "bench", {}))
            slot = slot.other
    ledger.dispose()


def _token(state: Path) -> str:
    return (state / "token").read_text().strip()


def _reads(state: Path, port: int, rounds: int, key: str) -> dict[str, tuple[list[float], int]]:
    """Seconds of each read, and the bytes of its answer."""
    paths = {
        "nothing (`/healthz`)": "/healthz",
        "environments, a page of 50": "/api/v1/environments?limit=50",
        "one environment": f"/api/v1/environments/{key}",
        "its releases, a page of 50": f"/api/v1/environments/{key}/releases?limit=50",
        "rollouts, a page of 50": "/api/v1/rollouts?limit=50",
        "rollouts of one environment": f"/api/v1/rollouts?service={key.split('/', 1)[0]}&environment=production",
        "one rollout": "/api/v1/rollouts/1",
        "its journal": "/api/v1/rollouts/1/journal",
        "its receipt": "/api/v1/rollouts/1/receipt",
        "the audit log, a page of 50": "/api/v1/audit?limit=50",
    }
    headers = {"Authorization": f"Bearer {_token(state)}"}
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    found: dict[str, tuple[list[float], int]] = {name: ([], 0) for name in paths}
    for turn in range(-3, rounds):  # the first few warm up
        for name, path in paths.items():
            began = time.perf_counter()
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            body = answer.read()
            took = time.perf_counter() - began
            if answer.status != 200:
                raise BenchFailed(f"GET {path} was answered with {answer.status}: {body[:300]!r}")
            if turn >= 0:
                found[name] = ([*found[name][0], took], len(body))
    connection.close()
    return found


def _rollouts(
    processes: Processes, state: Path, project: Path, edge: int, viewers: int, step_lasts: int
) -> dict[int, Watched]:
    """Two canaries, with nobody watching and with so many."""
    found = {}
    seconds = STEPS * step_lasts + 40.0
    with OnSchedule(processes.folder, edge, RATE, 2 * seconds) as load:
        until(lambda: accepts(edge), "the edge")
        for number, count in enumerate((0, viewers), 1):
            say(f"bench.api: a rollout with {count} viewers")
            found[count] = asyncio.run(_watched(state, project, edge, number, count, step_lasts))
        load.stop()
    return found


async def _watched(state: Path, project: Path, edge: int, number: int, viewers: int, step_lasts: int) -> Watched:
    port = int(json.loads((state / "server.json").read_text())["url"].rpartition(":")[2])
    pid = Supervisor(state).states()["server"].pid
    watched = Watched(0.0, 0.0, [0] * viewers)
    tasks = [asyncio.create_task(_view(port, _token(state), watched, place)) for place in range(viewers)]
    await asyncio.sleep(2.0)  # all are connected
    cpu, began = cpu_seconds_of(pid), time.monotonic()
    await asyncio.to_thread(_deploy, state, project, edge, number, step_lasts)
    watched.cpu, watched.seconds = cpu_seconds_of(pid) - cpu, time.monotonic() - began
    await asyncio.sleep(1.0)
    broken = [task for task in tasks if task.done()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    if broken:
        raise BenchFailed(f"{len(broken)} of {viewers} viewers were cut off")
    return watched


async def _view(port: int, token: str, watched: Watched, place: int) -> None:
    """One viewer: counts the events it is told."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        f"GET /api/v1/changes HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n"
        f"Accept: text/event-stream\r\n\r\n".encode()
    )
    try:
        while line := await reader.readline():
            watched.told[place] += line.startswith(b"data:")
    finally:
        writer.close()


def _report(
    reads: dict[str, tuple[list[float], int]],
    watched: dict[int, Watched],
    services: int,
    releases: int,
    viewers: int,
    rounds: int,
    step_lasts: int,
) -> Report:
    report = Report(f"API: {services} services, {services * releases:,} releases", COLUMNS)
    for name, (seconds, size) in reads.items():
        figures = (statistics.median(seconds), quantile(seconds, 0.99), max(seconds))
        report.rows.append((name, *(f"{one * 1000:.1f}" for one in figures), f"{size / 1000:.1f}"))
    alone, seen = watched[0], watched[viewers]
    cost = (seen.cpu / seen.seconds - alone.cpu / alone.seconds) * 100
    for name, one in (("nobody watches", alone), (f"{viewers} viewers", seen)):
        report.rows.append(
            (f"server during a rollout, {name}: % of a core", f"{one.cpu / one.seconds * 100:.1f}", "", "", "")
        )
    worst = max(quantile(seconds, 0.99) for seconds, _ in reads.values()) * 1000
    report.goals = [
        (f"p99 of the slowest read: {worst:.1f} ms (< 20)", worst < 20),
        (f"{viewers} live viewers cost {cost:.1f} % of a core (< 10)", cost < 10),
    ]
    report.failures = sum(1 for told in seen.told if told != seen.told[0] or not told)
    told = f"{min(seen.told, default=0)} to {max(seen.told, default=0)}"
    report.notes = [
        f"{rounds} of each read, in turns, over one kept connection, with a token",
        f"a canary of {STEPS} steps of {step_lasts} s under {RATE:.0f} requests/s; each viewer was told {told} events",
    ]
    report.measured = {
        "read_seconds": {name: seconds for name, (seconds, _) in reads.items()},
        "viewers_cpu_share": cost / 100,
        "told": seen.told,
    }
    libraries = {name: version(name) for name in ("fastapi", "uvicorn", "sqlalchemy")}
    report.versions = {"haproxy": haproxy_version(), **libraries}
    return report


if __name__ == "__main__":
    sys.exit(run("api", (__doc__ or "").partition("\n")[0].partition(": ")[2], measure, rounds=300))
