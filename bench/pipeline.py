"""``python -m bench.pipeline``: what a run of a pipeline costs beyond its commands, how many keep their order, how logs stream.

1. A run of 20 steps that do nothing, one after the other, against the same 20 processes started bare: the difference is ours.
2. 50 runs queued at once on one node: they begin in the order in which they came, and all end.
3. A step that writes 100 MB: every byte is in the log, and the memory of keeper and server does not grow with it.

The conductor runs in this process, on a real ledger with fsync, with real git and real processes; there is no edge.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Final

import psutil

from bench.processes import BenchFailed, say
from bench.report import Report, run
from tests.engine.pipelines import Installation, Repository, node, script

STEPS: Final = 20
COLUMNS: Final = ("", "median", "least", "greatest", "runs")
BLOCK: Final = 1 << 20


def measure(given: argparse.Namespace) -> Report:
    """The whole bench. Raises BenchFailed."""
    rounds, queued, size = (2, 6, 5) if given.short else (given.rounds, 50, 100)
    report = Report("Pipeline: what a run costs beyond its commands", COLUMNS)
    place = Installation(at_once=2)
    try:
        with tempfile.TemporaryDirectory(prefix="cf-") as folder:
            _overhead(report, place, Path(folder) / "steps", rounds)
            _order(report, place, Path(folder) / "many", queued)
            _log(report, place, Path(folder) / "log", size)
    finally:
        place.remove()
    report.versions = {"python": sys.version.split()[0]}
    return report


def _repository(place: Installation, folder: Path, service: str, stages: dict[str, Any], **more: Any) -> Repository:
    found = Repository(folder, service)
    found.write("app.py", "print('app')\n")
    found.configure(stages, **more)
    found.commit("the bench's")
    place.add(found)
    return found


def _overhead(report: Report, place: Installation, folder: Path, rounds: int) -> None:
    steps: dict[str, Any] = {}
    for number in range(STEPS):
        steps[f"s{number}"] = {"run": ["true"], "needs": [f"s{number - 1}"] if number else []}
    repository = _repository(place, folder, "steps", {"commit": {"steps": steps}}, supersede=False)
    whole, bare = [], []
    for number in range(rounds):
        say(f"a run of {STEPS} steps, {number + 1} of {rounds}")
        began = time.perf_counter()
        for _ in range(STEPS):
            subprocess.run(["true"], check=True)
        bare.append(time.perf_counter() - began)
        began = time.perf_counter()
        data = place.ended(place.start(repository), 120)
        whole.append(time.perf_counter() - began)
        if data["status"] != "passed":
            raise BenchFailed(f"a run has not passed: {data['reason']}")
    ours = [one - other for one, other in zip(whole, bare, strict=True)]
    for name, found in (("20 steps: whole run, s", whole), ("20 bare processes, s", bare), ("of ours, s", ours)):
        report.rows.append(_row(name, found, 2))
    report.goals.append(
        (f"overhead of a 20-step run at most 1 s: {statistics.median(ours):.2f} s", statistics.median(ours) <= 1)
    )
    report.measured["overhead"] = {"whole": whole, "bare": bare}


def _order(report: Report, place: Installation, folder: Path, queued: int) -> None:
    say(f"{queued} runs at once")
    repository = _repository(place, folder, "many", {"commit": {"steps": {"one": ["true"]}}}, supersede=False)
    began = time.perf_counter()
    ids = [place.start(repository) for _ in range(queued)]
    runs = [place.ended(id, 600) for id in ids]
    seconds = time.perf_counter() - began
    order = [run["began"] for run in runs]
    whole = order == sorted(order) and all(run["status"] == "passed" for run in runs)
    report.rows.append((f"{queued} runs queued at once, 2 at a time, s", f"{seconds:.1f}", "", "", "1"))
    report.goals.append((f"{queued} queued runs begin in order and all end", whole))
    report.measured["order"] = {"seconds": seconds, "began": order}
    report.failures += not whole


def _log(report: Report, place: Installation, folder: Path, size: int) -> None:
    say(f"a log of {size} MB")
    # Each block is made of its number, so that what is lost or doubled changes the digest.
    writes = f"""
import sys
for n in range({size}):
    sys.stdout.buffer.write((f"{{n:06d}} " * 200000)[:{BLOCK}].encode())
"""
    steps = {"loud": {"run": script(writes), "output": "2048MiB", "timeout": "5m"}}
    repository = _repository(place, folder, "log", {"commit": {"steps": steps}})
    wanted = hashlib.sha256()
    for n in range(size):
        wanted.update((f"{n:06d} " * 200000)[:BLOCK].encode())
    me, done = psutil.Process(), threading.Event()
    before, peak, keeper = me.memory_info().rss, [0], [0]

    def look() -> None:
        while not done.wait(0.05):
            peak[0] = max(peak[0], me.memory_info().rss)
            for child in me.children():
                try:
                    if "keeper" in " ".join(child.cmdline()):
                        keeper[0] = max(keeper[0], child.memory_info().rss)
                except psutil.Error:
                    continue

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    began = time.perf_counter()
    id = place.start(repository)
    read, offset = hashlib.sha256(), 0
    # Followed while it grows, as a page or `crossfade runs log --follow` does.
    while True:
        data = place.runs.run(id)
        if node(data, "commit", "loud")["log"]:
            part = place.runs.log(id, "commit", "loud", offset, BLOCK)
            read.update(part["text"].encode())
            offset = part["next"]
            if part["ended"]:
                break
        elif data["ended"]:
            raise BenchFailed(f"the run has ended without a log: {data['reason']}")
        else:
            time.sleep(0.05)
    seconds = time.perf_counter() - began
    done.set()
    watcher.join()
    place.ended(id)
    grown = (max(peak[0], before) - before) / 1e6
    whole = read.hexdigest() == wanted.hexdigest()
    report.rows.append((f"{size} MB of log, written, masked and followed, s", f"{seconds:.1f}", "", "", "1"))
    report.rows.append(("memory of the server, grown by at most, MB", f"{grown:.1f}", "", "", "1"))
    report.rows.append(("memory of the keeper at most, MB", f"{keeper[0] / 1e6:.1f}", "", "", "1"))
    report.goals.append((f"every byte of {size} MB arrives", whole))
    report.goals.append(("memory does not grow with the log (server less than 20 MB more)", grown < 20))
    report.measured["log"] = {"seconds": seconds, "grown": grown, "keeper": keeper[0]}
    report.failures += not whole


def _row(name: str, found: list[float], digits: int) -> tuple[str, ...]:
    shown = [f"{value:.{digits}f}" for value in (statistics.median(found), min(found), max(found))]
    return (name, *shown, str(len(found)))


def main() -> int:
    """The command."""
    return run("pipeline", "What a run of a pipeline costs.", measure, 10)


if __name__ == "__main__":
    sys.exit(main())
