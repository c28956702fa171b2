"""Whether units came to the variants as the weights say: if not, something is broken, and no comparison means much.

A sample ratio mismatch has many causes (a variant that crashes before it tells of its exposure, bots, a redirect that
loses some) and all of them may bias what is measured: Fabijan et al., "Diagnosing sample ratio mismatch in online
controlled experiments", KDD 2019.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from scipy.special import chdtrc

from crossfade.domain.analysis.evidence import Array, Places
from crossfade.domain.experiments.plan import Plan

ALPHA: Final = 0.01
"""How likely an experiment whose split is right is ever said to have a wrong one."""

CONCENTRATIONS: Final = np.array([100.0, 1000.0, 10_000.0])
"""How near to the weights the alternatives lie: within about 5, 1.6 and 0.5 percentage points. All three are averaged."""

LEAST_EXPECTED: Final = 5.0
"""Units of each variant below which the distribution of χ² is no approximation."""


class Split(enum.StrEnum):
    """Whether the split is what it should be."""

    OK = "ok"
    MISMATCH = "mismatch"


@dataclass(frozen=True, slots=True)
class SampleRatio:
    """The split as it is. ``p`` may be looked at always; ``chi_square_p`` is right only for one look, at the end."""

    units: dict[str, int]
    expected: dict[str, float]
    chi_square: float | None
    chi_square_p: float | None
    p: float
    finding: Split
    sentence: str

    def to_data(self) -> dict[str, Any]:
        return {
            "units": dict(self.units),
            "expected": dict(self.expected),
            "chi_square": self.chi_square,
            "chi_square_p": self.chi_square_p,
            "p": self.p,
            "finding": str(self.finding),
            "sentence": self.sentence,
        }


def check(plan: Plan, arm: Places, at: Array) -> SampleRatio:
    """Of units as they came: ``arm`` the place of the variant, ``at`` when, both ``[U]``."""
    shares = np.array(plan.shares)
    counts = np.bincount(arm, minlength=len(shares))
    p = min(1.0, math.exp(-max(0.0, log_evidence(arm, at, shares))))
    chi, chi_p = chi_square(counts, shares)
    finding = Split.MISMATCH if p <= ALPHA else Split.OK
    names = plan.variants
    return SampleRatio(
        {name: int(count) for name, count in zip(names, counts, strict=True)},
        {name: float(share * counts.sum()) for name, share in zip(names, shares, strict=True)},
        chi,
        chi_p,
        p,
        finding,
        _sentence(names, counts, shares, p, finding),
    )


def chi_square(counts: Sequence[int] | Places, shares: Sequence[float] | Array) -> tuple[float | None, float | None]:
    """Pearson's χ² of counts against shares and its p; None while fewer than five of any are expected."""
    seen, expected = np.asarray(counts, dtype=float), np.asarray(shares) * np.sum(counts)
    if expected.min() < LEAST_EXPECTED:
        return None, None
    chi = float(((seen - expected) ** 2 / expected).sum())
    return chi, float(chdtrc(len(seen) - 1, chi))


def log_evidence(arm: Places, at: Array, shares: Array, near: Array = CONCENTRATIONS) -> float:
    """The most evidence there ever was against ``shares``, as a logarithm: an e-process, so that any look may be the last.

    Lindon & Malek, "Anytime-valid inference for multinomial count data", NeurIPS 2022 (arXiv 2011.03567): the
    likelihood of the counts, averaged over a Dirichlet distribution around the shares (k of ``near``), to that of the
    shares. It grows by (kθ_i + n_i)/((k + n)θ_i) with each unit of variant i. Units that came at the same moment count as one look.
    """
    if not len(arm):
        return 0.0
    order = np.argsort(at, kind="stable")
    arm, at = arm[order], at[order]
    before = np.empty(len(arm))
    for i in range(len(shares)):
        mine = arm == i
        before[mine] = np.arange(mine.sum())
    n = np.arange(len(arm))[:, None]
    theta = shares[arm][:, None]
    grown = np.log(near * theta + before[:, None]) - np.log((near + n) * theta)
    path = np.cumsum(grown, axis=0)[np.append(at[1:] != at[:-1], True)]
    return float(np.max(np.logaddexp.reduce(path, axis=1))) - math.log(len(near))


def _sentence(names: Sequence[str], counts: Places, shares: Array, p: float, finding: Split) -> str:
    whole = int(counts.sum())
    if not whole:
        return "no units yet"
    each = ", ".join(
        f"{name} {count / whole * 100:.3g} % of {whole:,} units instead of {share * 100:.3g} %"
        for name, count, share in zip(names, counts, shares, strict=True)
    )
    if finding is Split.OK:
        return f"{each}: as it should be (p = {p:.2g} at every moment; it would be a mismatch at {ALPHA:g})"
    return (
        f"{each}: not what the weights say (p = {p:.2g} at every moment). Something loses or adds units of a variant; "
        "find it before you believe any of the differences"
    )
