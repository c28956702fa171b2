"""``python -m bench.reaction``: how soon a bad candidate has no traffic left, on the real edge, end to end.

A whole installation runs a release under 1,000 requests a second. Then comes a release that fails every second request,
as a canary at 5 %. Measured is the time from the first bad answer that a client got to the moment at which the edge
had given all traffic back, by the rollout's own journal, and to the last bad answer that any client got.
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
from bench.processes import BenchFailed, Processes, accepts, free_ports, say, until
from bench.report import Report, run
from crossfade import bootstrap
from crossfade.routers.haproxy import version as haproxy_version

APP: Final = Path(__file__).with_name("quick_app.py")
RATE: Final = 1000.0
COLUMNS: Final = ("", "median", "least", "greatest")
WARM_UP: Final = 5.0
"""Seconds of load before the first bad release: the history that the judge begins with."""


@dataclass
class Seen:
    """Of each round: seconds to all traffic back and to the last bad answer, bad answers, and the journal's reason."""

    back: list[float] = field(default_factory=list)
    last: list[float] = field(default_factory=list)
    harmed: list[int] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)


def measure(given: argparse.Namespace) -> Report:
    """The whole bench. Raises BenchFailed."""
    rounds = 1 if given.short else given.rounds
    seen = Seen()
    with Processes() as processes:
        state = processes.folder / "state"
        try:
            _installation(processes, state, rounds, seen)
        finally:
            bootstrap.down(state, False, lambda _: None)
    return _report(seen, rounds)


def _installation(processes: Processes, state: Path, rounds: int, seen: Seen) -> None:
    api, edge = free_ports(2)
    say("bench.reaction: starts an installation")
    bootstrap.up(state, "127.0.0.1", api, lambda _: None)
    project = processes.folder / "project"
    project.mkdir()
    shutil.copy(APP, project / "app.py")
    _deploy(state, project, edge, "good", bad=False)
    until(lambda: accepts(edge), "the edge")
    for number in range(1, rounds + 1):
        say(f"bench.reaction: round {number} of {rounds}")
        with OnSchedule(processes.folder, edge, RATE, 60.0) as load:
            time.sleep(WARM_UP)
            receipt = _deploy(state, project, edge, f"bad {number}", bad=True)
            time.sleep(0.5)
            load.stop()
            records = load.records()
        bad = [
            records.began_at + start + took
            for start, took, status in zip(records.start, records.latency, records.status, strict=True)
            if status == 500
        ]
        home = [step["at"] for step in receipt["steps"] if step["what"].startswith("sets the weights for good")]
        if not bad or not home or receipt["outcome"] != "rolled-back":
            raise BenchFailed(f"round {number} ended {receipt['outcome']} with {len(bad)} bad answers")
        seen.back.append(home[0] - min(bad))
        seen.last.append(max(bad) - min(bad))
        seen.harmed.append(len(bad))
        seen.reasons.append(receipt["reason"])


def _deploy(state: Path, project: Path, port: int, label: str, *, bad: bool) -> dict[str, Any]:
    """One deploy by the command line; its receipt. Raises BenchFailed."""
    config = {
        "service": "quick",
        "run": {
            "command": [sys.executable, "-I", "-S", "app.py"],
            "env": {"VERSION": label, **({"BAD": "1"} if bad else {})},
            "stop_timeout": "2s",
        },
        "health": [{"name": "health", "path": "/health", "json": {"$.status": "ok"}}],
        # No fixed limit: what is measured is the comparison.
        "strategy": {
            "kind": "canary",
            "steps": [{"weight": "5%", "duration": "30s"}],
            "limits": {"error_rate": "none"},
        },
        "drain": {"timeout": "2s"},
        "environments": {"production": {"port": port}},
    }
    (project / "crossfade.yaml").write_text(json.dumps(config))
    command = [sys.executable, "-m", "crossfade.cli.main", "--state", str(state), "deploy", str(project), "--json"]
    done = subprocess.run(
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120, check=False, env=os.environ
    )
    if done.returncode and not bad:
        raise BenchFailed(f"crossfade deploy ended with {done.returncode}: {(done.stderr or done.stdout)[-600:]}")
    receipt: dict[str, Any] = json.loads(done.stdout)["receipt"]
    return receipt


def _report(seen: Seen, rounds: int) -> Report:
    report = Report("Reaction: a candidate with 50 % errors at 5 % of 1,000 requests/s, on the real edge", COLUMNS)
    for name, values, form in (
        ("**first bad answer to all traffic back, s**", seen.back, ".2f"),
        ("first bad answer to the last one, s", seen.last, ".2f"),
        ("bad answers in all", seen.harmed, ".0f"),
    ):
        report.rows.append((name, *(f"{one:{form}}" for one in (statistics.median(values), min(values), max(values)))))
    report.goals = [
        (f"the slowest of {rounds} takes {max(seen.back):.2f} s (≤ 2)", max(seen.back) <= 2),
    ]
    report.notes = [
        f"{rounds} rollouts, decided by the judge alone (no fixed limit), false alarms ≤ 1 % a rollout",
        f"the judge's last words: {seen.reasons[-1]}",
    ]
    report.versions = {"haproxy": haproxy_version()}
    report.measured = {"to_back_seconds": seen.back, "to_last_seconds": seen.last, "bad_answers": seen.harmed}
    return report


if __name__ == "__main__":
    sys.exit(run("reaction", (__doc__ or "").partition("\n")[0].partition(": ")[2], measure, rounds=10))
