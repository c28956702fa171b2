"""``python -m bench.judge``: what a look costs the judge, over a long rollout, and how fast history is replayed.

10 metrics with 8 edges each and the counts of requests, one look after the other, as the server takes them in; then
1,000 recorded series of 600 looks through ``crossfade analyze``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, TextIO, TypeVar

import numpy as np
import scipy

from bench.processes import BenchFailed, say
from bench.report import Report, milliseconds, quantile, run
from crossfade.domain.analysis.block import Block
from crossfade.domain.analysis.explain import Situation, explain
from crossfade.domain.analysis.judge import Evidence, Judge
from crossfade.domain.analysis.policy import Analysis, Metric, Shape
from crossfade.domain.analysis.sample import Arm, Histogram, Row

COLUMNS: Final = ("", "looks", "median", "p99", "CPU time, median")
METRICS: Final = 10
EDGES: Final = (20.0, 50.0, 100.0, 200.0, 400.0, 800.0, 1600.0, 3200.0)
SHARES: Final = (0.1, 0.4, 0.3, 0.1, 0.06, 0.025, 0.01, 0.004, 0.001)
LOOKS: Final = 10_000
SERIES: Final = 1000
ROWS: Final = 600
FLAT: Final = 1.2
"""An old rollout's look may cost this many times a young one's: what is more is growth, what is less is noise."""

POLICY: Final = Analysis(
    metrics=tuple(Metric(f"m{i}", Shape.HISTOGRAM, margin=0.6, signal=f"m{i}", quantile="p99") for i in range(METRICS)),
    deadline=float(LOOKS),
)
CONFIG: Final = """\
analysis:
  deadline: 10m
  error_rate: {margin: 0.1%, or_ratio: 1.2}
"""

T = TypeVar("T")


@dataclass
class Part:
    """Seconds of each look, by the wall clock and of CPU time."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def timed(self, work: Callable[[], T]) -> T:
        wall, cpu = time.perf_counter(), time.process_time()
        made = work()
        self.cpu.append(time.process_time() - cpu)
        self.wall.append(time.perf_counter() - wall)
        return made

    def row(self, name: str) -> tuple[str, ...]:
        figures = (quantile(self.wall, 0.5), quantile(self.wall, 0.99), quantile(self.cpu, 0.5))
        return (name, str(len(self.wall)), *(milliseconds(one) for one in figures))


@dataclass
class Looks:
    """What is timed of a look, in order; ``bytes_kept`` is the evidence as JSON after the last one.

    ``old`` are the looks of the last tenth, and ``young`` the same counts taken in by the rollout as it was after its
    first tenth, in turns: a machine that gets slower meanwhile gets slower for both.
    """

    block: Part = field(default_factory=Part)
    judged: Part = field(default_factory=Part)
    young: Part = field(default_factory=Part)
    old: Part = field(default_factory=Part)
    explained: Part = field(default_factory=Part)
    written: Part = field(default_factory=Part)
    bytes_kept: int = 0


def measure(given: argparse.Namespace) -> Report:
    """The whole bench. Raises BenchFailed."""
    looks, series = (600, 10) if given.short else (LOOKS, SERIES)
    found = _looks(looks)
    seconds = []
    with TemporaryDirectory(prefix="crossfade-bench-") as folder:
        say(f"bench.judge: writes {series} series of {ROWS} looks")
        _write(Path(folder), series)
        for number in range(1, (1 if given.short else given.rounds) + 1):
            say(f"bench.judge: replay {number}")
            seconds.append(_replay(Path(folder), series))
    return _report(found, looks, series, seconds)


