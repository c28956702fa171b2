"""The verdict in words, with numbers and units: what was compared, what was found, what is allowed, what is missing."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from crossfade.domain.analysis import evidence as e
from crossfade.domain.analysis import interval
from crossfade.domain.analysis.columns import LEVELS, NAMES
from crossfade.domain.analysis.evidence import Array
from crossfade.domain.analysis.judge import BURN_IN, LEAST_EVENTS, Evidence, Judge, Track
from crossfade.domain.analysis.plan import requests_to_pass
from crossfade.domain.analysis.policy import EDGE, QUANTILES, Direction, Metric, Shape
from crossfade.domain.analysis.verdict import Finding, Verdict, worst
from crossfade.domain.values import show_duration

CONFIDENCE: Final = 0.95
STALE: Final = 30.0
"""Seconds without a candidate request after which nothing can be said."""

MISMATCH: Final = 3.0
"""A realised split that is this many times off the weights is no split by weights."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One metric as it stands. Rates and exceedances are shares, latencies ms, means in their own unit.

    ``low`` and ``high``: the difference with 95 % confidence at every moment; None where there is no interval.
    ``fail`` and ``passing`` are log10 of the evidence; they decide at ``fail_line`` and ``pass_line``.
    """

    name: str
    finding: Finding
    sentence: str
    baseline: float | None
    candidate: float | None
    low: float | None
    high: float | None
    fail: float
    passing: float
    fail_line: float
    pass_line: float
    required: bool
    dry_run: bool

    def to_data(self) -> dict[str, Any]:
        return {**asdict(self), "finding": self.finding.value}


@dataclass(frozen=True, slots=True)
class Situation:
    """What the judge cannot see in the counts. ``final``: the deadline is reached; ``share``: the candidate's weight."""

    final: bool = False
    alone: bool = False
    share: float | None = None


def explain(judge: Judge, state: Evidence, track: Track, situation: Situation) -> tuple[Verdict, tuple[Compared, ...]]:
    """The verdict after the last look of ``track``, with every metric as it stands."""
    compared = tuple(_compare(judge, state, track, metric, situation.alone) for metric in judge.analysis.metrics)
    reasons: dict[Finding, list[str]] = {}

    def say(finding: Finding, *why: str) -> None:
        reasons.setdefault(finding, []).extend(why)

    if track.fails[-1]:
        say(Finding.FAIL, *_why_fail(judge, state, track, compared))
    needed = any(metric.required for metric in judge.analysis.enforced)
    if needed and (missing := _no_data(judge, state, situation)):
        say(Finding.NO_DATA, *missing)
    since = state.t - state.step_began
    least = judge.analysis.min_duration
    passes = bool(track.passes[-1]) or situation.alone or not needed
    telling = [c for c in compared if not c.dry_run]
    if passes and state.t > judge.analysis.warmup and since >= least:
        shown = [c for c in telling if c.finding is Finding.PASS] or telling
        say(Finding.PASS, *(c.sentence for c in shown))
    else:
        open_ones = [c for c in telling if c.finding is not Finding.PASS and c.required] or telling
        prefix = "deadline reached: " if situation.final else ""
        say(Finding.INCONCLUSIVE, *(prefix + c.sentence for c in open_ones))
        if passes and since < least:
            say(Finding.INCONCLUSIVE, f"passes so far; {show_duration(least - since)} of min_duration are left")
    finding = worst(reasons)
    trials = [f"dry run: {c.sentence}" for c in compared if c.dry_run and c.finding is Finding.FAIL]
    return Verdict(finding, (*reasons[finding], *trials)), compared


def _why_fail(judge: Judge, state: Evidence, track: Track, compared: tuple[Compared, ...]) -> list[str]:
    line = judge.line[0]
    _, _, nc, xc = state.seen.rates[EDGE]
    if track.capped[-1]:
        return [f"the candidate spent its share of the error budget: {xc:.0f} of {nc:.0f} requests failed"]
    guilty = [c for c in compared if not c.dry_run and track.standings[c.name].beyond[-1]]
    told = sorted(guilty, key=lambda c: -c.fail)
    told = [c for c in told if c.fail * math.log(10) > line - 3] or told[:1]
    if not told:
        return [f"errors {percent(xc / nc)}: the error budget burns too fast, whatever the baseline does"]
    return [c.sentence for c in told]


