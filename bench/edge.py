"""``python -m bench.edge``: what the edge costs a request, beside bare HAProxy, nginx, Envoy, Traefik and Caddy.

Each proxy has one thread, on one core; load and backend share the others. In every round each target gets, in a new
random order, a few seconds of as much load as goes and a few of load on schedule. Ratios are medians of the ratios
within each round, since a shared machine is faster in one minute than in the next.
"""

from __future__ import annotations

import argparse
import math
import random
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from bench.load import CONNECTIONS, OnSchedule, flood, need_wrk
from bench.own import OwnEdge
from bench.peers import PACKAGES, program, start_backend, start_proxy, versions
from bench.peers import need as need_peers
from bench.processes import BenchFailed, Cores, Processes, cpu_seconds, group_resident_bytes, running_on, say
from bench.report import Report, milliseconds, quantile, run, spread
from crossfade.domain.traffic import Slot, Split
from crossfade.domain.values import Weight

PEERS: Final = ("haproxy", "nginx", "envoy", "traefik", "caddy")
LABELS: Final = {"haproxy": "bare HAProxy", "nginx": "nginx", "envoy": "Envoy", "traefik": "Traefik", "caddy": "Caddy"}
FLOOD: Final = 1
SCHEDULED: Final = 2
"""Seconds of each kind of load. Many short turns even out what else goes on on the machine better than few long ones."""

ALONE: Final = "backend alone"
WHOLE: Final = "**Crossfade**, 100 / 0"
DIVIDED: Final = "**Crossfade**, 50 / 50"
COLUMNS: Final = (
    "",
    "requests/s",
    "of bare HAProxy",
    "proxy CPU a request, µs",
    "of bare HAProxy's CPU",
    "added p99, ms",
    "memory, MiB",
    "failed",
)


@dataclass
class Target:
    """What is measured, and what came of it, one figure a round. ``group`` 0: no proxy."""

    name: str
    port: int
    group: int = 0
    rates: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    memory: int = 0
    requests: int = 0
    failed: int = 0


def measure(given: argparse.Namespace) -> Report:
    """The whole bench. Raises BenchFailed."""
    short: bool = given.short
    rounds, rate = (1, 200.0) if short else (given.rounds, 1000.0)
    if not short:
        need_wrk()
        need_peers(PEERS)
    cores = Cores()
    # The bench itself, with the reader of samples in it, stays off the proxy's core, too.
    with running_on(cores.rest), Processes() as processes:
        backend = start_backend(processes, ["blue", "green"], cores.rest)
        with OwnEdge(processes, cores.proxy) as own:
            slots = {Slot.BLUE: backend["blue"], Slot.GREEN: backend["green"]}
            _, whole = own.environment("whole", slots, Split.wholly(Slot.BLUE))
            _, divided = own.environment("divided", slots, Split(Weight(5000)))
            targets = [Target(ALONE, backend["blue"]), Target(WHOLE, whole, own.group)]
            targets.append(Target(DIVIDED, divided, own.group))
            for name in PEERS:
                if program(name):
                    proxy = start_proxy(processes, name, backend["blue"], cores.proxy)
                    targets.append(Target(LABELS[name], proxy.port, proxy.group))
            if not short:
                for target in targets:
                    flood(target.port, 1, cores.rest)  # so that nobody is measured cold
            for number in range(rounds):
                say(f"bench.edge: round {number + 1} of {rounds}, {len(targets)} targets")
                for target in random.sample(targets, len(targets)):
                    _measure(processes, target, rate, cores)
    return _report(targets, cores, rounds, rate)


def _measure(processes: Processes, target: Target, rate: float, cores: Cores) -> None:
    before = cpu_seconds([target.group]) if target.group else 0.0
    flooded = flood(target.port, FLOOD, cores.rest)
    if target.group:
        target.cpu.append((cpu_seconds([target.group]) - before) / max(1, flooded.requests))
        target.memory = max(target.memory, group_resident_bytes(target.group))
    target.rates.append(flooded.rate)
    with OnSchedule(processes.folder, target.port, rate, SCHEDULED) as load:
        records = load.records()
    if not len(records):
        raise BenchFailed(f"the load generator sent nothing to {target.name}")
    target.p99.append(quantile(records.latency, 0.99))
    target.requests += flooded.requests + len(records)
    target.failed += flooded.failed + records.failed + records.unfinished


def _report(targets: Sequence[Target], cores: Cores, rounds: int, rate: float) -> Report:
    by_name = {target.name: target for target in targets}
    alone, bare = by_name[ALONE], by_name[LABELS["haproxy"]]
    report = Report("Edge: what it costs a request", COLUMNS, versions=_versions())
    for target in targets:
        added = [there - here for there, here in zip(target.p99, alone.p99, strict=True)]
        report.rows.append(
            (
                target.name,
                spread(target.rates),
                f"{_ratio(target.rates, bare.rates):.2f}" if target.group else "",
                spread(target.cpu, ".1f", 1e6) if target.cpu else "",
                f"{_ratio(target.cpu, bare.cpu):.2f}" if target.cpu else "",
                f"{milliseconds(statistics.median(added))} ({milliseconds(min(added))}…{milliseconds(max(added))})"
                if target.group
                else f"(p99 itself: {milliseconds(statistics.median(target.p99))})",
                f"{target.memory / 2**20:.0f}" if target.group else "",
                f"{target.failed} of {target.requests}",
            )
        )
        report.measured[target.name.replace("*", "")] = {
            "requests_per_second": target.rates,
            "cpu_seconds_per_request": target.cpu,
            "p99_seconds": target.p99,
            "resident_bytes": target.memory,
            "requests": target.requests,
            "failed": target.failed,
        }
    ours = [by_name[WHOLE], by_name[DIVIDED]]
    report.failures = sum(target.failed for target in ours)
    for target in ours:
        share = _ratio(target.rates, bare.rates)
        name = target.name.replace("*", "")
        report.goals.append((f"{name}: {share:.2f} of the requests/s of bare HAProxy (≥ 0.85)", share >= 0.85))
        for peer in ("envoy", "traefik", "caddy"):
            if LABELS[peer] in by_name:
                times = _ratio(target.rates, by_name[LABELS[peer]].rates)
                report.goals.append((f"{name}: {times:.1f} times {LABELS[peer]} (≥ 2)", times >= 2))
    tool = "wrk" if shutil.which("wrk") else "a loop in Python, too slow to fill a proxy"
    report.notes = [
        f"median (least…greatest) of {rounds} rounds; requests/s with {CONNECTIONS} connections for {FLOOD} s by {tool}",
        f"added p99: p99 at {rate:.0f} requests/s open-loop for {SCHEDULED} s, less that of the backend alone in the same round",
        "50 / 50 is the dearest case: clients without a cookie, so each request draws a bucket and gets a Set-Cookie",
        f"pinned: {cores}",
    ]
    return report


def _ratio(these: Sequence[float], those: Sequence[float]) -> float:
    """The median of the ratios within each round."""
    return statistics.median([a / b if b else math.nan for a, b in zip(these, those, strict=True)])


def _versions() -> dict[str, str]:
    found = versions(("haproxy", *PACKAGES))
    wrk = shutil.which("wrk")
    if wrk:
        said = subprocess.run([wrk, "-v"], capture_output=True, text=True, check=False)
        found["wrk"] = (said.stdout + said.stderr).split()[1]
    return found


if __name__ == "__main__":
    sys.exit(run("edge", (__doc__ or "").partition("\n")[0].partition(": ")[2], measure, rounds=12))
