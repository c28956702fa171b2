"""``python -m bench.detection``: how soon and how wrongly a canary is judged, by ours and by the judges of others.

All get the same seeded streams of simulated traffic, a look each second for 600 s, so seconds here are simulated ones
and the same on any machine. Peers are written from their specifications: `bench.peers_judges`.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from typing import Final

import numpy as np
import scipy

from bench import peers_judges as peers
from bench.processes import say
from bench.report import Report, quantile, run
from bench.streams import EDGES, SECONDS, Array, Scenario, Slower
from crossfade.domain.analysis.block import Block, Buckets
from crossfade.domain.analysis.judge import Judge, Track
from crossfade.domain.analysis.policy import ERROR_RATE, Analysis, Metric, Shape
from crossfade.domain.analysis.sample import History

CHUNK: Final = 50
"""Replicas that one task simulates."""

CALM: Final = 3
"""Times as many replicas are simulated where the share of false alarms is asked: it is small."""

ERRORS: Final = Analysis(metrics=(ERROR_RATE,), deadline=float(SECONDS))
NO_MARGIN: Final = Analysis(
    metrics=(Metric("error_rate", Shape.RATE, margin=0.0, required=False),), deadline=float(SECONDS)
)
LATENCY: Final = Analysis(
    metrics=(Metric("latency.p99", Shape.HISTOGRAM, margin=0.1, quantile="p99"),), deadline=float(SECONDS)
)

OURS: Final = "**Crossfade**"
NEW: Final = "**Crossfade**, without history"
BARE: Final = "**Crossfade**, margin 0"
LINDON_MALEK: Final = "Lindon–Malek, k=100"
KAYENTA: Final = "Kayenta, judged every minute"
KAYENTA_5: Final = "Kayenta, ≥ 5 points"
THRESHOLD: Final = "> 1 % over 1 min, each second"
FLAGGER: Final = "Flagger's example (1 min, 5 strikes)"
NAIVE: Final = "naive z-test each second"
METHODS: Final = (OURS, NEW, BARE, LINDON_MALEK, KAYENTA, KAYENTA_5, THRESHOLD, FLAGGER, NAIVE)

AA: Final = Scenario("A/A")
WORSE: Final = tuple(Scenario(f"{bad:.1%}", bad) for bad in (0.002, 0.005, 0.01, 0.05))
BURSTS: Final = Scenario("bursts", cluster=5.0)
SPREAD: Final = Scenario("bursts over 5 s", cluster=5.0, spread=5)
INCIDENT: Final = Scenario("incident", incident=0.05)
RAMP: Final = Scenario("ramp", split=(0.05, 0.25, 0.5))
BOTH: Final = Scenario("incident and ramp", split=(0.05, 0.25, 0.5), incident=0.02)
QUIET: Final = Scenario("5 requests/s", rate=5.0)
HARD: Final = (BURSTS, SPREAD, INCIDENT, RAMP, BOTH, QUIET)
FOUND: Final = (
    Scenario("bursts, 1 %", 0.01, cluster=5.0),
    Scenario("bursts, 5 %", 0.05, cluster=5.0),
    Scenario("ramp, 0.5 %", 0.005, split=(0.05, 0.25, 0.5)),
    Scenario("late, 1 %", 0.01, onset=300),
    Scenario("late, 5 %", 0.05, onset=300),
    Scenario("5 requests/s, 10 %", 0.1, rate=5.0),
    Scenario("5 requests/s, 50 %", 0.5, rate=5.0),
)
SLOW_AA: Final = Slower("latency: A/A")
SLOWER: Final = (
    SLOW_AA,
    Slower("latency: all ×1.2", 1.2),
    Slower("latency: slowest 2 % ×1.2", tail_times=1.2),
    Slower("latency: slowest 2 % ×1.5", tail_times=1.5),
    Slower("latency: slowest 2 % ×2", tail_times=2.0),
    Slower("latency: all ×1.1", 1.1),
)


@dataclass
class Outcome:
    """What one method made of one scenario: of each replica the second of the alarm and of the pass, infinite if never."""

    alarms: list[float] = field(default_factory=list)
    passes: list[float] = field(default_factory=list)

    def add(self, other: Outcome) -> None:
        self.alarms += other.alarms
        self.passes += other.passes

    def after(self, onset: float) -> Outcome:
        """Those not alarmed before ``onset``, by seconds since then."""
        return Outcome([one - onset for one in self.alarms if one > onset], self.passes)

    @property
    def alarmed(self) -> float:
        return share(self.alarms)

    @property
    def median(self) -> float:
        return quantile(self.alarms, 0.5)


Outcomes = Mapping[str, Mapping[str, Outcome]]


@dataclass
class Tables(Report):
    """A report of several tables: the first is its own, the others follow it, then goals and notes of all."""

    more: list[Report] = field(default_factory=list)

    def markdown(self) -> str:
        head, blank, rest = super().markdown().partition("\n\n- ")
        tables = [table.markdown().partition("\n\n- ")[0].replace("## ", "### ", 1) for table in self.more]
        return "\n\n".join([head, *tables]) + blank + rest


# --- simulating


def measure(given: argparse.Namespace) -> Report:
    """The whole bench: all scenarios, on all cores."""
    replicas = 10 if given.short else given.rounds
    began = time.perf_counter()
    tasks: list[tuple[Scenario | Slower, range]] = []
    every: tuple[Scenario | Slower, ...] = (AA, *WORSE, *HARD, *FOUND, *SLOWER)
    for scenario in every:
        calm = scenario in (AA, *HARD, SLOW_AA)
        wanted = replicas * (1 if given.short or not calm else CALM)
        tasks += [(scenario, range(i, min(i + CHUNK, wanted))) for i in range(0, wanted, CHUNK)]
    outcomes: dict[str, dict[str, Outcome]] = {}
    with ProcessPoolExecutor() as pool:
        running = pool.map(_judged, *zip(*tasks, strict=True))
        for (scenario, which), found in zip(tasks, running, strict=True):
            for method, outcome in found.items():
                outcomes.setdefault(scenario.name, {}).setdefault(method, Outcome()).add(outcome)
            say(f"bench.detection: {scenario.name}: {which.stop} replicas, {time.perf_counter() - began:.0f} s")
    return _report(outcomes, replicas)


def _judged(scenario: Scenario | Slower, replicas: range) -> dict[str, Outcome]:
    if isinstance(scenario, Slower):
        return _judged_latency(scenario, replicas)
    streams = np.stack([scenario.draw(i) for i in replicas])
    found = {
        OURS: _ours(ERRORS, streams, [scenario.history(i) for i in replicas]),
        NEW: _ours(ERRORS, streams, [None] * len(replicas)),
        BARE: _ours(NO_MARGIN, streams, [scenario.history(i) for i in replicas]),
    }
    for method, judge in _peers(scenario).items():
        found[method] = Outcome(judge(streams).tolist())
    return found


def _peers(scenario: Scenario) -> dict[str, Callable[[Array], Array]]:
    found: dict[str, Callable[[Array], Array]] = {
        KAYENTA: lambda streams: peers.kayenta_on_errors(streams, 2),
        KAYENTA_5: lambda streams: peers.kayenta_on_errors(streams, 5),
        THRESHOLD: peers.threshold,
        FLAGGER: peers.flagger,
        NAIVE: peers.naive,
    }
    if len(scenario.split) == 1:  # it is not defined for a split that changes
        found[LINDON_MALEK] = lambda streams: peers.lindon_malek(streams, scenario.split[0])
    return found


def _ours(analysis: Analysis, streams: Array, histories: Sequence[History | None]) -> Outcome:
    found = Outcome()
    for stream, history in zip(streams, histories, strict=True):
        judge = Judge(analysis, history)
        _add(found, judge.advance(judge.begin(), Block(_seconds(), {"": stream}))[1])
    return found


def _judged_latency(scenario: Slower, replicas: range) -> dict[str, Outcome]:
    found = {method: Outcome() for method in (OURS, NEW, KAYENTA, KAYENTA_5)}
    for i in replicas:
        baseline, candidate, baseline_p99, candidate_p99 = scenario.draw(i)
        requests = np.zeros((SECONDS, 4))
        requests[:, 0], requests[:, 2] = baseline.sum(axis=1), candidate.sum(axis=1)
        block = Block(_seconds(), {"": requests}, {"": Buckets(EDGES, baseline, candidate)})
        for method, history in ((OURS, scenario.history(i)), (NEW, None)):
            judge = Judge(LATENCY, history)
            _add(found[method], judge.advance(judge.begin(), block)[1])
        x, y = 1000 * candidate_p99, 1000 * baseline_p99
        found[KAYENTA].alarms.append(peers.kayenta_over_time(x, y, 2))
        found[KAYENTA_5].alarms.append(peers.kayenta_over_time(x, y, 5))
    return found


@cache
def _seconds() -> Array:
    return np.arange(1.0, SECONDS + 1.0)


def _add(outcome: Outcome, track: Track) -> None:
    outcome.alarms.append(float(peers.first(track.fails[None])[0]))
    outcome.passes.append(float(peers.first(track.passes[None])[0]))


# --- reporting


def share(seconds: Sequence[float]) -> float:
    """The share that is finite."""
    return sum(map(math.isfinite, seconds)) / len(seconds)


def wilson(successes: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a share, as shares. E. B. Wilson, JASA 22 (1927)."""
    z = 1.959963984540054
    p = successes / n
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, (centre - half) / (1 + z * z / n)), min(1.0, (centre + half) / (1 + z * z / n))


