"""The judge: evidence on all metrics, carried from look to look, and the verdict that follows from it.

`Judge` is what was decided before (the policy and the baseline's history); `Evidence` is what has been seen, a value
that can be written down and gone on with. `Judge.advance` takes one look or thousands: the result is the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from crossfade.domain.analysis import evidence as e
from crossfade.domain.analysis.block import Block
from crossfade.domain.analysis.columns import Columns, Paths, Seen, Standing, extract
from crossfade.domain.analysis.evidence import Array, Flags
from crossfade.domain.analysis.policy import Analysis, Direction, Metric, Objective, Shape
from crossfade.domain.analysis.sample import History

BURN_IN: Final = 50
"""Events (of a mean: its effective number, (Σx)²/Σx²) that the candidate must have before a mean says anything."""

KEPT: Final = 240
"""Most looks that are kept for intervals and plots; beyond it neighbours are merged."""

KEPT_TRAIL: Final = 120
LEAST_EVENTS: Final = 20
"""Candidate events without which a metric cannot pass, whatever its evidence."""


@dataclass(slots=True)
class Evidence:
    """All that has been seen. Arrays: ``[C, F]`` log wealth of the fail and pass tests, ``[C]`` sums for their guesses.

    ``rows`` ``[≤ KEPT, 6]`` are time, candidate bad and n, baseline bad and n, and the guess, of the first rate;
    ``trail`` ``[≤ KEPT_TRAIL, 1 + 2·metrics]`` is time, then the evidence to fail and to pass of each metric.
    """

    looks: int = 0
    t: float = 0.0
    step_began: float = 0.0
    fail: Array = field(default_factory=lambda: np.zeros((0, 12)))
    restarted: Array = field(default_factory=lambda: np.zeros((0, 12)))
    passing: Array = field(default_factory=lambda: np.zeros((0, 12)))
    restarts: int = 0
    begun_share: float = 0.0
    totals: Array = field(default_factory=lambda: np.zeros((0, 4)))
    anchors: Array = field(default_factory=lambda: np.zeros((2, 0, 4)))
    window: Array = field(default_factory=lambda: np.zeros((0, 2)))
    previous: Array = field(default_factory=lambda: np.zeros((0, 2)))
    pairs: Array = field(default_factory=lambda: np.zeros((0, 3)))
    window_index: float = 0.0
    seen: Seen = field(default_factory=Seen)
    moments: dict[str, Array] = field(default_factory=dict)
    precision: dict[str, float] = field(default_factory=dict)
    best_pass: Array = field(default_factory=lambda: np.zeros(0))
    in_step: Array = field(default_factory=lambda: np.zeros(4))
    alone: float = 0.0
    objective: Array = field(default_factory=lambda: np.zeros(12))
    rows: Array = field(default_factory=lambda: np.zeros((0, 6)))
    trail: Array = field(default_factory=lambda: np.zeros((0, 1)))
    last_candidate: float = 0.0
    missing: dict[str, str] = field(default_factory=dict)

    def next_step(self) -> Evidence:
        """The same evidence at the beginning of a step: what may pass has to pass anew, at the new weight."""
        return replace(
            self,
            step_began=self.t,
            passing=np.zeros_like(self.passing),
            best_pass=np.full_like(self.best_pass, -math.inf),
            in_step=np.zeros(4),
            last_candidate=self.t,
        )

    def to_data(self) -> dict[str, Any]:
        """As JSON."""
        data: dict[str, Any] = {}
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if isinstance(value, np.ndarray):
                value = {"shape": list(value.shape), "values": [_plain(x) for x in value.ravel().tolist()]}
            elif name == "moments":
                value = {key: array.tolist() for key, array in value.items()}
            elif isinstance(value, Seen):
                value = value.to_data()
            data[name] = value
        return data

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> Evidence:
        """From `to_data`. Raises KeyError, TypeError or ValueError for anything else."""
        made = cls()
        for name in cls.__dataclass_fields__:
            value = data[name]
            if isinstance(getattr(made, name), np.ndarray):
                numbers = [-math.inf if x is None else float(x) for x in value["values"]]
                value = np.array(numbers, dtype=float).reshape(value["shape"])
            elif name == "moments":
                value = {key: np.array(array, dtype=float) for key, array in value.items()}
            elif name == "seen":
                value = Seen.from_data(value)
            setattr(made, name, value)
        return made


def _plain(x: float) -> float | None:
    return None if x == -math.inf else float(f"{x:.12g}")


@dataclass(frozen=True, slots=True)
class Track:
    """What follows from R looks, after each of them. ``fails``, ``passes`` ``[R]`` bool; ``total`` ``[R]`` log evidence.

    ``capped`` ``[R]``: the hard cap of the error budget was hit. ``standings`` by name of the metric.
    """

    t: Array
    total: Array
    fails: Flags
    passes: Flags
    capped: Flags
    standings: dict[str, Standing]


class Judge:
    """Judges by one policy. ``horizon``: seconds that the whole rollout is planned to take."""

    def __init__(self, analysis: Analysis, history: History | None = None, horizon: float = 0.0) -> None:
        self.analysis = analysis
        self.history = history or History()
        self.columns = Columns.of(analysis)
        longest = max(horizon, analysis.deadline, 10 * e.RESTART)
        self.weights = sum(metric.weight for metric in analysis.enforced) + (1.0 if analysis.slo else 0.0)
        weights = [0.0 if metric.dry_run else metric.weight / self.weights for metric in analysis.metrics]
        self._log_weights = np.array([math.log(weight) if weight else -math.inf for weight in weights])
        needed = [i for i, metric in enumerate(analysis.metrics) if metric.required and not metric.dry_run]
        self._required = np.array(needed, dtype=int)
        self._planned = max(1, round(longest / e.RESTART))
        self._burst = e.burstiness(np.array(self.history.errors_per_10s, dtype=float))

    @property
    def line(self) -> tuple[float, float]:
        """The log evidence that decides: to fail, to pass."""
        return math.log(1 / self.analysis.false_alarm), math.log(1 / self.analysis.false_pass)

    def begin(self) -> Evidence:
        """Before the first look."""
        c = self.columns
        return Evidence(
            fail=np.zeros((len(c.fail), 12)),
            restarted=np.full((len(c.fail), 12), -math.inf),
            passing=np.zeros((len(c.passing), 12)),
            totals=np.zeros((len(c.fail), 4)),
            anchors=np.zeros((2, len(c.fail), 4)),
            window=np.zeros((len(c.fail), 2)),
            previous=np.zeros((len(c.fail), 2)),
            pairs=np.zeros((len(c.fail), 3)),
            best_pass=np.full(len(self.analysis.metrics), -math.inf),
            trail=np.zeros((0, 1 + 2 * len(self.analysis.metrics))),
        )

    def advance(self, state: Evidence, block: Block, alone: bool = False) -> tuple[Evidence, Track]:
        """Take in R looks. ``alone``: the candidate has all the traffic and is held to the baseline's profile instead.

        During the warm-up, which counts from the beginning, looks only teach what the baseline is like.
        """
        tracks = []
        start = 0
        due = (np.floor(block.t / e.RESTART)).astype(int)
        warm = block.t <= self.analysis.warmup
        while start < len(block):
            # One stretch: up to the look at which a restart begins, or the warm-up ends.
            limit = state.restarts
            beyond = (due > limit) | (warm != warm[start])
            beyond[: start + 1] = due[start] > limit
            ahead = np.flatnonzero(beyond[start:])
            first = start + int(ahead[0]) if len(ahead) else len(block)
            stop = first + 1 if first < len(block) and warm[first] == warm[start] else max(first, start + 1)
            state, track = self._stretch(state, block.part(start, stop), alone, warmup=bool(warm[start]))
            tracks.append(track)
            if due[stop - 1] > state.restarts:
                state = self._restart(state, int(due[stop - 1]))
            start = stop
        return state, _joined(tracks)

    # --- one stretch without a restart in it

    def _stretch(self, state: Evidence, block: Block, alone: bool, warmup: bool) -> tuple[Evidence, Track]:
        columns = self.columns
        state = replace(state)
        paths = Paths.of(block, state.seen, self.history)
        fails, passes = extract(columns, paths)
        state.seen = paths.after
        state.looks += len(block)
        state.t = float(block.t[-1])
        state.missing = dict(block.missing)
        phi = self._dispersion(state, block.t, fails.xb, fails.nb)
        if warmup:
            return state, self._track(state, block, None, None, None)
        if alone:
            grown_f = e.growth_alone(fails.xs, fails.nc, fails.profile)
            grown_p = np.zeros((*passes.xc.shape, len(e.BETS)))
        else:
            grown_f = e.growth(fails.xc, fails.nc, fails.xb, fails.nb, fails.g, fails.ratio, fails.margin, 1)
            grown_p = e.growth(passes.xc, passes.nc, passes.xb, passes.nb, passes.g, passes.ratio, passes.margin, -1)
        wealth_f = state.fail + np.cumsum(grown_f / phi[..., None], axis=0)
        wealth_p = state.passing + np.cumsum(grown_p / phi[:, columns.burst_of_pass, None], axis=0)
        allowed = fails.allowed
        if alone:
            # Held to the profile: it stands for a baseline that was asked as often.
            allowed = np.array([[0.0], [1.0]]) * np.ones_like(allowed)
            counts = np.stack([fails.xs, fails.nc, fails.profile * fails.nc, fails.nc], axis=-1)
            if not state.alone:
                state.totals, state.anchors = np.zeros_like(state.totals), np.zeros_like(state.anchors)
        else:
            counts = np.stack([fails.xs, fails.nc, fails.xb, fails.nb], axis=-1)
        totals = state.totals + np.cumsum(counts, axis=0)
        state.fail, state.passing, state.totals = wealth_f[-1], wealth_p[-1], totals[-1]
        edge = block.rates[""]
        state.in_step = state.in_step + edge.sum(axis=0)
        state.alone += float(edge[:, 2].sum()) if alone else 0.0
        served = np.flatnonzero(edge[:, 2] > 0)
        if len(served):
            state.last_candidate = float(block.t[served[-1]])
        if columns.first_rate is not None and not alone:
            c = columns.first_rate
            fresh = np.stack(
                [block.t, fails.xc[:, c], fails.nc[:, c], fails.xb[:, c], fails.nb[:, c], fails.g[:, c]], axis=1
            )
            state.rows = _merged(np.concatenate([state.rows, fresh[(fresh[:, 2] > 0) & (fresh[:, 4] > 0)]]))
        return state, self._track(state, block, wealth_f, wealth_p, (totals, state.anchors, allowed))

    def _restart(self, state: Evidence, due: int) -> Evidence:
        """Begin the restarts up to number ``due`` here; one that was missed begins with the others."""
        state = replace(state)
        for k in range(state.restarts + 1, due + 1):
            share = e.restart_share(k, self._planned)
            state.restarted = np.logaddexp(state.restarted, math.log(share) - state.fail)
            state.begun_share = min(1.0, state.begun_share + share)
        state.restarts = due
        state.anchors = np.stack([state.anchors[1], state.totals])
        return state

    def _dispersion(self, state: Evidence, t: Array, x: Array, n: Array) -> Array:
        """The dispersion φ ``[R, C]`` as it was known before each look's window began."""
        index = np.ceil(t / e.WINDOW)
        starts = np.flatnonzero(np.diff(index, prepend=index[0] - 1))
        sums = np.stack([np.add.reduceat(x, starts), np.add.reduceat(n, starts)], axis=2)
        group = np.cumsum(np.diff(index, prepend=index[0]) != 0)
        if index[0] == state.window_index:
            sums[0] += state.window
        else:
            sums = np.concatenate([state.window[None], sums])
            group = group + 1
        chain = np.concatenate([state.previous[None], sums])
        x1, n1, x2, n2 = chain[:-2, :, 0], chain[:-2, :, 1], chain[1:-1, :, 0], chain[1:-1, :, 1]
        both = (n1 > 0) & (n2 > 0)
        n1, n2 = np.where(both, n1, 1.0), np.where(both, n2, 1.0)
        unlike = n1 * n2 / (n1 + n2) * (x1 / n1 - x2 / n2) ** 2
        pair = np.where(both, np.stack([unlike, (x1 + x2) / (n1 + n2), np.ones_like(unlike)]), 0.0)
        known = state.pairs.T[:, None, :] + np.concatenate([np.zeros((3, 1, x.shape[1])), np.cumsum(pair, axis=1)], 1)
        phi = e.burstiness_of_pairs(*known)[group]
        state.pairs, state.previous, state.window = known[:, -1].T, chain[-2], chain[-1]
        state.window_index = float(index[-1])
        at_least: Array = np.maximum(phi, np.where(self.columns.has_history, self._burst, 1.0))
        return at_least

    # --- what follows

    def _track(
        self,
        state: Evidence,
        block: Block,
        wealth_f: Array | None,
        wealth_p: Array | None,
        counted: tuple[Array, Array, Array] | None,
    ) -> Track:
        r = len(block)
        nothing = np.full(r, -math.inf)
        line_f, line_p = self.line
        standings: dict[str, Standing] = {}
        if wealth_f is not None and wealth_p is not None and counted is not None:
            log_fail = e.with_restarts(wealth_f, state.restarted, max(0.0, 1.0 - state.begun_share))
            totals, anchors, allowed = counted
            beyond = _beyond(totals, allowed) | _beyond(totals - anchors[0], allowed)
            standings = self.columns.standings(self.analysis.strict, log_fail, e.average(wealth_p), beyond)
        silent = Standing(nothing, nothing, np.zeros(r, dtype=bool), np.zeros(r, dtype=int))
        for metric in self.analysis.metrics:
            if metric.shape is Shape.MEAN:
                standings[metric.name] = self._mean(state, metric, block, wealth_f is None)
            else:
                standings.setdefault(metric.name, silent)
        ordered = [standings[metric.name] for metric in self.analysis.metrics]
        fail = np.stack([standing.fail for standing in ordered], axis=1)
        passing = np.stack([standing.passing for standing in ordered], axis=1)
        far = np.stack([standing.beyond for standing in ordered], axis=1)
        best = np.maximum.accumulate(np.maximum(passing, state.best_pass), axis=0)
        state.best_pass = best[-1]
        shares = np.where(far, fail, -math.inf) + self._log_weights
        all_pass = np.all(best[:, self._required] >= line_p, axis=1) & bool(len(self._required))
        capped = np.zeros(r, dtype=bool)
        if self.analysis.slo is not None and wealth_f is not None:
            burning, capped = self._objective(state, self.analysis.slo, block)
            shares = np.concatenate([shares, (burning + math.log(1.0 / self.weights))[:, None]], axis=1)
        total = np.logaddexp.reduce(shares, axis=1)
        self._keep(state, block.t, fail, passing)
        return Track(block.t, total, (total >= line_f) | capped, all_pass, capped, standings)

    def _mean(self, state: Evidence, metric: Metric, block: Block, warmup: bool) -> Standing:
        r = len(block)
        nothing = np.full(r, -math.inf)
        none = np.zeros(r, dtype=bool)
        fresh = block.means.get(metric.signal)
        if warmup or (fresh is None and metric.signal not in state.moments):
            return Standing(nothing, nothing, none, np.zeros(r, dtype=int))
        before = state.moments.get(metric.signal, np.zeros(6))
        path = before + np.cumsum(fresh, axis=0) if fresh is not None else np.tile(before, (r, 1))
        if metric.name == next(m.name for m in reversed(self.analysis.metrics) if m.signal == metric.signal):
            state.moments = {**state.moments, metric.signal: path[-1]}  # once, when the last of its metrics has read it
        nb, sb, qb, nc, sc, qc = path.T
        with np.errstate(divide="ignore", invalid="ignore"):
            mb, mc = sb / nb, sc / nc
            variance = np.maximum(qc / nc - mc**2, 0) / nc + np.maximum(qb / nb - mb**2, 0) / nb
            effective = np.minimum(sc**2 / qc, nc)
            margin = metric.margin * np.abs(mb)
            ready = (effective >= BURN_IN) & (sb**2 / qb >= BURN_IN) & (variance > 0) & (margin > 0)
        if not ready.any():
            return Standing(nothing, nothing, none, np.zeros(r, dtype=int))
        precision = state.precision.get(metric.name)
        if precision is None:
            precision = float(1.0 / margin[np.argmax(ready)] ** 2)
            state.precision = {**state.precision, metric.name: precision}
        rise = np.where(ready, mc - mb, 0.0)
        v = np.where(ready, variance, 1.0)
        prior = np.array(precision)
        harms = {Direction.RISE: (rise,), Direction.DROP: (-rise,), Direction.EITHER: (rise, -rise)}[metric.direction]
        slack = margin if self.analysis.strict else 0.0
        fail = np.stack([e.of_means(np.where(ready, h - slack, 0.0), v, prior) for h in harms])
        ok = np.stack([e.of_means(np.where(ready, margin - h, 0.0), v, prior) for h in harms])
        joined = np.logaddexp.reduce(fail, axis=0) - math.log(len(harms))
        beyond = np.any(np.stack([h > margin for h in harms]), axis=0) & ready
        return Standing(
            np.where(ready, joined, -math.inf),
            np.where(ready, ok.min(axis=0), -math.inf),
            beyond,
            np.argmax(fail, axis=0),
        )

    def _objective(self, state: Evidence, slo: Objective, block: Block) -> tuple[Array, Flags]:
        edge = block.rates[""]
        budget = 1 - slo.target
        limit = np.full(len(block), min(0.5, slo.burn * budget))
        path = state.objective + np.cumsum(e.growth_alone(edge[:, 3], edge[:, 2], limit) / self._burst, axis=0)
        state.objective = path[-1]
        sums = state.seen.rates[""] + edge.cumsum(axis=0) - edge.sum(axis=0)
        nb, xb, nc, xc = sums.T
        history = self.history
        known_n, known_x = nb + history.requests, xb + history.errors
        rate = known_x / np.maximum(known_n, 1.0)
        a_second = (nb + nc) / np.maximum(block.t, 1.0)
        if history.seconds > 0:
            a_second = np.full(len(block), history.requests / history.seconds)
        cap = slo.share * budget * a_second * slo.period
        return e.average(path), (xc - nc * rate > np.maximum(cap, 1.0)) & (nc > 0)

    def _keep(self, state: Evidence, t: Array, fail: Array, passing: Array) -> None:
        both = np.stack([fail, passing], axis=2).reshape(len(t), -1)
        trail = np.concatenate([state.trail, np.concatenate([t[:, None], both], axis=1)])
        while len(trail) > KEPT_TRAIL:
            # Every other point of the older ones goes; the newest stays.
            trail = np.concatenate([trail[:-1:2], trail[-1:]])
        state.trail = trail


