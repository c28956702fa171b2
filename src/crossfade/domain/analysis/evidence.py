"""E-values for "the candidate is worse" and "the candidate is good enough": right at every moment, however often one looks.

An e-process is at most 1 on average under its null hypothesis, at any time one may choose to stop. By Ville's
inequality it reaches 1/α with probability at most α, ever. All evidence here is natural logarithms of e-values.

Shapes: ``[R]`` looks in time, ``[C]`` tests side by side, ``[F]`` = 12 bets that are averaged. NumPy broadcasts.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.special import log_ndtr

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int_]

BETS: Final[Array] = np.array([0.005, 0.01, 0.02, 0.035, 0.06, 0.1, 0.16, 0.25, 0.37, 0.52, 0.7, 0.9])
"""Shares of the largest stake that cannot lose everything. Small ones grow fastest on small differences."""

RESTART: Final = 60.0
"""Seconds between the beginnings of the processes that find what begins late."""

WINDOW: Final = 2.0
"""Seconds of one count when burstiness is measured during a rollout: short, to know it soon."""

FEWEST_PAIRS: Final = 6
SMALLEST_RATE: Final = 1e-7


def growth(xc: Array, nc: Array, xb: Array, nb: Array, g: Array, ratio: Array, margin: Array, sign: int) -> Array:
    """How much the logarithm of each bet's wealth grows by one look, ``[..., F]``.

    ``xc`` bad ones of ``nc`` candidate events, ``xb`` of ``nb`` baseline events; ``g`` the baseline's rate as guessed
    from strictly earlier data: a bad guess costs time, never validity. ``sign`` +1 bets against
    p_c ≤ ratio·p_b + margin, -1 against p_c ≥ ratio·p_b + margin. An arm without events adds nothing.

    With ρ = nc/(nc+nb), each candidate event multiplies the wealth by 1 + (μ/ρ)(x - g_c), each baseline event by
    1 - (μ·ratio/(1-ρ))(x - g), where g_c = ratio·g + margin. Their mean weighted by the split is
    1 + μ(p_c - ratio·p_b - margin) ≤ 1 under the null, and by the inequality of arithmetic and geometric means so is
    the product's, also while rates drift and the split ramps. Two-arm betting after Waudby-Smith & Ramdas,
    "Estimating means of bounded random variables by betting", JRSS-B 86 (2024), and Turner, Ly & Grünwald,
    "Generic e-variables for exact sequential k-sample tests", JSPI 230 (2024).
    """
    both = (nc > 0) & (nb > 0)
    rho = np.where(both, nc / np.where(both, nc + nb, 1.0), 0.5)
    # Both guesses must be rates: the baseline's gives way, for the proof needs gc = ratio·g + margin exactly.
    margin = np.clip(margin, -1 + 10 * SMALLEST_RATE, 1 - 10 * SMALLEST_RATE)
    least = np.maximum(SMALLEST_RATE, (SMALLEST_RATE - margin) / ratio)
    most = np.minimum(1 - SMALLEST_RATE, (1 - SMALLEST_RATE - margin) / ratio)
    g = np.clip(g, least, most)
    gc = ratio * g + margin
    if sign > 0:
        largest = np.minimum(rho / gc, (1 - rho) / (ratio * (1 - g)))
    else:
        largest = -np.minimum(rho / (1 - gc), (1 - rho) / (ratio * g))
    stake = np.where(both, largest, 0.0)[..., None] * BETS
    ahead, behind = stake / rho[..., None], stake * (ratio / (1 - rho))[..., None]
    gc, g = gc[..., None], g[..., None]
    grown: Array = (
        xc[..., None] * np.log1p(ahead * (1 - gc))
        + (nc - xc)[..., None] * np.log1p(-ahead * gc)
        + xb[..., None] * np.log1p(-behind * (1 - g))
        + (nb - xb)[..., None] * np.log1p(behind * g)
    )
    return np.where(both[..., None], grown, 0.0)


def growth_alone(x: Array, n: Array, limit: Array) -> Array:
    """As `growth`, for one arm against a fixed rate: ``x`` bad ones of ``n``, null p ≤ ``limit``. ``[..., F]``."""
    limit = np.clip(limit, SMALLEST_RATE, 1 - SMALLEST_RATE)[..., None]
    grown: Array = x[..., None] * np.log1p(BETS / limit * (1 - limit)) + (n - x)[..., None] * np.log1p(-BETS)
    return grown


def average(log_wealth: Array) -> Array:
    """The logarithm of the mean over bets: ``[..., F] → [...]``."""
    top = np.max(log_wealth, axis=-1)
    mean: Array = top + np.log(np.mean(np.exp(log_wealth - top[..., None]), axis=-1))
    return mean


def restart_share(k: int, planned: int) -> float:
    """The share of the restarts' half of the budget that restart ``k`` = 1, 2, … has; all of them sum to 1.

    ``planned`` restarts fit the time that was planned and share nine tenths equally; what goes on for longer than
    planned gets ever smaller shares of the last tenth, without end.
    """
    return 0.9 / planned if k <= planned else 0.1 * (planned + 1) / (k * (k + 1.0))


def with_restarts(begun: Array, restarted: Array, not_yet: float) -> Array:
    """The logarithm of ½·(wealth since the beginning) + ½·(mean over restarts), averaged over bets: ``[..., C]``.

    ``begun`` ``[..., C, F]`` is the log wealth since the beginning; ``restarted`` ``[C, F]`` the logarithm of
    Σ share_k·exp(-log wealth when k began), so that memory does not grow; ``not_yet`` the share of those that have
    not begun and stand at 1.
    """
    later = begun + restarted
    if not_yet > 0:
        later = np.logaddexp(later, np.log(not_yet))
    return average(np.logaddexp(begun, later) - np.log(2.0))


def burstiness(counts: Array) -> float:
    """The dispersion φ of counts of equal windows: variance/mean, at least 1. ``[W]``, at least 6 windows, else 1.

    Chance alone must cost no power, nor must bursts that were seen be taken for smaller than they are: one standard
    error of the ratio, √(2/(W-1)) of it, is taken off unless the ratio is surely above 1; then two are added.
    """
    if len(counts) < FEWEST_PAIRS or not np.sum(counts):
        return 1.0
    ratio = float(np.var(counts, ddof=1) / np.mean(counts))
    error = float(np.sqrt(2 / (len(counts) - 1)))
    return ratio * (1 + 2 * error) if ratio > 1 + 2 * error else max(1.0, ratio - error)


def burstiness_of_pairs(unlike: Array, like: Array, pairs: Array) -> Array:
    """The dispersion φ from sums over neighbouring windows; 1 where it is not surely more than 1.

    Each pair of windows with x₁ of n₁ and x₂ of n₂ adds h·(x₁/n₁ - x₂/n₂)² to ``unlike``, with h = n₁n₂/(n₁+n₂), and
    (x₁+x₂)/(n₁+n₂) to ``like``: without bursts both have the same mean. Differences of neighbours do not mistake a
    slow change of the rate, or of the split, for bursts (von Neumann's ratio, Ann. Math. Stat. 12, 1941).
    """
    phi = np.where(like > 0, unlike / np.where(like > 0, like, 1.0), 1.0)
    sure = 1.0 + 2.0 * np.sqrt(3.0 / np.maximum(pairs, 1.0))
    return np.where((pairs >= FEWEST_PAIRS) & (phi > sure), phi, 1.0)


def of_means(difference: Array, variance: Array, precision: Array) -> Array:
    """The logarithm of the e-value against "the true difference is ≤ 0", from an estimate and its variance.

    One-sided normal mixture with a half-normal prior of scale 1/√precision: asymptotic, so only meaningful from
    some 50 events an arm on. Robbins, Ann. Math. Stat. 41 (1970); Waudby-Smith et al., arXiv 2103.06476.
    """
    information = 1.0 / variance
    scaled = difference * information
    total = information + precision
    log_e: Array = 0.5 * np.log(4 * precision / total) + scaled**2 / (2 * total) + log_ndtr(scaled / np.sqrt(total))
    return log_e


def half_width_of_means(variance: Array, precision: Array, alpha: float) -> Array:
    """Half the width of the confidence sequence of a difference of means, at every moment with 1 - ``alpha``."""
    information = 1.0 / variance
    total = information + precision
    width: Array = np.sqrt(2 * total * (np.log(1 / alpha) + 0.5 * np.log(total / precision))) / information
    return width