def alarms(seconds: Sequence[float] | None) -> str:
    """``0.6 % (0.2…1.6)``: the share that is finite, and its Wilson interval."""
    if not seconds:
        return "-"
    low, high = wilson(sum(map(math.isfinite, seconds)), len(seconds))
    return f"{_percent(share(seconds))} % ({_percent(low)}…{_percent(high)})"


def _percent(value: float) -> str:
    return f"{100 * value:.{1 if 0 < value < 0.1 else 0}f}"


def times(seconds: Sequence[float] | None, most: float = SECONDS) -> str:
    """``31/74``: median and p90; with ``>600`` where it is never, and then the share that is not."""
    if not seconds:
        return "-"
    if not share(seconds):
        return "never"
    shown = [quantile(seconds, q) for q in (0.5, 0.9)]
    text = "/".join(f"{one:.0f}" if math.isfinite(one) else f">{most:.0f}" for one in shown)
    return text if math.isfinite(shown[1]) else f"{text} ({share(seconds):.0%})".replace("%", " %")


def _of(outcomes: Outcomes, scenario: Scenario | Slower, method: str) -> Outcome:
    return outcomes[scenario.name].get(method, Outcome())


def _found(outcomes: Outcomes, scenario: Scenario | Slower, onset: int = 0) -> Callable[[str], str]:
    return lambda method: times(_of(outcomes, scenario, method).after(onset).alarms, SECONDS - onset)


