"""How history is kept: in rings of bins, the longer ago, the coarser. A gap is a gap."""

from __future__ import annotations

import math
from typing import Final

RESOLUTIONS: Final = ((1.0, 3600), (10.0, 8640), (60.0, 50_400))
"""How history is kept: seconds of a bin, and how many of them: an hour, a day, 35 days. Each is a multiple of the one before."""
NEVER: Final = 1e11
"""Epoch seconds of the year 5138: a clock that shows more is wrong."""
LONGEST: Final = 35 * 86_400.0
"""Seconds that a history reaches back, so the longest window of an objective."""


def reaches(until: float) -> tuple[tuple[float, float], ...]:
    """Which time (begin, end) is read from which of the `RESOLUTIONS` when the newest count ends at ``until``.

    Each moment from the finest that still has it; they change at whole minutes, so that no bin is read in part.
    """
    coarsest = RESOLUTIONS[-1][0]
    found: list[tuple[float, float]] = []
    for step, slots in RESOLUTIONS:
        oldest = (math.ceil(until / step) - slots) * step
        begins = max(0.0, math.ceil(oldest / coarsest) * coarsest)
        found.append((begins, found[-1][0] if found else until))
    return tuple(found)
