"""Figures: none of them is told without the number of cases that it is of, and none is made up where there is no case."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Spread:
    """Of durations: how many, the middle one, and the one that nine tenths do not exceed. None where there are none."""

    n: int
    median: float | None
    p90: float | None

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        """Between two values, as far between them as the place is between theirs."""
        known = sorted(values)
        return cls(len(known), _quantile(known, 0.5), _quantile(known, 0.9))

    def to_data(self) -> dict[str, Any]:
        return {"n": self.n, "median": rounded(self.median), "p90": rounded(self.p90)}


def share(part: float, n: float) -> float | None:
    """A share 0…1 of ``n`` cases; None where there are none."""
    return part / n if n > 0 else None


def rounded(value: float | None, digits: int = 3) -> float | None:
    """As it is told; what is no number is not known."""
    return None if value is None or not math.isfinite(value) else round(value, digits)


def _quantile(known: list[float], level: float) -> float | None:
    if not known:
        return None
    place = level * (len(known) - 1)
    below = math.floor(place)
    above = min(below + 1, len(known) - 1)
    # Written so that it never leaves the two values, whatever rounding does.
    return min(known[above], known[below] + (known[above] - known[below]) * (place - below))
