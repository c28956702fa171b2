"""Differences of means between groups of units, with intervals that hold at every moment at once.

Two kinds. The usual one is asymptotic: the normal mixture of Robbins (Ann. Math. Stat. 41, 1970) in the form of
Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas, "Time-uniform central limit theory and asymptotic confidence sequences"
(Ann. Stat. 52, 2024; arXiv 2103.06476), equation (2): with n units, what one of them varies by and a prior's ρ,
estimate ± σ·√(2(nρ²+1)/(n²ρ²)·ln(√(nρ²+1)/α)). ρ is not fitted to the data: it makes the interval narrowest after the
number of units that was planned (their equation for the best ρ, by Lambert's W). It says nothing before `BURN_IN`
events: the central limit theorem has to have set in.

Before that, conversions have an exact one: for each group the beta mixture of the binomial likelihood ratio (Robbins,
as above; Howard, Ramdas, McAuliffe & Sekhon, Ann. Stat. 49, 2021, arXiv 1810.08240), of which all corners are taken.
It gets a tenth of what may go wrong, so that both together keep their promise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.special import betaln, lambertw, xlog1py, xlogy

from crossfade.domain.analysis import evidence as e
from crossfade.domain.analysis.evidence import Array, Flags
from crossfade.domain.experiments.moments import AY, XX, XY, YY, N, X, Y
from crossfade.domain.experiments.plan import MetricKind

BURN_IN: Final = 50.0
"""Events (of sums and counts: their effective number, (Σ|y|)²/Σy²) that each group must be able to have had."""

EXACT_SHARE: Final = 0.1
"""How much of α the exact interval of conversions has, which speaks before the burn-in."""

HALVINGS: Final = 60


@dataclass(frozen=True, slots=True)
class Rule:
    """How sure an interval is: it ever leaves out the truth with ``alpha``. ``planned``: units where it is narrowest."""

    alpha: float
    planned: float

    def of(self, share: float) -> Rule:
        return Rule(self.alpha * share, self.planned)

    @property
    def best(self) -> float:
        """The information, in units of the prior's, at which the interval is narrowest: -W₋₁(-α²/e) - 1."""
        return float(-lambertw(-(self.alpha**2) / np.e, -1).real - 1)

    def information(self, n: Array) -> Array:
        """What ``n`` units tell, in units of what the prior tells."""
        return np.maximum(n, 1e-9) * (self.best / self.planned)

    def reach(self, n: Array) -> Array:
        """How many standard errors the interval reaches to either side after ``n`` units."""
        return e.half_width_of_means(np.ones_like(n), 1 / self.information(n), self.alpha)


@dataclass(frozen=True, slots=True)
class Groups:
    """Groups of units that are compared, ``[L, G]``: from `moments`, after CUPED if that was asked for.

    ``mean`` and ``variance`` (of the mean) are adjusted, ``raw`` is what was measured; ``events`` is their effective
    number. ``enough`` ``[L]``: whether the burn-in is over in all groups. ``saved`` ``[L]``: the share of the variance
    that CUPED took out; ``theta`` ``[L]`` what it did so with.
    """

    n: Array
    raw: Array
    mean: Array
    variance: Array
    events: Array
    enough: Flags
    theta: Array
    saved: Array
    hits: Array | None

    def usual(self, rule: Rule) -> Rule:
        """What the usual interval has of a rule, where an exact one has a part of it."""
        return rule if self.hits is None else rule.of(1.0 - EXACT_SHARE)

    def only(self, places: Sequence[int]) -> Groups:
        """Some of the groups, in this order."""
        at = list(places)
        return Groups(
            self.n[:, at],
            self.raw[:, at],
            self.mean[:, at],
            self.variance[:, at],
            self.events[:, at],
            _enough(self.n[:, at], self.events[:, at]),
            self.theta,
            self.saved,
            None if self.hits is None else self.hits[:, at],
        )


