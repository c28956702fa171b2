"""Three plots of a comparison as SVG, for the dashboard, the receipt and the eyes; and a sparkline for `status`.

Each plot is one self-contained element of 640 x 240; `drawing` says what all of them keep to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import numpy as np

from crossfade.domain.analysis import evidence as e
from crossfade.domain.analysis import interval as sequence
from crossfade.domain.analysis.block import Buckets
from crossfade.domain.analysis.columns import NAMES
from crossfade.domain.analysis.drawing import (
    BOTTOM,
    COLOURS,
    DASHES,
    TOP,
    Panel,
    begin,
    caption,
    document,
    empty,
    finite,
    linear_ticks,
    time_ticks,
)
from crossfade.domain.analysis.evidence import Array
from crossfade.domain.analysis.explain import CONFIDENCE, dispersion, label, ms, quantile
from crossfade.domain.analysis.judge import Evidence, Judge
from crossfade.domain.analysis.policy import EDGE, QUANTILES, Metric, Shape

LABELLED: Final = 5
"""Most metrics that are told apart in one plot: more labels would cover each other."""

LN10: Final = math.log(10)
Plot = Callable[[Judge, Evidence, str], str]
BLOCKS: Final = "▁▂▃▄▅▆▇█"


def interval(judge: Judge, state: Evidence, title: str = "") -> str:
    """The difference of the first rate between the arms over time, its interval, and the limit."""
    metric = next((metric for metric in judge.analysis.metrics if metric.shape is Shape.RATE), None)
    rows = state.rows
    if metric is None or not len(rows):
        return document(title, "Difference between the arms", "Nothing has been compared yet.", [empty()])
    _, xc, nc, xb, nb, _ = np.cumsum(rows, axis=0).T
    pc, pb = xc / np.maximum(nc, 1), xb / np.maximum(nb, 1)
    estimate = (pc - pb) * 100
    t, low, high = sequence.band(rows, 1 - CONFIDENCE, dispersion(judge, state)).T
    # No difference can be lower than a candidate without any, nor higher than one of nothing else.
    low, high = np.maximum(low, -pb[-1]) * 100, np.minimum(high, 1 - pb[-1]) * 100
    limit = max(metric.margin, float(pb[-1]) * ((metric.ratio or 1.0) - 1)) * 100
    # The first intervals are as wide as can be; what matters is where the last ones are.
    marks = [0.0, limit, *finite([low[-1], high[-1], estimate[-1]])]
    pad = 0.35 * (max(marks) - min(marks)) or 1.0
    panel = Panel(56, 500, begin(rows[:, 0]), float(rows[-1, 0]), min(marks) - pad, max(marks) + pad)
    band = [*zip(t, high, strict=True), *zip(t[::-1], low[::-1], strict=True)]
    body = [
        panel.axes(time_ticks(panel.x0, panel.x1), linear_ticks(panel.y0, panel.y1)),
        panel.inside(
            f'<polygon points="{panel.points(band)}" style="fill:var(--candidate);opacity:.22"/>'
            + panel.path(zip(rows[:, 0], estimate, strict=True), "stroke:var(--candidate)")
        ),
        panel.across(0.0, "grid", "stroke:var(--soft)"),
        panel.across(limit, "limit"),
        panel.labels(
            [
                (limit, f"limit {limit:.2g} pp", "said"),
                (0.0, "no difference", ""),
                (float(estimate[-1]), f"measured {estimate[-1]:.2g} pp", "said"),
            ]
        ),
    ]
    what = f"{label(metric).capitalize()}: candidate less baseline in percentage points, 95 % interval at every moment"
    said = f"At the end {_pp(estimate[-1])}, between {_pp(low[-1])} and {_pp(high[-1])}; the limit is {_pp(limit)}."
    return document(title, what, said, body)


def evidence(judge: Judge, state: Evidence, title: str = "") -> str:
    """The evidence on each metric over time, against the lines at which it fails and at which it passes."""
    what = "Evidence: what a fair bet on it would have multiplied its stake by"
    if not len(state.trail):
        return document(title, what, "Nothing has been compared yet.", [empty()])
    metrics = judge.analysis.metrics
    # Each by its share of the budget, so that one line serves all.
    shares = [0.0 if m.dry_run else math.log(m.weight / judge.weights) for m in metrics]
    fails = [(m, (state.trail[:, 1 + 2 * i] + shares[i]) / LN10) for i, m in enumerate(metrics)]
    passes = [(m, state.trail[:, 2 + 2 * i] / LN10) for i, m in enumerate(metrics)]
    to_fail, to_pass = (line / LN10 for line in judge.line)
    t = state.trail[:, 0]
    worse = "worse than the limit" if judge.analysis.strict else "worse; fails if beyond the limit, too"
    left, right = (Panel(x, x + 180, begin(t), float(t[-1]), 0, 0) for x in (48, 372))
    body = [
        _ways(left, t, fails, to_fail, worse, "fails"),
        _ways(right, t, passes, to_pass, "good enough", "passes"),
    ]
    said = "; ".join(
        f"{label(m)}: {_times(f[-1])} of {_times(to_fail)} to fail, {_times(p[-1])} of {_times(to_pass)} to pass"
        for (m, f), (_, p) in zip(fails, passes, strict=True)
    )
    return document(title, what, f"At the end {said}.", body)


def latency(judge: Judge, state: Evidence, title: str = "") -> str:
    """Both distributions of latency, and the edge at which they differ most surely."""
    metric = _judged_latency(judge, state)
    signal = metric.signal if metric else EDGE
    found = state.seen.histograms.get(signal)
    what = "Latency: share of requests that took at most so long"
    if found is None or not found.baseline.sum() or not found.candidate.sum() or found.edges[-1] <= 0:
        return document(title, what, "There are no latencies of both arms yet.", [empty()])
    edges = np.maximum(found.edges, found.edges[-1] * 1e-6)
    sides = {"baseline": found.baseline, "candidate": found.candidate}
    below = {name: np.cumsum(counts)[:-1] / counts.sum() for name, counts in sides.items()}
    panel = _latency_panel(edges, list(below.values()))
    body = [panel.axes(_log_ticks(panel.x0, panel.x1), [(_logit(q), n) for n, q in _SHOWN.items()])]
    words = ""
    edge, decided = _deciding_edge(judge, state, metric, found) if metric else (None, False)
    if edge is not None and edge > 0:
        words = f"{'decides' if decided else 'differs most surely'} at {ms(edge)}"
        x = panel.x(math.log10(edge))
        body.append(f'<line class="limit" x1="{x}" y1="{TOP - 4}" x2="{x}" y2="{BOTTOM}"/>')
        body.append(caption(float(x), TOP - 8, words, "said", "middle"))
    for name, shares in below.items():
        known = [(math.log10(x), _logit(y)) for x, y in zip(edges, shares, strict=True) if y < 1]
        dash = ";stroke-dasharray:7 3" if name == "baseline" else ""
        body.append(panel.inside(panel.path(known, f"stroke:var(--{name}){dash}")))
    body += _quantiles(panel, edges, below)
    said = [f"{n} {ms(c)} against {ms(b)}" for n in ("p50", "p99") for c, b in [_pair(found, n)] if c and b]
    told = f"Candidate against baseline: {', '.join(said) or 'beyond the edges'}." + (f" It {words}." if words else "")
    return document(title, what, told, body)


PLOTS: Final[dict[str, Plot]] = {
    "interval": interval,
    "evidence": evidence,
    "latency": latency,
}
"""All plots of a comparison, by the word that names them in a file."""


def sparkline(values: Iterable[float], low: float | None = None, high: float | None = None) -> str:
    """One character per value, from the lowest to the highest, or from ``low`` to ``high``. What is no number is a gap."""
    numbers = list(values)
    known = finite(numbers)
    bottom = min(known, default=0.0) if low is None else low
    top = max(known, default=0.0) if high is None else high
    return "".join(_cell(value, bottom, top) for value in numbers)


def _cell(value: float, bottom: float, top: float) -> str:
    if math.isnan(value):
        return " "
    if value <= bottom or top <= bottom:
        return BLOCKS[0]
    if value >= top:
        return BLOCKS[-1]
    # Halved, so that the distance between two numbers of any size is a number.
    return BLOCKS[min(7, int((value / 2 - bottom / 2) / (top / 2 - bottom / 2) * 8))]


# --- where things are


def _log_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Of an axis in log10 of milliseconds."""
    digits = (1, 2, 5) if high - low <= 2.4 else (1,)
    values = [digit * 10.0**k for k in range(math.floor(low), math.ceil(high) + 1) for digit in digits]
    inside = [value for value in values if low <= math.log10(value) <= high]
    return [(math.log10(value), ms(value)) for value in inside[:: math.ceil(len(inside) / 7) or 1]]


