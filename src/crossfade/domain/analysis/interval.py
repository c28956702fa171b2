"""Confidence sequences: intervals of the difference of two rates that hold at every moment at once."""

from __future__ import annotations

from typing import Final

import numpy as np

from crossfade.domain.analysis import evidence as e
from crossfade.domain.analysis.evidence import Array

NEAR: Final = 2e-7
"""How far from its true place an end may be found."""


def of_difference(rows: Array, alpha: float, phi: float = 1.0) -> tuple[float, float]:
    """p_c - p_b, from looks ``[K, 6]`` (time, candidate bad, n, baseline bad, n, guess); (-1, 1) without any.

    {m : E_F(m) < 2/α and E_P(m) < 2/α}: what neither test has rejected. ``phi`` is the dispersion that the evidence
    is divided by.
    """
    if not len(rows):
        return -1.0, 1.0
    _, xc, nc, xb, nb, _ = rows.sum(axis=0)
    # An estimate has a standard error of about this; where it is of nothing, of one event.
    error = float(np.sqrt(phi * ((xc + 1) / max(nc, 1.0) ** 2 + (xb + 1) / max(nb, 1.0) ** 2)))
    estimate = float(xc / max(nc, 1.0) - xb / max(nb, 1.0))
    return _end(rows, estimate, error, 1, alpha, phi), _end(rows, estimate, error, -1, alpha, phi)


def _end(rows: Array, estimate: float, error: float, sign: int, alpha: float, phi: float) -> float:
    """The nearest margin that the test of ``sign`` rejects, within NEAR: the lower end for +1, the upper for -1.

    Raising the margin weakens the case to fail and strengthens that to pass, so there is one such place: first it is
    enclosed, from the estimate outwards, and then closed in on.
    """
    line = float(np.log(2.0 / alpha))

    def beyond(margin: float) -> float:
        # The square root of evidence is nearly straight in the margin, so that few guesses are needed.
        return float(np.sqrt(max(_log_e(rows, margin, sign, phi), 0.0)) - np.sqrt(line))

    inside, at_inside, step = estimate, beyond(estimate), 3.0 * error
    outside, at_outside = inside, at_inside
    if at_inside >= 0:
        inside, at_inside = float(sign), beyond(float(sign))
        if at_inside >= 0:
            return inside
    while at_outside < 0:
        if abs(inside + sign) < NEAR:
            return -float(sign)
        outside = max(-1.0, min(1.0, estimate - sign * step))
        at_outside, step = beyond(outside), step * 2.5
        if at_outside < 0:
            inside, at_inside = outside, at_outside
    for guess in range(64):
        if abs(inside - outside) <= NEAR:
            break
        share = 0.5 if guess % 3 == 2 else at_inside / (at_inside - at_outside)
        # A guess lands a little on the other side of the last one, so that both ends close in.
        margin = inside + (outside - inside) * share
        margin += (NEAR / 3) * (1 if guess % 2 else -1)
        margin = min(max(inside, outside), max(min(inside, outside), margin))
        found = beyond(margin)
        if found >= 0:
            outside, at_outside = margin, found
        else:
            inside, at_inside = margin, found
    return outside


def band(rows: Array, alpha: float, phi: float = 1.0, points: int = 40) -> Array:
    """The interval as it stood at up to ``points`` moments: ``[P, 3]`` time, low, high."""
    if not len(rows):
        return np.zeros((0, 3))
    ends = np.unique(np.linspace(1, len(rows), min(points, len(rows))).astype(int))
    return np.array([[rows[n - 1, 0], *of_difference(rows[:n], alpha, phi)] for n in ends])


def _log_e(rows: Array, margin: float, sign: int, phi: float) -> float:
    _, xc, nc, xb, nb, g = rows.T
    grown = e.growth(xc, nc, xb, nb, g, np.ones_like(g), np.full_like(g, margin), sign)
    return float(e.average(grown.sum(axis=0) / phi))