def _alarms(outcomes: Outcomes, scenario: Scenario | Slower) -> Callable[[str], str]:
    return lambda method: alarms(_of(outcomes, scenario, method).alarms)


def _rows(methods: Iterable[str], *columns: Callable[[str], str]) -> list[Sequence[str]]:
    return [(method, *(column(method) for column in columns)) for method in methods]


def _report(outcomes: Outcomes, replicas: int) -> Report:
    report = Tables(
        "Detection: seconds until a bad candidate is found, and false alarms",
        (
            "errors of the candidate",
            "as the baseline's (0.1 %): alarms",
            *(f"{100 * w.bad:g} %" for w in WORSE),
        ),
        _rows(
            METHODS,
            _alarms(outcomes, AA),
            *(_found(outcomes, w) for w in WORSE),
        ),
    )
    report.more = [
        _pass_table(outcomes),
        _latency_table(outcomes),
        _hard_table(outcomes),
        _found_table(outcomes),
    ]
    report.goals = _goals(outcomes)
    report.notes = [
        f"{replicas} replicas a cell ({CALM} times as many where false alarms are asked)",
        "median/p90 of the seconds to the alarm, in brackets the share that was found at all",
        "shares of alarms and passes with their 95 % interval (Wilson)",
        "1000 requests/s, 5 % of them the candidate's, a look each second for 600 s; ours at α = 1 %, a history of 600 s",
    ]
    report.versions = {"numpy": np.__version__, "scipy": scipy.__version__}
    report.measured = {
        name: {
            method: {
                "alarm_seconds": [one if math.isfinite(one) else None for one in outcome.alarms],
                "pass_seconds": [one if math.isfinite(one) else None for one in outcome.passes],
            }
            for method, outcome in found.items()
        }
        for name, found in outcomes.items()
    }
    return report