def _no_data(judge: Judge, state: Evidence, situation: Situation) -> list[str]:
    nb, _, nc, _ = state.in_step
    found = []
    if nc < LEAST_EVENTS:
        found.append(f"{nc:.0f} candidate requests so far, at least {LEAST_EVENTS} are needed")
    elif not situation.alone and nb == 0:
        found.append("the baseline had no requests")
    elif state.t - state.last_candidate > STALE:
        found.append(f"no candidate request for {show_duration(state.t - state.last_candidate)}")
    elif situation.share is not None and not situation.alone and 0 < situation.share < 1:
        share, wanted = nc / (nc + nb), situation.share
        off = max(wanted / max(share, 1e-9), (1 - wanted) / max(1 - share, 1e-9))
        if off > MISMATCH and (nc + nb) * min(wanted, 1 - wanted) >= 100:
            found.append(f"the candidate has {percent(share)} of the requests, but a weight of {percent(wanted)}")
    found += [
        f"{metric.name}: {state.missing[metric.signal]}"
        for metric in judge.analysis.enforced
        if metric.required and metric.signal in state.missing and metric.signal != EDGE
    ]
    return found


# --- one metric


def _compare(judge: Judge, state: Evidence, track: Track, metric: Metric, alone: bool) -> Compared:
    standing = track.standings[metric.name]
    i = judge.analysis.metrics.index(metric)
    line_f, line_p = judge.line
    weight = math.log(metric.weight / judge.weights) if not metric.dry_run else 0.0
    log_f, log_p = float(standing.fail[-1]), float(max(standing.passing[-1], state.best_pass[i]))
    if metric.signal in state.missing and metric.signal != EDGE:
        finding = Finding.NO_DATA
    elif standing.beyond[-1] and log_f + weight >= line_f:
        finding = Finding.FAIL
    elif log_p >= line_p:
        finding = Finding.PASS
    else:
        finding = Finding.INCONCLUSIVE
    shape = {Shape.RATE: _rate, Shape.HISTOGRAM: _latency, Shape.MEAN: _mean}[metric.shape]
    told = Asked(judge, state, metric, finding, alone, int(standing.decides[-1]))
    sentence, baseline, candidate, low, high = shape(told)
    if finding is Finding.NO_DATA:
        sentence = f"{label(metric)}: {state.missing[metric.signal]}"
    return Compared(
        metric.name,
        finding,
        sentence,
        baseline,
        candidate,
        low,
        high,
        _log10(log_f),
        _log10(log_p),
        line_f / math.log(10),
        line_p / math.log(10),
        metric.required,
        metric.dry_run,
    )


@dataclass(frozen=True, slots=True)
class Asked:
    """What a sentence is wanted about. ``decides``: in which test of the metric the evidence is strongest."""

    judge: Judge
    state: Evidence
    metric: Metric
    finding: Finding
    alone: bool
    decides: int


Told = tuple[str, float | None, float | None, float | None, float | None]


def _rate(asked: Asked) -> Told:
    judge, state, metric, finding = asked.judge, asked.state, asked.metric, asked.finding
    nb, xb, nc, xc = state.seen.rates.get(metric.signal, np.zeros(4))
    if not nc:
        return f"{label(metric)}: the candidate had no requests yet", None, None, None, None
    pc = xc / nc
    history = judge.history
    if asked.alone and metric.signal == EDGE and nb + history.requests:
        before = (xb + history.errors) / (nb + history.requests)
        counted = f"{label(metric)} {percent(pc)} ({xc:.0f} of {nc:.0f}) against {percent(before)} before"
        return f"{counted}; limit {_limit(metric, before)}{_end(finding)}", before, pc, None, None
    if not nb:
        return f"{label(metric)} {percent(pc)} ({xc:.0f} of {nc:.0f}); the baseline had none", None, pc, None, None
    pb = xb / nb
    low = high = None
    text = f"{label(metric)} {percent(pc)} ({xc:.0f} of {nc:.0f}) against {percent(pb)} ({xb:.0f} of {nb:.0f})"
    first = judge.columns.first_rate
    if first is not None and judge.columns.fail[first].signal == metric.signal and metric.direction is Direction.RISE:
        low, high = interval.of_difference(state.rows, 1 - CONFIDENCE, dispersion(judge, state))
        low, high = max(low, -pb), min(high, 1 - pb)
        text += f"; the difference is {_points(low)} to {_points(high)} pp with 95 % confidence at every moment"
    text += f"; limit {_limit(metric, pb)}{_end(finding)}"
    if finding is Finding.INCONCLUSIVE and metric.required:
        text += _missing_requests(judge, metric, pb, pc)
    return text, pb, pc, low, high


def _limit(metric: Metric, base: float) -> str:
    if metric.ratio and metric.ratio * base > base + metric.margin:
        return f"{metric.ratio:g} times as many"
    return f"{round(metric.margin * 100, 3):g} pp more"


def _missing_requests(judge: Judge, metric: Metric, pb: float, pc: float) -> str:
    limit = max(pb + metric.margin, pb * (metric.ratio or 1.0))
    if pc >= limit:
        return ""
    needed = requests_to_pass(pc, limit, judge.analysis.false_pass)
    return f"; about {needed:,.0f} candidate requests in all would show a pass" if math.isfinite(needed) else ""