# --- what is drawn


def _ways(
    panel: Panel, t: Array, metrics: Sequence[tuple[Metric, Array]], line: float, about: str, decides: str
) -> str:
    """The evidence on metrics ``[R]`` each, in log10, on its way to a line."""
    highest = max(finite(value for _, path in metrics for value in path), default=0.0)
    low, high = -1.5, max(line + 0.7, min(highest + 0.3, 2.5 * line + 1))
    panel = Panel(panel.left, panel.right, panel.x0, panel.x1, low, high)
    first = sorted(metrics, key=lambda one: -_lowest(one[1][-1]))
    shown, others = first[:LABELLED], first[LABELLED:]
    step = max(1, math.ceil((high - low) / 5))
    ticks = [(float(k), _times(k)) for k in range(math.ceil(low / step) * step, math.floor(high) + 1, step)]
    body = [panel.axes(time_ticks(panel.x0, panel.x1), ticks), panel.across(line, "limit")]
    labels: list[tuple[float, str, str]] = [(line, f"{decides} at {_times(line)}", "said")]
    paths = []
    for _, path in others:
        paths.append(panel.path(_known(panel, t, path), "stroke:var(--grid);stroke-width:1"))
    for (metric, path), colour, dash in zip(shown, COLOURS, DASHES, strict=False):
        style = f"stroke:var({colour})" + (f";stroke-dasharray:{dash}" if dash else "")
        paths.append(panel.path(_known(panel, t, path), style))
        name = label(metric) if len(label(metric)) <= 15 else label(metric)[:14] + "…"
        labels.append((min(high, max(low, _lowest(path[-1]))), name, f"fill:var({colour})"))
    if others:
        labels.append((low - 0.1, f"and {len(others)} more", ""))
    body += [panel.inside("".join(paths)), panel.labels(labels)]
    body.append(caption(panel.left, TOP - 7, about))
    return "".join(body)


