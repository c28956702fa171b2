"""Which yes/no tests a policy asks for, and their counts: each metric is one or several columns of a table.

"Slower than edge e" is a yes/no event as a failed request is, so rates and latencies are tested alike. The edges that
are looked at are those nearest the baseline's quantiles as known from strictly earlier data, and stay as they are
once there is enough of it; nothing is interpolated. A margin in latency is a shift to a higher edge.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from crossfade.domain.analysis.block import Block, Buckets
from crossfade.domain.analysis.evidence import Array, Flags, Places
from crossfade.domain.analysis.policy import EDGE, QUANTILES, Analysis, Direction, Shape
from crossfade.domain.analysis.sample import History

NAMES: Final = tuple(QUANTILES)
LEVELS: Final = np.array(tuple(QUANTILES.values()))
SETTLED: Final = 5000
"""Baseline values from which the edges are fixed; before it they follow what is known."""

MOST_HISTORY: Final = 100_000
"""History weighs at most as this many requests, so that the guess follows a rate that has changed since."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What the evidence on one metric says after each of R looks.

    ``fail`` and ``passing`` are log evidence; ``beyond`` whether the estimate is beyond the margin where the evidence
    is strongest, in test ``decides`` of the metric (of a latency: at which edge). ``[R]`` each.
    """

    fail: Array
    passing: Array
    beyond: Flags
    decides: Places


@dataclass(frozen=True, slots=True)
class Column:
    """One test: p_c against ratio·p_b + margin, or or_ratio·p_b where that is more (0: no such limit).

    ``good``: the harm is in too few events. ``quantile`` is an index of LEVELS, -1 for a rate. ``shift``: what a
    latency margin allows; ``shifted``: whether the candidate is held to the last edge within it (-1), the first beyond
    it (+1), or the baseline's own (0). An estimate counts as harm above p_b + ``tolerated`` and ``times``·p_b, for a
    latency above the last edge within ``shift``.
    """

    signal: str
    margin: float = 0.0
    ratio: float = 1.0
    or_ratio: float = 0.0
    good: bool = False
    quantile: int = -1
    shift: float = 0.0
    shifted: int = 0
    tolerated: float = 0.0
    times: float = 1.0


@dataclass(frozen=True, slots=True)
class Tails:
    """All columns on histogram signals: ``signals`` by name; of each column its ``index`` in the table, ``row`` (which

    of the signals), ``quantile``, ``shift``, ``shifted``. ``[K]`` each.
    """

    signals: tuple[str, ...]
    index: Places
    row: Places
    quantile: Places
    shift: Array
    shifted: Places


@dataclass(frozen=True, slots=True)
class Alike:
    """Metrics with equally many tests: ``fail`` ``[metrics, tests]`` and ``passing`` are places in the table.

    ``paired``: two tests make one, the limit being the higher of a margin and a ratio.
    """

    names: tuple[str, ...]
    fail: Places
    passing: Places
    paired: bool


@dataclass(frozen=True, slots=True)
class Columns:
    """All tests of a policy, and which belong to which metric."""

    fail: tuple[Column, ...]
    passing: tuple[Column, ...]
    of_fail: dict[str, tuple[int, ...]]
    of_pass: dict[str, tuple[int, ...]]
    burst_of_pass: Array  # the fail column whose burstiness a pass column has
    has_history: Array
    rates: tuple[tuple[int, Column], ...]  # of the fail columns and, after them, the pass columns
    tails: Tails
    alike: tuple[Alike, ...]
    ratio: Array
    or_ratio: Array
    margin: Array
    allowed: Array

    @classmethod
    def of(cls, analysis: Analysis) -> Columns:
        fail: list[Column] = []
        passing: list[Column] = []
        of_fail: dict[str, tuple[int, ...]] = {}
        of_pass: dict[str, tuple[int, ...]] = {}

        def put(where: list[Column], *columns: Column) -> tuple[int, ...]:
            for column in columns:
                if column not in where:
                    where.append(column)
            return tuple(where.index(column) for column in columns)

        for metric in analysis.metrics:
            if metric.shape is Shape.RATE:
                rises = (metric.direction is not Direction.DROP, metric.direction is not Direction.RISE)
                sides = [good for good, judged in zip((False, True), rises, strict=True) if judged]
                ratio = metric.ratio or 0.0
                nulls = [(metric.margin, 1.0)] + ([(0.0, ratio)] if ratio else []) if analysis.strict else [(0.0, 1.0)]
                tests = [
                    Column(metric.signal, m, r, good=good, tolerated=metric.margin, times=max(ratio, 1.0))
                    for good in sides
                    for m, r in nulls
                ]
                of_fail[metric.name] = put(fail, *tests)
                of_pass[metric.name] = put(
                    passing, *(Column(metric.signal, metric.margin, 1.0, ratio, good) for good in sides)
                )
            elif metric.shape is Shape.HISTOGRAM:
                q = NAMES.index(metric.quantile)
                if analysis.strict:
                    tests = [Column(metric.signal, quantile=q, shift=metric.margin, shifted=1)]
                else:
                    tests = [Column(metric.signal, quantile=i, shift=metric.margin) for i in range(len(NAMES))]
                of_fail[metric.name] = put(fail, *tests)
                of_pass[metric.name] = put(passing, Column(metric.signal, quantile=q, shift=metric.margin, shifted=-1))
        every = (*fail, *passing)
        on_tails = [i for i, column in enumerate(every) if column.quantile >= 0]
        signals = tuple(dict.fromkeys(every[i].signal for i in on_tails))
        tails = Tails(
            signals,
            np.array(on_tails, dtype=int),
            np.array([signals.index(every[i].signal) for i in on_tails], dtype=int),
            np.array([every[i].quantile for i in on_tails], dtype=int),
            np.array([every[i].shift for i in on_tails]),
            np.array([every[i].shifted for i in on_tails], dtype=int),
        )
        kinds: dict[tuple[int, int, bool], list[str]] = {}
        for metric in analysis.metrics:
            if metric.name in of_fail:
                paired = metric.shape is Shape.RATE and bool(metric.ratio)
                kind = (len(of_fail[metric.name]), len(of_pass[metric.name]), paired)
                kinds.setdefault(kind, []).append(metric.name)
        alike = tuple(
            Alike(
                tuple(names),
                np.array([of_fail[name] for name in names], dtype=int),
                np.array([of_pass[name] for name in names], dtype=int),
                paired,
            )
            for (_, _, paired), names in kinds.items()
        )
        places = [(column.signal, column.quantile) for column in fail]
        return cls(
            tuple(fail),
            tuple(passing),
            of_fail,
            of_pass,
            np.array([places.index((column.signal, column.quantile)) for column in passing], dtype=int),
            np.array([column.signal == EDGE and column.quantile < 0 for column in fail], dtype=bool),
            tuple((i, column) for i, column in enumerate(every) if column.quantile < 0),
            tails,
            alike,
            np.array([column.ratio for column in every]),
            np.array([column.or_ratio for column in every]),
            np.array([column.margin for column in every]),
            np.array([[column.tolerated for column in every], [column.times for column in every]]),
        )

    @property
    def first_rate(self) -> int | None:
        """The column whose looks are kept for the interval: the first bet on a rate."""
        return next((i for i, c in enumerate(self.fail) if c.quantile < 0), None)

    def standings(self, strict: bool, fail: Array, passing: Array, beyond: Flags) -> dict[str, Standing]:
        """What the columns ``[R, C]`` say of each metric on rates and latencies; metrics of a kind at once."""
        made: dict[str, Standing] = {}
        r = np.arange(len(fail))[:, None]
        for alike in self.alike:
            tests = fail[:, alike.fail]  # [R, metrics, tests]
            decides = np.argmax(tests, axis=2)
            far = beyond[:, alike.fail][r, np.arange(len(alike.names))[None, :], decides]
            if strict and alike.paired:
                # The limit is the higher of two: only what is beyond both is beyond it.
                tests = tests.reshape(*tests.shape[:2], -1, 2).min(axis=3)
            joined = np.logaddexp.reduce(tests, axis=2) - np.log(tests.shape[2])
            least = passing[:, alike.passing].min(axis=2)
            for i, name in enumerate(alike.names):
                made[name] = Standing(joined[:, i], least[:, i], far[:, i], decides[:, i])
        return made


@dataclass(frozen=True, slots=True)
class Seen:
    """What both arms did so far, warm-up included. ``rates`` by signal ``[4]``; ``settled`` edges by signal ``[7]``."""

    rates: dict[str, Array] = field(default_factory=dict)
    histograms: dict[str, Buckets] = field(default_factory=dict)
    settled: dict[str, Places] = field(default_factory=dict)

    def to_data(self) -> dict[str, Any]:
        return {
            "rates": {name: values.tolist() for name, values in self.rates.items()},
            "histograms": {
                name: {"edges": h.edges.tolist(), "baseline": h.baseline.tolist(), "candidate": h.candidate.tolist()}
                for name, h in self.histograms.items()
            },
            "settled": {name: values.tolist() for name, values in self.settled.items()},
        }

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> Seen:
        return cls(
            {name: np.array(values, dtype=float) for name, values in data["rates"].items()},
            {
                name: Buckets(*(np.array(h[part], dtype=float) for part in ("edges", "baseline", "candidate")))
                for name, h in data["histograms"].items()
            },
            {name: np.array(values, dtype=int) for name, values in data["settled"].items()},
        )


@dataclass(frozen=True, slots=True)
class _Width:
    """The histogram signals with equally many edges, side by side: ``edges`` ``[S, B]``.

    ``baseline`` and ``candidate`` are counts above each edge ``[S, R, B]`` and in all ``[S, R]``; ``known`` likewise
    what was known of the baseline before each look; ``chosen`` ``[S, R, 7]`` the edges that are looked at.
    """

    names: tuple[str, ...]
    edges: Array
    baseline: Array
    candidate: Array
    n_baseline: Array
    n_candidate: Array
    known: Array
    n_known: Array
    chosen: Places


@dataclass(frozen=True, slots=True)
class Paths:
    """R looks prepared for `extract`: what is common to all columns, and what will have been seen after them."""

    block: Block
    before: Seen
    history: History
    widths: tuple[_Width, ...]
    after: Seen

    @classmethod
    def of(cls, block: Block, before: Seen, history: History) -> Paths:
        rates = dict(before.rates)
        for name, values in block.rates.items():
            rates[name] = rates.get(name, np.zeros(4)) + values.sum(axis=0)
        histograms, settled = dict(before.histograms), dict(before.settled)
        by_width: dict[int, list[str]] = {}
        for name, buckets in block.histograms.items():
            by_width.setdefault(len(buckets.edges), []).append(name)
        widths = tuple(_width(tuple(names), block, histograms, settled, history) for names in by_width.values())
        return cls(block, before, history, widths, Seen(rates, histograms, settled))


def _width(
    names: tuple[str, ...],
    block: Block,
    histograms: dict[str, Buckets],
    settled: dict[str, Places],
    history: History,
) -> _Width:
    """Prepares some signals, and brings what was seen of them up to date."""
    found = [block.histograms[name] for name in names]
    edges = np.stack([buckets.edges for buckets in found])
    baseline = np.stack([buckets.baseline for buckets in found])
    candidate = np.stack([buckets.candidate for buckets in found])
    nothing = np.zeros(baseline.shape[2])
    seen = [histograms.get(name) for name in names]
    past = np.stack([one.baseline if one is not None else nothing for one in seen])
    sums = np.cumsum(baseline, axis=1)
    before = past[:, None] + sums - baseline
    if EDGE in names and history.histogram is not None:
        i = names.index(EDGE)
        if np.array_equal(np.array(history.histogram.edges, dtype=float), edges[i]):
            before[i] += np.array(history.histogram.counts, dtype=float)
    below = np.cumsum(before, axis=2)
    total = below[:, :, -1]
    reached = below[:, :, None, :] >= (LEVELS[:, None] * total[:, :, None, None])
    chosen = np.minimum(np.argmax(reached, axis=3), edges.shape[1] - 1)
    whole = candidate.sum(axis=1)
    for i, name in enumerate(names):
        one = seen[i]
        histograms[name] = Buckets(
            edges[i], past[i] + sums[i, -1], whole[i] if one is None else one.candidate + whole[i]
        )
        if name in settled:
            chosen[i] = settled[name]
        elif total[i, -1] >= SETTLED:
            first = int(np.argmax(total[i] >= SETTLED))
            settled[name] = chosen[i, first].copy()
            chosen[i, first:] = settled[name]
    base_below, cand_below = np.cumsum(baseline, axis=2), np.cumsum(candidate, axis=2)
    return _Width(
        names,
        edges,
        base_below[..., -1:] - base_below[..., :-1],
        cand_below[..., -1:] - cand_below[..., :-1],
        base_below[..., -1],
        cand_below[..., -1],
        total[..., None] - below[..., :-1],
        total,
        chosen,
    )


@dataclass(frozen=True, slots=True)
class Counts:
    """Of R looks and C columns: bad ones and events of both arms, the guess, the null, all ``[R, C]``.

    ``xs`` are the candidate's bad ones beyond what a latency margin allows; of a rate they are ``xc``.

    ``allowed`` ``[2, C]``: what an estimate may exceed the baseline's by, and by what factor. ``profile`` is the rate
    that the baseline never exceeded as far as is known, margin included, for a candidate that is alone.
    """

    xc: Array
    xs: Array
    nc: Array
    xb: Array
    nb: Array
    g: Array
    ratio: Array
    margin: Array
    allowed: Array
    profile: Array

    def part(self, start: int, stop: int) -> Counts:
        """Some of the columns."""
        return Counts(*(getattr(self, name)[:, start:stop] for name in self.__dataclass_fields__))


def extract(columns: Columns, paths: Paths) -> tuple[Counts, Counts]:
    """The counts of the fail columns and of the pass columns."""
    r, c = len(paths.block), len(columns.fail) + len(columns.passing)
    sums = np.zeros((7, r, c))
    for i, column in columns.rates:
        _rate(column, paths, sums, i)
    for width in paths.widths:
        _tails(columns.tails, width, sums)
    xc, xs, nc, xb, nb, prior_x, prior_n = sums
    g = (prior_x + 0.5) / (prior_n + 500.0)
    # Where a limit is the higher of two, a bet may be against either: against the one that is higher by guess.
    by_ratio = columns.or_ratio * g > g + columns.margin
    ratio = np.where(by_ratio, columns.or_ratio, columns.ratio)
    margin = np.where(by_ratio, 0.0, columns.margin)
    known = np.maximum(prior_n, 1.0)
    surely = g + 3.0 * np.sqrt(g / known) + 1.0 / known
    profile = np.maximum(surely + columns.allowed[0], surely * columns.allowed[1])
    profile = np.where(prior_n > 0, np.minimum(profile, 0.99), 0.99)
    allowed = np.broadcast_to(columns.allowed, (2, c))
    made = Counts(xc, xs, nc, xb, nb, g, ratio, margin, allowed, profile)
    middle = len(columns.fail)
    return made.part(0, middle), made.part(middle, c)


def _rate(column: Column, paths: Paths, sums: Array, i: int) -> None:
    values = paths.block.rates.get(column.signal)
    if values is None:
        return
    nb, xb, nc, xc = values.T
    known = paths.before.rates.get(column.signal, np.zeros(4))
    prior_n = known[0] + np.cumsum(nb) - nb
    prior_x = known[1] + np.cumsum(xb) - xb
    history = paths.history
    if column.signal == EDGE and history.requests > 0:
        weight = min(1.0, MOST_HISTORY / history.requests)
        prior_n = prior_n + history.requests * weight
        prior_x = prior_x + history.errors * weight
    if column.good:
        xc, xb, prior_x = nc - xc, nb - xb, prior_n - prior_x
    sums[:, :, i] = xc, xc, nc, xb, nb, prior_x, prior_n


def _tails(tails: Tails, width: _Width, sums: Array) -> None:
    mine = [i for i, row in enumerate(tails.row) if tails.signals[row] in width.names]
    if not mine:
        return
    k = np.array(mine)
    s = np.array([width.names.index(tails.signals[row]) for row in tails.row[k]])[:, None]
    r = np.arange(width.n_known.shape[1])[None, :]
    edge = width.chosen[s, r, tails.quantile[k][:, None]]  # [K, R]
    shifted = tails.shifted[k][:, None]
    limit = (width.edges[s, edge] * (1 + tails.shift[k][:, None]))[..., None]
    edges = width.edges[s]
    within = np.maximum(np.count_nonzero(edges <= limit * (1 + 1e-9), axis=2) - 1, edge)
    higher = np.where(shifted < 0, within, edge)
    if (shifted > 0).any():
        beyond = np.minimum(np.count_nonzero(edges < limit * (1 - 1e-9), axis=2), edges.shape[2] - 1)
        higher = np.where(shifted > 0, beyond, higher)
    n_known = width.n_known[s, r]
    weight = np.minimum(1.0, MOST_HISTORY / np.maximum(n_known, 1.0))
    found = np.stack(
        [
            width.candidate[s, r, higher],
            width.candidate[s, r, within],
            width.n_candidate[s, r],
            width.baseline[s, r, edge],
            width.n_baseline[s, r],
            width.known[s, r, edge] * weight,
            n_known * weight,
        ]
    )
    sums[:, :, tails.index[k]] = np.where(n_known > 0, found, 0.0).transpose(0, 2, 1)