def _latency(asked: Asked) -> Told:
    state, metric, finding = asked.state, asked.metric, asked.finding
    found = state.seen.histograms.get(metric.signal)
    if found is None or not found.baseline.sum() or not found.candidate.sum():
        return f"{label(metric)}: no latencies of both arms yet", None, None, None, None
    level = LEVELS[NAMES.index(metric.quantile)]
    qb, qc = quantile(found.edges, found.baseline, level), quantile(found.edges, found.candidate, level)
    if qb is None or qc is None:
        return f"{label(metric)} lies beyond the last edge ({ms(float(found.edges[-1]))})", None, None, None, None
    text = f"{label(metric)} {ms(qc)} against {ms(qb)}"
    # The edge at which the arms differ most surely, which need not be that of the quantile.
    decides = NAMES[asked.decides] if len(asked.judge.columns.of_fail[metric.name]) > 1 else metric.quantile
    edge = quantile(found.edges, found.baseline, QUANTILES[decides])
    if edge is not None:
        at = int(np.searchsorted(found.edges, edge))
        above, above_b = (1 - np.cumsum(side)[at] / side.sum() for side in (found.candidate, found.baseline))
        text += f"; {percent(above)} took over {ms(edge)} against {percent(above_b)}"
    return f"{text}; limit {round(metric.margin * 100, 3):g} % slower{_end(finding)}", qb, qc, None, None


def _mean(asked: Asked) -> Told:
    state, metric, finding = asked.state, asked.metric, asked.finding
    found = state.moments.get(metric.signal)
    if found is None or not found[0] or not found[3]:
        return f"{label(metric)}: no values of both arms yet", None, None, None, None
    nb, sb, qb, nc, sc, qc = found
    mb, mc = sb / nb, sc / nc
    text = f"{label(metric)} {mc:.4g} against {mb:.4g} on average"
    low = high = None
    precision = state.precision.get(metric.name)
    if precision is None:
        events = sc**2 / qc if qc else 0.0
        few = f"{events:.0f} candidate events so far, {BURN_IN} are needed"
        text += f"; {few if events < BURN_IN else 'what the values vary by is not known yet'}"
    else:
        variance = np.array(max(qc / nc - mc**2, 0) / nc + max(qb / nb - mb**2, 0) / nb)
        half = float(e.half_width_of_means(variance, np.array(precision), 1 - CONFIDENCE))
        low, high = mc - mb - half, mc - mb + half
        text += f"; the difference is {low:.3g} to {high:.3g} with 95 % confidence at every moment"
    worse = {Direction.RISE: "more", Direction.DROP: "less", Direction.EITHER: "more or less"}[metric.direction]
    return f"{text}; limit {round(metric.margin * 100, 3):g} % {worse}{_end(finding)}", mb, mc, low, high


def dispersion(judge: Judge, state: Evidence) -> float:
    """The burstiness φ that the first rate's evidence is divided by now."""
    i = judge.columns.first_rate
    if i is None:
        return 1.0
    unlike, like, pairs = state.pairs[i]
    known = float(e.burstiness_of_pairs(np.array(unlike), np.array(like), np.array(pairs)))
    return max(known, e.burstiness(np.array(judge.history.errors_per_10s)) if judge.columns.has_history[i] else 1.0)


def quantile(edges: Array, counts: Array, level: float) -> float | None:
    """The upper edge of the bucket that holds a quantile; None when that bucket is open above, or there are no counts."""
    below = np.cumsum(counts)
    if not below[-1]:
        return None
    at = int(np.searchsorted(below, level * below[-1], side="left"))
    return float(edges[at]) if at < len(edges) else None


# --- words


def label(metric: Metric) -> str:
    """What a metric is called in a sentence."""
    if metric.name == "error_rate":
        return "errors"
    if metric.shape is Shape.HISTOGRAM and metric.signal == EDGE:
        return f"{metric.quantile} latency"
    return metric.name


def percent(share: float) -> str:
    """``0.42 %``"""
    return f"{share * 100:.3g} %" if share < 0.1 else f"{share * 100:.1f} %"


def ms(value: float) -> str:
    """``212 ms``, ``1.2 s``"""
    return f"{value:.3g} ms" if value < 1000 else f"{value / 1000:.3g} s"


def _points(share: float) -> str:
    text = f"{share * 100:.2g}" if abs(share) < 0.1 else f"{share * 100:.0f}"
    return "0" if text == "-0" else text


def _end(finding: Finding) -> str:
    return {Finding.FAIL: ": fail", Finding.PASS: ": pass", Finding.INCONCLUSIVE: "", Finding.NO_DATA: ""}[finding]


def _log10(value: float) -> float:
    return max(-999.0, min(999.0, value / math.log(10))) if math.isfinite(value) else -999.0