def _pass_table(outcomes: Outcomes) -> Report:
    limit = WORSE[0]
    return Report(
        "Pass: the candidate is at most 0.1 percentage points worse (false passes: α = 5 %)",
        ("", "A/A: passes", "seconds to pass", "0.2 % errors, exactly the margin: passes"),
        _rows(
            (OURS, NEW),
            lambda m: alarms(_of(outcomes, AA, m).passes),
            lambda m: times(_of(outcomes, AA, m).passes),
            lambda m: alarms(_of(outcomes, limit, m).passes),
        ),
    )


def _latency_table(outcomes: Outcomes) -> Report:
    all_slower, *tail, at_margin = SLOWER[1:]
    return Report(
        "Latency: lognormal, p99 200 ms, judged by `p99: {margin: 10%}`",
        (
            "latencies of the candidate",
            "as the baseline's: alarms",
            "all ×1.2",
            *(f"slowest 2 % ×{w.tail_times:g}" for w in tail),
            "as the baseline's: passes",
            "all ×1.1, exactly the margin: passes",
        ),
        _rows(
            (OURS, NEW, KAYENTA, KAYENTA_5),
            _alarms(outcomes, SLOW_AA),
            *(_found(outcomes, w) for w in (all_slower, *tail)),
            lambda m: times(_of(outcomes, SLOW_AA, m).passes),
            lambda m: alarms(_of(outcomes, at_margin, m).passes),
        ),
    )


def _hard_table(outcomes: Outcomes) -> Report:
    return Report(
        "False alarms where they come easily: the candidate is as good as the baseline",
        (
            "",
            "errors in clusters of mean 5",
            "and each cluster over 5 s",
            "5 % errors on both arms from 300 s on",
            "split 5 → 25 → 50 %",
            "the same, 2 % errors on both from 300 s on",
            "5 requests/s",
        ),
        _rows(METHODS, *(_alarms(outcomes, w) for w in HARD)),
    )


def _found_table(outcomes: Outcomes) -> Report:
    names = (
        "clusters of mean 5: 1 %",
        "5 %",
        "split 5 → 25 → 50 %: 0.5 %",
        "from 300 s on: 1 %",
        "5 %",
        "5 requests/s: 10 %",
        "50 %",
    )
    return Report(
        "Seconds to find a bad candidate there (from its first error on; who alarmed before is left out)",
        ("errors of the candidate", *names),
        _rows(METHODS, *(_found(outcomes, w, w.onset) for w in FOUND)),
    )


def _goals(outcomes: Outcomes) -> list[tuple[str, bool]]:
    goals: list[tuple[str, bool]] = []
    for scenario, what in (
        (AA, "A/A"),
        (BURSTS, "A/A with clusters of mean 5, with history"),
        (INCIDENT, "an incident on both arms"),
        (RAMP, "A/A while the split ramps"),
        (QUIET, "A/A at 5 requests/s"),
        (SLOW_AA, "A/A of latencies"),
    ):
        found = _of(outcomes, scenario, OURS)
        goals.append((f"false alarms, {what}: {100 * found.alarmed:.2f} % (≤ 1 %)", found.alarmed <= 0.01))
    for scenario, most in zip(WORSE[1:], (40, 12, 3), strict=True):
        median = _of(outcomes, scenario, OURS).median
        goals.append(
            (f"{100 * scenario.bad:g} % errors found in {median:.0f} s at the median (≤ {most})", median <= most)
        )
    passed = share(_of(outcomes, AA, OURS).passes)
    goals.append((f"A/A passes in {100 * passed:.1f} % (≥ 90 %)", passed >= 0.9))
    return goals


if __name__ == "__main__":
    sys.exit(run("detection", (__doc__ or "").partition("\n")[0].partition(": ")[2], measure, rounds=400))