def groups(moments: Array, kind: MetricKind, cuped: bool) -> Groups:
    """From sums ``[L, G, 7]``. CUPED's θ = cov(x, y)/var(x) within the groups, all together.

    Deng, Xu, Kohavi & Walker, "Improving the sensitivity of online controlled experiments by utilizing pre-experiment
    data", WSDM 2013: y is replaced by y - θ(x - x̄), whose variance is smaller by the square of their correlation.
    """
    n = moments[..., N]
    some = np.maximum(n, 1.0)
    raw = moments[..., Y] / some
    yy = np.maximum(moments[..., YY] - n * raw**2, 0.0)
    theta = np.zeros(len(n))
    mean, spread = raw, yy
    if cuped:
        x = moments[..., X] / some
        xx = np.maximum(moments[..., XX] - n * x**2, 0.0)
        xy = moments[..., XY] - n * x * raw
        below = xx.sum(axis=-1)
        theta = np.where(below > 0, xy.sum(axis=-1) / np.where(below > 0, below, 1.0), 0.0)
        everyone = moments[..., X].sum(axis=-1) / np.maximum(n.sum(axis=-1), 1.0)
        t = theta[:, None]
        mean = raw - t * (x - everyone[:, None])
        spread = np.maximum(yy - 2 * t * xy + t**2 * xx, 0.0)
    hits = moments[..., Y] if kind is MetricKind.CONVERSION else None
    if hits is not None:
        events = np.minimum(hits, n - hits)
    else:
        events = np.minimum(moments[..., AY] ** 2 / np.maximum(moments[..., YY], 1e-300), n)
    one = spread / np.maximum(n - 1, 1.0)
    # A group with few events, perhaps because it is broken, is taken to vary as much as the one that varies most.
    one = np.where(events >= BURN_IN, one, np.max(one, axis=-1, keepdims=True))
    total, left = yy.sum(axis=-1), spread.sum(axis=-1)
    saved = np.where(total > 0, 1 - left / np.where(total > 0, total, 1.0), 0.0)
    return Groups(n, raw, mean, one / some, events, _enough(n, events), theta, saved, hits)


def _enough(n: Array, events: Array) -> Flags:
    """Whether each group has had its events, or would have had as many as the group where they are most frequent."""
    frequency = np.max(events / np.maximum(n, 1.0), axis=-1, keepdims=True)
    enough: Flags = np.all(n * frequency >= BURN_IN, axis=-1) & (np.max(events, axis=-1) >= BURN_IN)
    return enough


@dataclass(frozen=True, slots=True)
class Difference:
    """A sum of groups' means with signs, ``[L]``, and its interval; infinite where nothing is known.

    ``log_e``: the logarithm of the e-value against "it is 0"; its share of α is already paid. ``exact``: whether the
    interval is the exact one. ``deviation``: the standard error.
    """

    n: Array
    estimate: Array
    low: Array
    high: Array
    log_e: Array
    exact: Flags
    deviation: Array


def difference(found: Groups, signs: Sequence[float], rule: Rule) -> Difference:
    """Σ signs·means. With two groups and signs (1, -1): the lift of the first over the second."""
    weight = np.array(signs)
    n = found.n.sum(axis=-1)
    variance = (weight**2 * found.variance).sum(axis=-1)
    known = found.enough & (variance > 0)
    usual = found.usual(rule)
    estimate = (weight * found.mean).sum(axis=-1)
    spread = np.where(known, variance, 1.0)
    half = np.where(known, usual.reach(n) * np.sqrt(spread), np.inf)
    precision = 1 / (spread * usual.information(n))
    log_e = np.where(known, _two_sided(estimate, spread, precision) + np.log(usual.alpha / rule.alpha), 0.0)
    low, high = estimate - half, estimate + half
    exact = np.zeros(len(n), dtype=np.bool_)
    if found.hits is not None and not known.all():
        exact = ~known
        raw = (weight * found.raw).sum(axis=-1)
        least, most = _corners(found, weight, rule.of(EXACT_SHARE))
        estimate = np.where(known, estimate, raw)
        low, high = np.where(known, low, least), np.where(known, high, most)
        if len(signs) == 2:  # only then one number tells how sure it is
            early = _log_e_of_two(found.hits, found.n) + np.log(EXACT_SHARE)
            log_e = np.where(known, log_e, early)
    return Difference(n, estimate, low, high, log_e, exact, np.sqrt(variance))


