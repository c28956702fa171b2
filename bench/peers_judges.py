"""How others judge a canary, written from their specifications: what `bench.detection` runs beside ours.

Each takes streams ``[N, T, 4]`` (baseline requests and errors, candidate requests and errors, of each second) and
returns the second at which it alarms, ``[N]``, infinite where it never does.
"""

from __future__ import annotations

import enum
import math
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import betaln
from scipy.stats import norm

from bench.streams import MINUTE

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

NEVER: Final = math.inf
SOONEST: Final = 10
"""Seconds that rules on a share wait for their first look: none of them is meant for fewer."""

CONFIDENCE_Z: Final = float(norm.ppf(0.99))
TOLERANCE: Final = 1e-4
EFFECT: Final = 0.25


class Label(enum.StrEnum):
    """What Kayenta says of a metric."""

    PASS = "Pass"  # noqa: S105 - a verdict, no password
    HIGH = "High"
    LOW = "Low"
    NO_DATA = "Nodata"


def first(found: Flags, begin: int = 1) -> Array:
    """The 1-based place of the first true one from place ``begin`` on, ``[N, T] → [N]``."""
    found = found.copy()
    found[:, : begin - 1] = False
    return np.where(found.any(axis=1), np.argmax(found, axis=1) + 1.0, NEVER)


# --- Kayenta: NetflixACAJudge-v1.0, the Mann-Whitney classifier


def deviate(mu: float, x: Array, y: Array) -> float:
    """W(μ), the standardised rank sum of x - μ ``[m]`` among both, with y ``[n]``; falls as μ rises."""
    m, n = len(x), len(y)
    moved = x - mu
    # The sum of x's average ranks, less m(m+1)/2, is how many pairs x wins; ties are half won.
    dz = float(np.sign(moved[:, None] - y).sum()) / 2
    both = np.sort(np.concatenate([moved, y]))
    tied = 0.0
    if (both[1:] == both[:-1]).any():
        _, ties = np.unique(both, return_counts=True)
        tied = float((ties**3 - ties).sum()) / ((m + n) * (m + n - 1))
    sigma = math.sqrt(m * n / 12 * (m + n + 1 - tied))
    return (dz - 0.5 * float(np.sign(dz))) / sigma if sigma > 0 else 0.0


def mann_whitney(x: Array, y: Array) -> tuple[float, float, float]:
    """The confidence interval (98 %) of the shift from y to x, and its estimate: low, estimate, high."""
    left, right = float(x.min() - y.max()), float(x.max() - y.min())

    def solve(target: float) -> float:
        if deviate(left, x, y) - target <= 0:
            return left
        if deviate(right, x, y) - target >= 0:
            return right
        return float(brentq(lambda mu: deviate(mu, x, y) - target, left, right, xtol=TOLERANCE))

    return solve(CONFIDENCE_Z), solve(0.0), solve(-CONFIDENCE_Z)


def kayenta(x: Array, y: Array) -> Label:
    """Experiment ``[m]`` against control ``[n]``, with direction `either`."""
    if not len(x) or not len(y):
        return Label.NO_DATA
    if np.array_equal(np.sort(x), np.sort(y)) or len(np.unique(np.concatenate([x, y]))) == 1:
        return Label.PASS
    low, estimate, high = mann_whitney(x, y)
    ratio = float(x.mean() / y.mean()) if y.mean() else math.inf
    critical = EFFECT * abs(estimate)
    if low > critical and ratio >= 1:
        return Label.HIGH
    if high < -critical and ratio <= 1:
        return Label.LOW
    return Label.PASS


def kayenta_over_time(x: Array, y: Array, points: int) -> float:
    """Judged after each minute from ``points`` points on, until it is `High`; the second of that.

    That is its direction `increase`, which suits errors and latencies better than `either`, its default, and alarms half
    as often for nothing. One point an arm is always `High` or `Low`, so nobody can mean fewer than two.
    """
    for m in range(points, len(x) + 1):
        if kayenta(x[:m], y[:m]) is Label.HIGH:
            return float(m * MINUTE)
    return NEVER