def _known(panel: Panel, t: Array, path: Array) -> list[tuple[float, float]]:
    """The moments at which there was evidence; what is far below the line is drawn on the floor, where it is seen."""
    floor = panel.y0 + 0.02 * (panel.y1 - panel.y0)
    return [(x, max(y, floor)) for x, y in zip(t.tolist(), path.tolist(), strict=True) if math.isfinite(y)]


def _judged_latency(judge: Judge, state: Evidence) -> Metric | None:
    """The metric on latency with the most evidence against it."""
    metrics = [metric for metric in judge.analysis.metrics if metric.shape is Shape.HISTOGRAM]
    return max(metrics, key=lambda metric: _against(judge, state, metric), default=None)


def _against(judge: Judge, state: Evidence, metric: Metric) -> float:
    """The log evidence against a metric, by its share of the budget."""
    if not len(state.trail):
        return -math.inf
    share = 0.0 if metric.dry_run else math.log(metric.weight / judge.weights)
    return float(state.trail[-1, 1 + 2 * judge.analysis.metrics.index(metric)]) + share


def _deciding_edge(judge: Judge, state: Evidence, metric: Metric, found: Buckets) -> tuple[float | None, bool]:
    """The edge at which the arms differ most surely, and whether that fails the metric."""
    tests = list(judge.columns.of_fail[metric.name])
    strength = e.with_restarts(state.fail[tests], state.restarted[tests], max(0.0, 1.0 - state.begun_share))
    at = int(np.argmax(strength))
    level = QUANTILES[NAMES[at] if len(tests) > 1 else metric.quantile]
    beyond = any(
        slow * nb > slow_b * n
        for slow, n, slow_b, nb in (state.totals[tests[at]], state.totals[tests[at]] - state.anchors[0, tests[at]])
    )
    enough = _against(judge, state, metric) >= judge.line[0] and not metric.dry_run
    return quantile(found.edges, found.baseline, level), beyond and enough


_SHOWN: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}


def _logit(share: float) -> float:
    """A share as the logarithm of its odds: so the slowest per cent has as much room as the middle half."""
    share = min(1 - 1e-12, max(1e-12, share))
    return math.log10(share / (1 - share))


def _latency_panel(edges: Array, below: Sequence[Array]) -> Panel:
    """From where the first twentieth of either arm lies to where the last thousandth does."""
    first = min(int(np.argmax(shares > 0.05)) if (shares > 0.05).any() else 0 for shares in below)
    last = max(int(np.argmax(shares >= 0.9995)) if (shares >= 0.9995).any() else len(edges) - 1 for shares in below)
    low, high = math.log10(edges[max(0, first - 1)]), math.log10(edges[min(len(edges) - 1, last + 1)])
    if high <= low:
        low, high = low - 0.5, high + 0.5
    return Panel(56, 616, low, high, -1.4, 3.35)


def _quantiles(panel: Panel, edges: Array, below: Mapping[str, Array]) -> Iterable[str]:
    """The median and the slowest per cent of both arms, marked on their lines; the slower arm's words stand below."""
    for name in ("p50", "p99"):
        level = QUANTILES[name]
        places = {arm: int(np.argmax(shares >= level)) for arm, shares in below.items() if shares[-1] >= level}
        slower = max(places, key=lambda arm: (places[arm], arm == "candidate"), default="")
        for arm, at in places.items():
            x, y = float(panel.x(math.log10(edges[at]))), float(panel.y(_logit(below[arm][at])))
            yield f'<circle cx="{x}" cy="{y}" r="3.5" style="fill:var(--{arm})"/>'
            aside, down, anchor = (9, 12, "start") if arm == slower else (-9, -5, "end")
            yield caption(x + aside, y + down, f"{arm} {name} {ms(float(edges[at]))}", f"fill:var(--{arm})", anchor)


def _pair(found: Buckets, name: str) -> tuple[float | None, float | None]:
    level = QUANTILES[name]
    return quantile(found.edges, found.candidate, level), quantile(found.edges, found.baseline, level)


# --- words and marks


def _times(log10: float) -> str:
    """Evidence in log10 as a factor: ``x100``."""
    if not math.isfinite(log10) or log10 < -2:
        return "under ×0.01"
    if log10 < 0:
        return f"×{10**log10:.1g}"
    return f"×{10**log10:.0f}" if log10 < 3 else f"×10{str(round(log10)).translate(_RAISED)}"


_RAISED: Final = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def _pp(points: float) -> str:
    return f"{points:.2g} percentage points"


def _lowest(value: float) -> float:
    return float(value) if math.isfinite(value) else -999.0
