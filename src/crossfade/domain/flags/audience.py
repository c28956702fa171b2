"""Who gets what before a change, and who after it: what an editor shows before anything is saved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from crossfade.domain.flags.evaluate import Evaluator
from crossfade.domain.flags.model import Evaluation, Json, Reason

CODE_DEFAULT: Final = "(code default)"
"""In place of a variant where there is none."""

FAILED: Final = "(error)"
"""In place of a variant where the evaluation fails."""


@dataclass(frozen=True, slots=True)
class Audience:
    """Of so many contexts: how many have which variant before and after, and how many go from which to which.

    Those that go nowhere are not in ``moves``. The most come first, everywhere.
    """

    contexts: int
    before: Mapping[str, int]
    after: Mapping[str, int]
    moves: Mapping[tuple[str, str], int]

    @property
    def moved(self) -> int:
        """How many get another variant than before."""
        return sum(self.moves.values())


def audience(
    before: Evaluator | None, after: Evaluator, key: str, contexts: Iterable[Mapping[str, Json]], now: float
) -> Audience:
    """Of one flag. Without a flag set before, or without the flag in it, the code had its own default."""
    was: Counter[str] = Counter()
    is_now: Counter[str] = Counter()
    moves: Counter[tuple[str, str]] = Counter()
    known = before if before is not None and key in before else None
    count = 0
    for context in contexts:
        one = CODE_DEFAULT if known is None else _named(known.evaluate(key, context, now))
        other = _named(after.evaluate(key, context, now))
        was[one] += 1
        is_now[other] += 1
        if one != other:
            moves[one, other] += 1
        count += 1
    return Audience(count, dict(was.most_common()), dict(is_now.most_common()), dict(moves.most_common()))


def _named(evaluation: Evaluation) -> str:
    if evaluation.reason is Reason.ERROR:
        return FAILED
    return CODE_DEFAULT if evaluation.variant is None else evaluation.variant