def kayenta_on_errors(streams: Array, points: int) -> Array:
    """On the shares of errors of each minute, in per cent."""
    n, t, _ = streams.shape
    nb, xb, nc, xc = np.moveaxis(streams.reshape(n, t // MINUTE, MINUTE, 4).sum(axis=2), -1, 0)
    x, y = 100 * xc / np.maximum(nc, 1), 100 * xb / np.maximum(nb, 1)
    return np.array([kayenta_over_time(x[i], y[i], points) for i in range(n)])


# --- rules on the candidate alone


def _over_a_minute(streams: Array) -> Array:
    """The candidate's share of errors over the last minute, or since the beginning while that is less. ``[N, T]``"""
    sums = np.cumsum(streams[:, :, 2:], axis=1)
    sums[:, MINUTE:] = sums[:, MINUTE:] - sums[:, :-MINUTE]
    return sums[:, :, 1] / np.maximum(sums[:, :, 0], 1)


def threshold(streams: Array, limit: float = 0.01) -> Array:
    """Alarms when the share of errors over the last minute is above ``limit``, looked at each second."""
    return first(_over_a_minute(streams) > limit, SOONEST)


def flagger(streams: Array, limit: float = 0.01, strikes: int = 5) -> Array:
    """Flagger's example: `interval: 1m`, `threshold: 5`, success rate ≥ 99 % over 1 minute; failed checks add up."""
    failed = _over_a_minute(streams)[:, MINUTE - 1 :: MINUTE] > limit
    return first(np.cumsum(failed, axis=1) >= strikes) * MINUTE


# --- tests of both arms


def naive(streams: Array, alpha: float = 0.01) -> Array:
    """The one-sided z-test of two proportions on all so far, repeated each second as if it were the only one."""
    nb, xb, nc, xc = np.moveaxis(np.cumsum(streams, axis=1), -1, 0)
    nb, nc = np.maximum(nb, 1), np.maximum(nc, 1)
    pooled = (xb + xc) / (nb + nc)
    variance = pooled * (1 - pooled) * (1 / nb + 1 / nc)
    z = np.where(variance > 0, (xc / nc - xb / nb) / np.sqrt(np.where(variance > 0, variance, 1)), 0)
    return first(z > norm.ppf(1 - alpha), SOONEST)


def lindon_malek_log_e(xc: Array, xb: Array, rho: float, k: float = 100.0) -> Array:
    """The log Bayes factor on cumulative errors of both arms, by a Beta(kρ, k(1-ρ)) prior on whose each is.

    Lindon & Malek, "Anytime-valid inference for multinomial count data", NeurIPS 2022 (arXiv 2011.03567).
    """
    a, b = k * rho, k * (1 - rho)
    found: Array = betaln(a + xc, b + xb) - betaln(a, b) - xc * math.log(rho) - xb * math.log(1 - rho)
    return found


def lindon_malek_interval(xc: float, xb: float, rho: float, alpha: float, k: float = 100.0) -> tuple[float, float]:
    """The confidence sequence of log(p_c/p_b): which shares of the errors the same factor does not reject."""
    a, b = k * rho, k * (1 - rho)
    top = betaln(a + xc, b + xb) - betaln(a, b)

    def excess(share: float) -> float:
        return float(top - xc * math.log(share) - xb * math.log1p(-share) + math.log(alpha))

    best = min(max(xc / (xc + xb), 1e-9), 1 - 1e-9)
    ends = []
    for end in (1e-12, 1 - 1e-12):
        share = end if excess(end) <= 0 else brentq(excess, min(best, end), max(best, end))
        ends.append(math.log(share / (1 - share)) - math.log(rho / (1 - rho)))
    return ends[0], ends[1]


def lindon_malek(streams: Array, rho: float, alpha: float = 0.01) -> Array:
    """Alarms when the factor reaches 1/α and the candidate has more than its share of the errors."""
    _, xb, _, xc = np.moveaxis(np.cumsum(streams, axis=1), -1, 0)
    log_e = lindon_malek_log_e(xc, xb, rho)
    return first((log_e >= math.log(1 / alpha)) & (xc > rho * (xc + xb)))
