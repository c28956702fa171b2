"""What the parts of a flag set refer to: all of it must be there, and nothing may come back to where it began."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from crossfade.domain.errors import Fault
from crossfade.domain.flags.model import Flag, FlagSet, Json, Split
from crossfade.domain.flags.survey import (
    DEEPEST_EXPANDED,
    MOST_NODES_EXPANDED,
    REFERENCES,
    mentions_short_form,
    survey,
)

MOST_LEVELS: Final = 10
"""Prerequisites of prerequisites: more of them are a plan that nobody can follow."""

SEGMENT: Final = REFERENCES["segment"]


def pieces(flag: Flag) -> Iterator[tuple[str, Json]]:
    """All logic of a flag, with where it stands below the flag's key."""
    for i, rule in enumerate(flag.rules):
        if rule.when is not None:
            yield f"crossfade.rules[{i}].if", rule.when
    if flag.targeting is not None:
        yield "targeting", flag.targeting


def counted(logic: Json) -> Counter[str]:
    """How often logic refers to which evaluator."""
    counts: Counter[str] = Counter()
    todo = [logic]
    while todo:
        one = todo.pop()
        if isinstance(one, list):
            todo += one
        elif isinstance(one, dict):
            if len(one) == 1:
                ((operator, args),) = one.items()
                if operator in REFERENCES and isinstance(args, str):
                    counts[REFERENCES[operator] + args] += 1
            todo += one.values()
    return counts


def ordered(names: Iterable[str], uses: Callable[[str], Iterable[str]]) -> tuple[list[str], dict[str, list[str]]]:
    """The names so that each comes after all that it uses, and the circles, by the name that closes each."""
    done: dict[str, None] = {}
    circles: dict[str, list[str]] = {}
    for name in names:
        path: dict[str, Iterator[str]] = {}
        if name not in done:
            path[name] = iter(uses(name))
        while path:
            last = next(reversed(path))
            below = next(path[last], None)
            if below is None:
                done[last] = None
                del path[last]
            elif below in path:
                trail = list(path)
                circles[below] = [*trail[trail.index(below) :], below]
            elif below not in done:
                path[below] = iter(uses(below))
    return list(done), circles


@dataclass(frozen=True, slots=True)
class _Reach:
    """What logic comes to with all that it refers to put in."""

    size: int
    depth: int
    short_form: bool


class _Shared:
    """The evaluators and segments of a flag set, by the name under which logic refers to them."""

    def __init__(self, flag_set: FlagSet) -> None:
        self.logic: dict[str, Json] = dict(flag_set.evaluators)
        self.places = {name: f"$evaluators.{name}" for name in flag_set.evaluators}
        for name, segment in flag_set.segments.items():
            self.logic[SEGMENT + name] = segment.when
            self.places[SEGMENT + name] = f"crossfade.segments.{name}.if"
        self._reach: dict[str, _Reach] = {}
        order, self._circles = ordered(self.logic, self._uses)
        for name in order:
            self._reach[name] = self.reach(self.logic[name])

    def _uses(self, name: str) -> list[str]:
        return [ref for ref in sorted(survey(self.logic[name]).refs) if ref in self.logic]

    def faults(self) -> Iterator[Fault]:
        """Of all the shared logic."""
        for name, circle in self._circles.items():
            yield Fault(self.places[name], " -> ".join(circle), "references that go in no circle")
        for name, logic in self.logic.items():
            yield from self.faults_in(logic, self.places[name])

    def faults_in(self, logic: Json, place: str) -> Iterator[Fault]:
        """What it refers to and is not there, and whether it is too big with all of it."""
        refs = survey(logic).refs
        if not refs:
            return
        for ref in sorted(refs - self.logic.keys()):
            names = ", ".join(sorted(self.logic)[:10]) or "it has none"
            yield Fault(place, ref, f"an evaluator or segment of this flag set ({names})")
        reach = self.reach(logic)
        if reach.size > MOST_NODES_EXPANDED:
            found = f"{reach.size:,} values with all references put in"
            yield Fault(place, found, f"at most {MOST_NODES_EXPANDED:,}")
        if reach.depth > DEEPEST_EXPANDED:
            yield Fault(place, f"{reach.depth} levels with all references put in", f"at most {DEEPEST_EXPANDED}")

    def reach(self, logic: Json) -> _Reach:
        """Of what is not there, or is only known when a circle is closed, nothing is counted: it is told elsewhere."""
        seen = survey(logic)
        below = [(self._reach[ref], n) for ref, n in counted(logic).items() if ref in self._reach] if seen.refs else []
        return _Reach(
            size=seen.size + sum(one.size * n for one, n in below),
            depth=seen.depth + max((one.depth for one, _ in below), default=0),
            short_form=mentions_short_form(logic) or any(one.short_form for one, _ in below),
        )


