"""``python -m bench.regression``: how often the comparison of two releases is wrong, simulated and with real servers.

Simulated: the decision over blocks whose spreads were measured. Real: two instances of one small server, the same code or
with a given part of its time more, compared as the pipeline compares them.

"""

from __future__ import annotations

import argparse
import math
import random
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from bench.processes import say
from bench.report import Report, run
from crossfade.domain.health import Check
from crossfade.domain.pipeline.performance import Pair, decide, looks
from crossfade.domain.pipeline.plan import Compare, Requests
from crossfade.domain.release import ReleaseConfig
from crossfade.ports.pipeline import Contender
from crossfade.probes.http import HttpProber
from crossfade.runners.dependents import ProcessDependents
from crossfade.runners.process import ProcessSteps
from crossfade.trials import HttpTrials

COLUMNS: Final = ("", "fail", "pass", "inconclusive", "runs", "median pairs")
SERVICE_MS: Final = 8.0
SERVER: Final = """
import http.server, os, time
BUSY = float(os.environ["BUSY"])
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    def do_GET(self):
        if self.path != "/health":
            time.sleep(BUSY)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")
    def log_message(self, *_): pass
class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128
Server((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
"""


def measure(given: argparse.Namespace) -> Report:
    """The whole bench."""
    simulated, real = (50, 1) if given.short else (1000, given.rounds)
    report = Report("Regression: how often the comparison of two releases is wrong", COLUMNS)
    chance = random.Random(11)
    for name, effect, spread, restarts in (
        ("simulated, same code, s = 0.02 (p50)", 0.0, 0.02, 0.0),
        ("simulated, same code, s = 0.04 (p95)", 0.0, 0.04, 0.01),
        ("simulated, same code, restarts differ by 0.03", 0.0, 0.02, 0.03),
        ("simulated, +10 %, s = 0.02 (p50)", math.log(1.1), 0.02, 0.005),
        ("simulated, +10 %, s = 0.04 (p95)", math.log(1.1), 0.04, 0.01),
    ):
        _row(report, name, [_simulated(chance, effect, spread, restarts) for _ in range(simulated)])
    began = time.monotonic()
    for name, more in (("real, same code", 0.0), ("real, +10 %", 0.1)):
        found = []
        for number in range(real):
            say(f"{name}: {number + 1} of {real}, after {time.monotonic() - began:.0f} s")
            found.append(_real(more, number))
        _row(report, name, found)
    rates = {row[0]: row for row in report.rows}
    same, slower = rates["real, same code"], rates["real, +10 %"]
    report.goals.append(
        (f"identical code fails at most 5 %: {same[1]} of {same[4]}", int(same[1]) <= 0.05 * int(same[4]))
    )
    report.goals.append(
        (f"+10 % at p50 is found in at least 95 %: {slower[1]} of {slower[4]}", int(slower[1]) >= 0.95 * int(slower[4]))
    )
    report.notes.append(
        f"margin 5 % at p50, 20 to 80 pairs of 0.3 s at 50 requests/s, a service time of {SERVICE_MS:g} ms"
    )
    report.versions = {"python": sys.version.split()[0]}
    return report


def _simulated(chance: random.Random, effect: float, spread: float, restarts: float) -> tuple[str, int]:
    pairs: list[Pair] = []
    shift, fixed = 0.0, looks(20, 80)
    for number, target in enumerate(fixed):
        while len(pairs) < target:
            if len(pairs) % 7 == 0:
                shift = chance.gauss(0, restarts)
            ratio = math.exp(effect + shift + chance.gauss(0, spread))
            pairs.append(Pair(len(pairs) // 7, {"p50": 0.01}, {"p50": 0.01 * ratio}))
        last = number == len(fixed) - 1
        outcome = decide(pairs, {"p50": 0.05}, 0.05, last=last, inconclusive_passes=False, block=1.0)
        if outcome is not None:
            return outcome.finding, len(pairs)
    raise AssertionError("the last look decides")


def _real(more: float, number: int) -> tuple[str, int]:
    with tempfile.TemporaryDirectory(prefix="cf-") as folder:
        place = Path(folder)
        (place / "artifact").mkdir()
        (place / "artifact" / "server.py").write_text(SERVER)
        prober = HttpProber()
        trials = HttpTrials(prober, ProcessDependents(place, prober, ProcessSteps(place)))
        config = ReleaseConfig((sys.executable, "-S", "server.py"), checks=(Check("up", "/health"),))
        before, after = (
            Contender(name, place / "artifact", replace(config, env=(("BUSY", str(SERVICE_MS / 1000 * factor)),)))
            for name, factor in (("r1", 1.0), ("r2", 1.0 + more))
        )
        compare = Compare((Requests("GET /"),), rate=50, block=0.3, warmup=0.3, margins=(("p50", 0.05),))
        outcome = trials.compare(
            compare, before, after, owner=f"bench-{number}", folder=place, tell=lambda _: None, cancel=threading.Event()
        )
        return outcome.finding, int(outcome.numbers.get("pairs", 0))


def _row(report: Report, name: str, found: list[tuple[str, int]]) -> None:
    findings = [finding for finding, _ in found]
    pairs = sorted(count for _, count in found)
    counts = [str(findings.count(one)) for one in ("fail", "pass", "inconclusive")]
    report.rows.append((name, *counts, str(len(found)), str(pairs[len(pairs) // 2])))
    measured: dict[str, Any] = {"findings": findings, "pairs": [count for _, count in found]}
    report.measured[name] = measured


def main() -> int:
    """The command."""
    return run("regression", "How often the comparison of two releases is wrong.", measure, 100)


if __name__ == "__main__":
    sys.exit(main())
