"""Confidence sequences: intervals of the difference of two rates that hold at every moment at once."""

from __future__ import annotations

from typing import Final

import numpy as np

from crossfade.domain.analysis import evidence as e
from crossfade.domain.analysis.evidence import Array

HALVINGS: Final = 24


def of_difference(rows: Array, alpha: float, phi: float = 1.0) -> tuple[float, float]:
    """p_c - p_b, from looks ``[K, 6]`` (time, candidate bad, n, baseline bad, n, guess); (-1, 1) without any.

    {m : E_F(m) < 2/α and E_P(m) < 2/α}: what neither test has rejected. ``phi`` is the dispersion that the evidence
    is divided by.
    """
    if not len(rows):
        return -1.0, 1.0
    line = np.log(2.0 / alpha)
    # Raising the margin weakens the case to fail and strengthens that to pass: the two ends are found by halving.
    low_in, low_out = 1.0, -1.0
    high_in, high_out = -1.0, 1.0
    for _ in range(HALVINGS):
        middle = (low_in + low_out) / 2
        if _log_e(rows, middle, 1, phi) >= line:
            low_out = middle
        else:
            low_in = middle
        middle = (high_in + high_out) / 2
        if _log_e(rows, middle, -1, phi) >= line:
            high_out = middle
        else:
            high_in = middle
    return low_out, high_out


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
