"""When evaluations change by themselves: the moments that rules, ramps and conditions on the time name."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from crossfade.domain.flags.model import FlagSet, Linear

RAMP_TICK: Final = 5.0
"""Seconds between two moments of a share that grows all the time."""

_TIME: Final = "$flagd.timestamp"
_COMPARISONS: Final = frozenset({"<", "<=", ">", ">=", "==", "===", "!=", "!=="})


@dataclass(frozen=True, slots=True)
class Moments:
    """``fixed`` are epoch seconds, ascending; each of ``ramps`` moves all the time from its first to its second."""

    fixed: tuple[float, ...] = ()
    ramps: tuple[tuple[float, float], ...] = ()

    def after(self, now: float) -> float | None:
        """The next moment after ``now`` at which an evaluation may change though no flag does; None when there is none."""
        place = bisect_right(self.fixed, now)
        found = [self.fixed[place]] if place < len(self.fixed) else []
        if any(begins <= now < ends for begins, ends in self.ramps):
            found.append(now + RAMP_TICK)
        return min(found, default=None)


def moments(flags: FlagSet) -> Moments:
    """All of them that a flag set names."""
    fixed: set[float] = set()
    ramps: list[tuple[float, float]] = []
    for flag in flags.flags.values():
        if not flag.enabled or flag.killed is not None:
            continue
        fixed.update(_named(flag.targeting))
        for rule in flag.rules:
            if rule.paused:
                continue
            fixed.update(at for at in (rule.begins, rule.ends) if at is not None)
            fixed.update(_named(rule.when))
            if isinstance(rule.serve, Linear):
                ramps.append((rule.serve.begins, rule.serve.ends))
                fixed.update(ramps[-1])
    fixed.update(_named(dict(flags.evaluators)))
    for segment in flags.segments.values():
        fixed.update(_named(segment.when))
    # A whole second later: what evaluates sees whole seconds only, and `>` holds from the next one on.
    later = {at + 1 for at in fixed}
    return Moments(tuple(sorted(fixed | later)), tuple(ramps))


def _named(logic: Any) -> Iterator[float]:
    """Numbers that a condition compares the time with."""
    left = [logic]
    while left:
        one = left.pop()
        if isinstance(one, Mapping):
            for operator, given in one.items():
                if operator in _COMPARISONS and isinstance(given, list | tuple) and any(map(_is_time, given)):
                    yield from (float(n) for n in given if isinstance(n, int | float) and not isinstance(n, bool))
                left.append(given)
        elif isinstance(one, list | tuple):
            left.extend(one)


def _is_time(value: Any) -> bool:
    if not isinstance(value, Mapping) or len(value) != 1:
        return False
    named = value.get("var")
    return named == _TIME or (isinstance(named, list | tuple) and bool(named) and named[0] == _TIME)
