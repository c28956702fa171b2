"""The four verdicts, and which of several holds."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass


class Finding(enum.StrEnum):
    """The four verdicts."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    NO_DATA = "no-data"


PRECEDENCE = (Finding.FAIL, Finding.NO_DATA, Finding.INCONCLUSIVE, Finding.PASS)
"""When several findings meet, the first of these that occurs is the verdict. Stated here and nowhere else."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A finding with the sentences that explain it; the first reason is the one that decided."""

    finding: Finding
    reasons: tuple[str, ...]

    @property
    def sentence(self) -> str:
        return "; ".join(self.reasons)


def worst(findings: Iterable[Finding]) -> Finding:
    """The verdict on several findings, by `PRECEDENCE`; no finding at all is no-data."""
    found = set(findings)
    return next((finding for finding in PRECEDENCE if finding in found), Finding.NO_DATA)