def faults(flag_set: FlagSet, only: str | None = None) -> list[Fault]:
    """Everything that is wrong with what refers to what; of one flag ``only``, if it is named."""
    shared = _Shared(flag_set)
    found = list(shared.faults()) if only is None else []
    flags = flag_set.flags if only is None else {only: flag_set.flags[only]}
    for key, flag in flags.items():
        if flag.targeting is not None or flag.rules:
            for where, logic in pieces(flag):
                found += shared.faults_in(logic, f"flags.{key}.{where}")
    if any(flag.requires for flag in flag_set.flags.values()):
        found += _prerequisite_faults(flag_set, shared, flags)
    return found


def _prerequisite_faults(flag_set: FlagSet, shared: _Shared, flags: Mapping[str, Flag]) -> Iterator[Fault]:
    known = flag_set.flags
    uses = {key: [one.flag for one in flag.requires if one.flag in known] for key, flag in known.items()}
    for key, flag in flags.items():
        for i, one in enumerate(flag.requires):
            yield from _fault_of(one.flag, one.variants, flag_set, shared, f"flags.{key}.crossfade.requires[{i}]")
    order, circles = ordered(known, uses.__getitem__)
    for circle in circles.values():
        for key in circle[1:]:
            if key in flags:
                found = " -> ".join(circle)
                yield Fault(f"flags.{key}.crossfade.requires", found, "prerequisites that go in no circle")
    if not circles:
        yield from _chain_faults(order, uses, flag_set, shared, flags)


def _fault_of(wanted: str, variants: Sequence[str], flag_set: FlagSet, shared: _Shared, place: str) -> Iterator[Fault]:
    other = flag_set.flags.get(wanted)
    if other is None:
        yield Fault(f"{place}.flag", wanted, "a flag of this flag set")
        return
    for variant in variants:
        if variant not in other.variants:
            yield Fault(f"{place}.variants", variant, f"a variant of {wanted} ({', '.join(other.variants)})")
    if flag_set.hash_version == 3 and any(shared.reach(logic).short_form for _, logic in pieces(other)):
        found = f"{wanted}, whose `fractional` names no attribute to hash"
        allowed = 'a flag whose `fractional` begins with what is hashed, as in {"var": "targetingKey"}, or with a split'
        yield Fault(f"{place}.flag", found, allowed)


def _chain_faults(
    order: Sequence[str],
    uses: Mapping[str, Sequence[str]],
    flag_set: FlagSet,
    shared: _Shared,
    flags: Mapping[str, Flag],
) -> Iterator[Fault]:
    sizes: dict[str, int] = {}
    levels: dict[str, int] = {}
    depths: dict[str, int] = {}
    for key in order:
        flag = flag_set.flags[key]
        reaches = [shared.reach(logic) for _, logic in pieces(flag)]
        slices = sum(
            len(given) for rule in flag.rules if isinstance(rule.serve, Split) for given in rule.serve.shares.values()
        )
        # What lowering adds to a rule is some 40 values and 6 levels at most, and some 10 values to each prerequisite.
        own = sum(one.size for one in reaches) + 40 * len(flag.rules) + 3 * slices + 20
        sizes[key] = own + sum(sizes[one] + 10 for one in uses[key])
        levels[key] = 1 + max((levels[one] for one in uses[key]), default=-1)
        depths[key] = 6 + max((*(one.depth for one in reaches), *(depths[one] for one in uses[key])), default=0)
        if key not in flags or not flag.requires:
            continue
        place = f"flags.{key}.crossfade.requires"
        if levels[key] > MOST_LEVELS:
            yield Fault(place, f"prerequisites of {levels[key]} levels", f"at most {MOST_LEVELS} levels")
        elif sizes[key] > MOST_NODES_EXPANDED:
            yield Fault(
                place, f"{sizes[key]:,} values with all prerequisites put in", f"at most {MOST_NODES_EXPANDED:,}"
            )
        elif depths[key] > DEEPEST_EXPANDED:
            found = f"{depths[key]} levels with all prerequisites put in"
            yield Fault(place, found, f"at most {DEEPEST_EXPANDED}")
