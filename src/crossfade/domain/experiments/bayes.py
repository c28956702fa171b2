"""The same data as a Bayesian would put it: how likely each variant is better, and what choosing it may cost.

A view beside the intervals, no decision: these probabilities take the prior at its word, and looking at them until
one pleases finds more winners than there are. Priors are flat: Beta(1, 1) for a rate, so that its posterior is
Beta(1 + hits, 1 + misses); for means no preference at all, so that theirs is normal around the estimate (after CUPED,
if that is asked for) with its standard error.

Integrals are sums over a grid in which every variant has a thousand places of its own: no chance is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from scipy.special import betainc, betaln, ndtr, xlog1py, xlogy

from crossfade.domain.analysis.evidence import Array
from crossfade.domain.experiments.intervals import Groups

PLACES: Final = 1001
REACH: Final = 8.0
"""Standard deviations to either side of the mean that the grid covers."""

HALVINGS: Final = 50


@dataclass(frozen=True, slots=True)
class Posterior:
    """What is believed of a variant's mean: normal, or a rate's beta when ``hits`` and ``misses`` (with the prior's) are."""

    mean: float
    deviation: float
    hits: float | None = None
    misses: float | None = None

    @classmethod
    def of_rate(cls, hits: float, n: float) -> Posterior:
        a, b = 1 + hits, 1 + n - hits
        return cls(a / (a + b), float(np.sqrt(a * b / ((a + b) ** 2 * (a + b + 1)))), a, b)

    def below(self, x: Array) -> Array:
        """The probability that the mean is at most x."""
        if self.hits is None or self.misses is None:
            return np.asarray(ndtr((x - self.mean) / self.deviation), dtype=np.float64)
        return np.asarray(betainc(self.hits, self.misses, np.clip(x, 0.0, 1.0)), dtype=np.float64)

    def density(self, x: Array) -> Array:
        if self.hits is None or self.misses is None:
            z = (x - self.mean) / self.deviation
            return np.asarray(np.exp(-0.5 * z**2) / (self.deviation * np.sqrt(2 * np.pi)), dtype=np.float64)
        inside = np.clip(x, 0.0, 1.0)
        log = xlogy(self.hits - 1, inside) + xlog1py(self.misses - 1, -inside) - betaln(self.hits, self.misses)
        return np.where((x >= 0) & (x <= 1), np.exp(log), 0.0)

    @property
    def span(self) -> tuple[float, float]:
        low, high = self.mean - REACH * self.deviation, self.mean + REACH * self.deviation
        return (low, high) if self.hits is None else (max(0.0, low), min(1.0, high))


@dataclass(frozen=True, slots=True)
class Belief:
    """What is believed of a variant. ``better``: than the control; ``low`` and ``high`` hold the difference to it with
    1 - α; ``loss``: what choosing it costs on average, in the metric's own unit, where it is worse after all.
    """

    variant: str
    posterior: Posterior
    best: float
    better: float | None = None
    low: float | None = None
    high: float | None = None
    loss: float | None = None

    def to_data(self) -> dict[str, Any]:
        return {
            "variant": self.variant,
            "mean": self.posterior.mean,
            "deviation": self.posterior.deviation,
            "best": self.best,
            "better": self.better,
            "low": self.low,
            "high": self.high,
            "loss": self.loss,
        }


def posteriors(groups: Groups, adjusted: bool) -> list[Posterior] | None:
    """Of each group at the last look; None while a mean has too few events to be taken for normal."""
    if groups.hits is not None and not (adjusted and groups.enough[-1]):
        return [Posterior.of_rate(float(x), float(n)) for x, n in zip(groups.hits[-1], groups.n[-1], strict=True)]
    if not groups.enough[-1] or not (groups.variance[-1] > 0).all():
        return None
    deviation = np.sqrt(groups.variance[-1])
    return [Posterior(float(m), float(s)) for m, s in zip(groups.mean[-1], deviation, strict=True)]


def believe(variants: Sequence[str], known: Sequence[Posterior], sign: float, alpha: float) -> tuple[Belief, ...]:
    """What is believed of each variant, the control first. ``sign`` +1: more is better."""
    grid = np.unique(np.concatenate([np.linspace(*one.span, PLACES) for one in known]))
    below = [one.below(grid) for one in known]
    steps = [np.diff(one) for one in below]
    middles = [(one[1:] + one[:-1]) / 2 for one in below]
    ahead = [one if sign > 0 else 1 - one for one in middles]
    best = []
    for i, step in enumerate(steps):
        others = np.ones_like(step)
        for j, one in enumerate(ahead):
            others = others * one if j != i else others
        best.append(float((step * others).sum()))
    whole = sum(best)
    beliefs = [Belief(variants[0], known[0], best[0] / whole)]
    for i in range(1, len(known)):
        low, high = (_quantile(grid, below[i], steps[0], level) for level in (alpha / 2, 1 - alpha / 2))
        mine, its = (below[i], below[0]) if sign > 0 else (below[0], below[i])
        beliefs.append(
            Belief(
                variants[i],
                known[i],
                best[i] / whole,
                float((steps[i] * ahead[0]).sum()),
                low,
                high,
                # The mean of what the control is ahead by: the places that lie between the two.
                float(np.trapezoid(mine * (1 - its), grid)),
            )
        )
    return tuple(beliefs)


def _quantile(grid: Array, below: Array, control: Array, level: float) -> float:
    """Of treatment less control: where the mean over the control of P(treatment ≤ control + d) is ``level``."""
    centre = (grid[1:] + grid[:-1]) / 2
    low, high = float(grid[0] - grid[-1]), float(grid[-1] - grid[0])
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        share = float((control * np.interp(centre + middle, grid, below)).sum())
        low, high = (middle, high) if share < level else (low, middle)
    return (low + high) / 2
