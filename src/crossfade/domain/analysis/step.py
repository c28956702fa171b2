"""What becomes of a step: it lasts its time, is left by its verdict, holds while unsure until its deadline.

The same for the steps of a canary and those of a ramp.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from crossfade.domain.analysis.policy import Advance, Analysis, WhenUnsure
from crossfade.domain.analysis.verdict import Finding, Verdict
from crossfade.domain.values import Weight, show_duration


class Move(enum.StrEnum):
    """What follows."""

    STAY = "stay"
    NEXT = "next"
    BACK = "back"


@dataclass(frozen=True, slots=True)
class Outcome:
    """``why``: what a step that stays waits for (empty: only for its time), or why one goes back."""

    move: Move
    why: str = ""


def outcome(analysis: Analysis, weight: Weight, duration: float, spent: float, verdict: Verdict | None) -> Outcome:
    """Of a step at ``weight`` that is to last ``duration`` seconds, after ``spent``. A fail is the caller's to see first."""
    finding = verdict.finding if verdict else Finding.NO_DATA
    early = analysis.advance is Advance.EARLY and finding is Finding.PASS
    if spent < (min(analysis.min_duration, duration) if early else duration):
        return Outcome(Move.STAY)
    if finding is Finding.PASS:
        return Outcome(Move.NEXT)
    said = verdict.sentence if verdict else "no verdict yet"
    if spent < analysis.deadline:
        left = show_duration(analysis.deadline - spent)
        return Outcome(Move.STAY, f"holds at {weight} until it is sure, for another {left} at most")
    match analysis.when_unsure:
        case WhenUnsure.ROLLBACK:
            return Outcome(Move.BACK, f"{finding} at {weight} when the step was over: {said}")
        case WhenUnsure.PROMOTE if finding is Finding.INCONCLUSIVE:
            return Outcome(Move.NEXT)
        case _:  # what has no data never passes, whatever one may do when unsure
            return Outcome(Move.STAY, f"holds at {weight}: {finding}: {said}")