def ratio(found: Groups, rule: Rule) -> tuple[Array, Array, Array]:
    """The first group's mean relative to the second's, less 1: the estimate and its interval, by Fieller's theorem.

    All q for which the interval of (mean - q·mean of the other) holds 0, so that it says "no difference" exactly where
    the interval of the difference does. Unbounded (infinite) where the second mean is not surely different from 0.
    """
    (top, base), (v, w) = np.moveaxis(found.mean, -1, 0), np.moveaxis(found.variance, -1, 0)
    usual = found.usual(rule)
    known = found.enough & (v + w > 0)
    k = usual.reach(found.n.sum(axis=-1)) ** 2
    a, b, c = base**2 - k * w, top * base, top**2 - k * v
    bounded = known & (a > 0)
    root = np.sqrt(np.maximum(b**2 - a * c, 0.0))
    below = np.where(bounded, a, 1.0)
    ends = np.stack([(b - root) / below - 1, (b + root) / below - 1])
    # Of a mean below 0, more is still more.
    sign = np.where(base < 0, -1.0, 1.0)
    low = np.where(bounded, np.min(ends * sign, axis=0), -np.inf)
    high = np.where(bounded, np.max(ends * sign, axis=0), np.inf)
    if found.hits is not None:
        least, most = _exact(found.hits, found.n, rule.of(EXACT_SHARE / 2))
        top, base = (np.where(known, mean, raw) for mean, raw in zip((top, base), found.raw.T, strict=True))
        safe = np.where(least[:, 1] > 0, least[:, 1], 1.0)
        low = np.where(known, low, least[:, 0] / np.maximum(most[:, 1], 1e-300) - 1)
        high = np.where(known, high, np.where(least[:, 1] > 0, most[:, 0] / safe - 1, np.inf))
    estimate = np.where(base != 0, (top - base) / np.where(base != 0, np.abs(base), 1.0), np.nan)
    return estimate, low, high


def _two_sided(estimate: Array, variance: Array, precision: Array) -> Array:
    """The logarithm of the e-value against "it is 0": the mean of those of both sides."""
    log_e: Array = np.logaddexp(
        e.of_means(estimate, variance, precision), e.of_means(-estimate, variance, precision)
    ) - np.log(2.0)
    return log_e


# --- conversions, exactly


def _log_mixture(hits: Array, n: Array) -> Array:
    """The logarithm of the mean likelihood of all rates, by Jeffreys' prior."""
    mixed: Array = betaln(hits + 0.5, n - hits + 0.5) - betaln(0.5, 0.5)
    return mixed


def _log_likelihood(hits: Array, n: Array, rate: Array) -> Array:
    """That of one rate; less than `_log_mixture` is evidence against it."""
    log: Array = xlogy(hits, rate) + xlog1py(n - hits, -rate)
    return log


def _exact(hits: Array, n: Array, rule: Rule) -> tuple[Array, Array]:
    """The confidence sequence of each rate: all that the evidence has not rejected, by halving."""
    line = _log_mixture(hits, n) - np.log(1 / rule.alpha)
    rate = hits / np.maximum(n, 1.0)
    ends = []
    for far in (0.0, 1.0):
        outside, inside = np.full_like(rate, far), np.where(n > 0, rate, 1 - far)
        for _ in range(HALVINGS):
            middle = (outside + inside) / 2
            beyond = _log_likelihood(hits, n, middle) <= line
            outside, inside = np.where(beyond, middle, outside), np.where(beyond, inside, middle)
        ends.append(np.where(n > 0, outside, far))
    return ends[0], ends[1]


def _corners(found: Groups, weight: Array, rule: Rule) -> tuple[Array, Array]:
    """The least and the most that a sum of rates can be while each is within its own interval."""
    assert found.hits is not None
    least, most = _exact(found.hits, found.n, rule.of(1 / len(weight)))
    low = np.where(weight > 0, least, most)
    high = np.where(weight > 0, most, least)
    return (weight * low).sum(axis=-1), (weight * high).sum(axis=-1)


def _log_e_of_two(hits: Array, n: Array) -> Array:
    """Half the evidence against the likeliest rate that both groups could share: what `_corners` rejects 0 by."""
    rate = hits / np.maximum(n, 1.0)
    low, high = np.min(rate, axis=-1), np.max(rate, axis=-1)
    swap = rate[:, 0] > rate[:, 1]
    under = np.where(swap, 1, 0)
    at = np.arange(len(n))
    x, m, y, k = hits[at, under], n[at, under], hits[at, 1 - under], n[at, 1 - under]
    of_x, of_y = _log_mixture(x, m), _log_mixture(y, k)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        # Going up, the evidence of the lower group rises and that of the higher one falls: they meet once.
        short = of_x - _log_likelihood(x, m, middle) < of_y - _log_likelihood(y, k, middle)
        low, high = np.where(short, middle, low), np.where(short, high, middle)
    met = np.minimum(of_x - _log_likelihood(x, m, low), of_y - _log_likelihood(y, k, low))
    return np.where((m > 0) & (k > 0), np.maximum(met, 0.0) - np.log(2.0), 0.0)