def _looks(looks: int) -> Looks:
    judge = Judge(POLICY)
    state = judge.begin()
    found = Looks()
    young = state
    for i, row in enumerate(_rows(looks)):
        if i >= looks - looks // 10:
            again = replace(Block.of([row]), t=np.array([young.t + 1]))
            found.young.timed(partial(judge.advance, young, again))
        state = _look(judge, state, row, found)
        if i + 1 == looks // 10:
            young = state
        if (i + 1) % 1000 == 0:
            say(f"bench.judge: {i + 1} of {looks} looks")
    found.old = Part(found.judged.wall[-(looks // 10) :], found.judged.cpu[-(looks // 10) :])
    found.bytes_kept = len(json.dumps(state.to_data()))
    return found


def _look(judge: Judge, state: Evidence, row: Row, found: Looks) -> Evidence:
    block = found.block.timed(lambda: Block.of([row]))
    state, track = found.judged.timed(lambda: judge.advance(state, block))
    found.explained.timed(lambda: explain(judge, state, track, Situation(share=0.05)))
    # As the server keeps it: on disk, or a restart would begin anew.
    found.written.timed(lambda: json.dumps(state.to_data()))
    return state


def _rows(looks: int) -> Iterator[Row]:
    """1000 requests a second, 5 % of them the candidate's, none of them worse."""
    rng = np.random.default_rng(1)
    for second in range(1, looks + 1):
        arms = []
        for rate in (950, 50):
            counts = rng.poisson(np.array(SHARES) * rate, (METRICS, len(SHARES)))
            histograms = {f"m{i}": Histogram(EDGES, tuple(map(float, counts[i]))) for i in range(METRICS)}
            requests = int(counts[0].sum())
            arms.append(Arm(requests, int(rng.binomial(requests, 0.001)), histograms=histograms))
        yield Row(float(second), arms[0], arms[1])


def _write(folder: Path, series: int) -> None:
    (folder / "analysis.yaml").write_text(CONFIG)
    rng = np.random.default_rng(2)
    with (folder / "looks.jsonl").open("w") as file:
        for i in range(series):
            _write_series(file, f"s{i}", rng, bad=0.005 if i % 4 == 0 else 0.001)


def _write_series(file: TextIO, name: str, rng: np.random.Generator, bad: float) -> None:
    nb, nc = rng.poisson(950, ROWS), rng.poisson(50, ROWS)
    xb, xc = rng.binomial(nb, 0.001), rng.binomial(nc, bad)
    for k in range(ROWS):
        row = {
            "series": name,
            "t": float(k + 1),
            "baseline": {"requests": int(nb[k]), "errors": int(xb[k])},
            "candidate": {"requests": int(nc[k]), "errors": int(xc[k])},
        }
        file.write(json.dumps(row) + "\n")


def _replay(folder: Path, series: int) -> tuple[float, float]:
    """Seconds by the wall clock and of CPU time, of the command as a whole."""
    command = [sys.executable, "-m", "crossfade.cli.main", "analyze", str(folder / "looks.jsonl"), "--json"]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [*command, "--config", str(folder / "analysis.yaml")],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=600,
        check=False,
        env=os.environ,
    )
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    lines = done.stdout.splitlines()
    # 1 says that not every series passed, as it must be here.
    if done.returncode != 1 or len(lines) != series:
        raise BenchFailed(f"crossfade analyze ended with {done.returncode}: {(done.stderr or done.stdout)[-600:]}")
    if not any(json.loads(line)["verdict"] == "fail" for line in lines):
        raise BenchFailed("crossfade analyze found none of the bad series")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _report(found: Looks, looks: int, series: int, seconds: list[tuple[float, float]]) -> Report:
    report = Report(f"Judge: what one look costs, ms ({METRICS} metrics with {len(EDGES)} edges each)", COLUMNS)
    report.rows = [
        found.judged.row("**judged: evidence and verdict**"),
        found.young.row("the same, after the first tenth of the rollout"),
        found.old.row("and in its last tenth, in turns with it"),
        found.block.row("its counts made into arrays"),
        found.explained.row("every metric in a sentence"),
        found.written.row("evidence written as JSON"),
    ]
    wall = [one for one, _ in seconds]
    median = quantile(found.judged.cpu, 0.5)
    first, last = quantile(found.young.cpu, 0.5), quantile(found.old.cpu, 0.5)
    replayed = quantile(wall, 0.5)
    report.goals = [
        (f"a look is judged in {milliseconds(median)} ms of CPU time at the median (≤ 1)", median <= 0.001),
        (
            f"flat: after {looks} looks one costs {last / first:.2f} times what it did after {looks // 10} (≤ {FLAT})",
            last <= FLAT * first,
        ),
        (f"{series} series of {ROWS} looks through `crossfade analyze` in {replayed:.1f} s (≤ 20)", replayed <= 20),
    ]
    report.notes = [
        f"one rollout of {looks} looks",
        "goals are on CPU time, which other work on the machine disturbs least",
        f"evidence after the last look: {found.bytes_kept / 1000:.0f} kB of JSON",
        f"replays: {', '.join(f'{w:.1f} s ({c:.1f} s of CPU time)' for w, c in seconds)}",
    ]
    report.versions = {"numpy": np.__version__, "scipy": scipy.__version__}
    report.measured = {
        "judged_seconds": found.judged.wall,
        "judged_cpu_seconds": found.judged.cpu,
        "young_cpu_seconds": found.young.cpu,
        "block_seconds": found.block.wall,
        "explained_seconds": found.explained.wall,
        "written_seconds": found.written.wall,
        "evidence_bytes": found.bytes_kept,
        "replay_seconds": wall,
        "replay_cpu_seconds": [one for _, one in seconds],
    }
    return report


if __name__ == "__main__":
    sys.exit(run("judge", (__doc__ or "").partition("\n")[0].partition(": ")[2], measure, rounds=3))