def _beyond(totals: Array, allowed: Array) -> Flags:
    """Whether the candidate's share is more than the baseline's may be by the margin. ``[R, C, 4]``, ``[2, C]``."""
    xc, nc, xb, nb = np.moveaxis(totals, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        pc, pb = xc / nc, xb / nb
        limit = np.maximum(pb + allowed[0], pb * allowed[1])
        found: Flags = (nc > 0) & (nb > 0) & (pc > limit)
    return found


def _merged(rows: Array) -> Array:
    """At most KEPT rows: neighbours are added up in pairs, with the guess that was made before both."""
    while len(rows) > KEPT:
        even = len(rows) // 2 * 2
        pairs = rows[:even].reshape(-1, 2, rows.shape[1])
        merged = pairs.sum(axis=1)
        merged[:, 0], merged[:, 5] = pairs[:, 1, 0], pairs[:, 0, 5]
        rows = np.concatenate([merged, rows[even:]])
    return rows


def _joined(tracks: list[Track]) -> Track:
    if len(tracks) == 1:
        return tracks[0]
    standings = {
        name: Standing(
            np.concatenate([track.standings[name].fail for track in tracks]),
            np.concatenate([track.standings[name].passing for track in tracks]),
            np.concatenate([track.standings[name].beyond for track in tracks]),
            np.concatenate([track.standings[name].decides for track in tracks]),
        )
        for name in tracks[0].standings
    }
    return Track(
        np.concatenate([track.t for track in tracks]),
        np.concatenate([track.total for track in tracks]),
        np.concatenate([track.fails for track in tracks]),
        np.concatenate([track.passes for track in tracks]),
        np.concatenate([track.capped for track in tracks]),
        standings,
    )
