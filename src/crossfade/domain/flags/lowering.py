"""Everything that is ours, said in flagd's own language, so that any evaluator of flagd gives the same answers.

Kills, needs, prerequisites, rules with their times, splits and ramps become one ``if``; segments and what other flags
come to become ``$evaluators``. Those that refer to others stand before them, because some evaluators replace references
once, in that order, as text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Final

from crossfade.domain.flags.model import (
    NOWHERE,
    TARGETING_KEY,
    Flag,
    FlagSet,
    Json,
    Linear,
    Prerequisite,
    Rule,
    Split,
    Surroundings,
)
from crossfade.domain.flags.references import SEGMENT, counted, ordered
from crossfade.domain.flags.survey import MOST_WEIGHT, REFERENCES, survey
from crossfade.domain.values import FULL, ReleaseNumber

FLAG: Final = "flag:"
"""Before a flag's key, the evaluator that tells its variant."""

RELEASE: Final = "release"
"""The attribute of a context that says which release asks."""

TIMESTAMP: Final = {"var": "$flagd.timestamp"}


def lower(flag_set: FlagSet, surroundings: Surroundings = NOWHERE) -> dict[str, Json]:
    """The flag set as a document of flagd's alone."""
    return Lowering(flag_set, surroundings).document()


class Lowering:
    """Of one flag set in its surroundings, piece by piece; the pieces refer to `shared` logic."""

    def __init__(self, flag_set: FlagSet, surroundings: Surroundings) -> None:
        self._set = flag_set
        self._release = surroundings.release
        self._evaluators: dict[str, Json] = dict(flag_set.evaluators)
        for name, segment in flag_set.segments.items():
            self._evaluators[SEGMENT + name] = segment.when
        self._inlined: dict[str, Json] = {}
        self._asked: dict[str, Json] = {}
        self._prepare()

    @property
    def shared(self) -> dict[str, Json]:
        """All that was referred to so far, and all that may be."""
        return {**self._asked, **self._evaluators}

    def document(self) -> dict[str, Json]:
        """All flags, with the evaluators that they use."""
        flags = {key: self._flag(flag) for key, flag in self._set.flags.items()}
        document: dict[str, Json] = {"flags": flags}
        shared = self.shared
        if shared:
            order, _ = ordered(shared, lambda name: [ref for ref in counted(shared[name]) if ref in shared])
            document["$evaluators"] = {name: shared[name] for name in reversed(order)}
        if self._set.metadata:
            document["metadata"] = dict(self._set.metadata)
        return document

    def _prepare(self) -> None:
        """Segments become references, and what must not be referred to is put in where it is used.

        The evaluator of flagd in Python puts the text of a reference in by a regular expression, which stumbles over a
        backslash; JSON has one in every text with a quote or a letter beyond ASCII.
        """
        order, _ = ordered(
            self._evaluators, lambda name: [ref for ref in counted(self._evaluators[name]) if ref in self._evaluators]
        )
        for name in order:
            logic = self.logic(self._evaluators[name])
            if "\\" in json.dumps([name, logic]):
                self._inlined[name] = logic
                del self._evaluators[name]
            else:
                self._evaluators[name] = logic

    def logic(self, logic: Json) -> Json:
        """The same with references as flagd writes them. Logic without any is left as it is."""
        return _replaced(logic, self._inlined) if survey(logic).refs else logic

    # --- flags

    def _flag(self, flag: Flag) -> dict[str, Json]:
        data: dict[str, Json] = {
            "state": "ENABLED" if flag.enabled else "DISABLED",
            "variants": flag.variants,
            "defaultVariant": flag.default,
        }
        if flag.metadata:
            data["metadata"] = flag.metadata
        if not flag.enabled:
            if flag.targeting is not None:
                data["targeting"] = self.logic(flag.targeting)
        elif flag.killed is not None:
            data["defaultVariant"] = flag.off_variant
        else:
            self._target(flag, data)
        return data

    def _target(self, flag: Flag, data: dict[str, Json]) -> None:
        gates = self.gates(flag)
        if False in gates:
            data["defaultVariant"] = flag.off_variant
            return
        targeting = self._chain(flag)
        if gates:
            targeting = {"if": [_all(gates), targeting, flag.off_variant]}
        if targeting is not None:
            data["targeting"] = targeting

    def gates(self, flag: Flag) -> list[Json]:
        """What must hold before any rule is asked; what is known already is left out, or is the one False."""
        gates: list[Json] = [] if flag.needs is None else [self.need(flag.needs)]
        gates += [self.required(one) for one in flag.requires]
        return [False] if False in gates else [gate for gate in gates if gate is not True]

    def need(self, release: ReleaseNumber) -> Json:
        """Whether a release that is new enough asks; where none says that it does, whether the oldest that serves is."""
        asking = {"var": RELEASE}
        return {
            "if": [
                {"missing": [RELEASE]},
                self._release is not None and self._release >= release,
                {"and": [{"starts_with": [asking, "r"]}, {">=": [{"substr": [asking, 1]}, release.n]}]},
            ]
        }

    def required(self, one: Prerequisite) -> Json:
        """Whether the other flag comes to one of the variants; True or False where that is known."""
        other = self._set.flags.get(one.flag)
        if other is None or not other.enabled:
            return False
        wanted = list(one.variants)
        if other.killed is not None:
            return other.off_variant in wanted
        gates = self.gates(other)
        if False in gates:
            return other.off_variant in wanted
        if not gates and other.targeting is None and not any(not rule.paused for rule in other.rules):
            return other.default in wanted
        # How flagd's evaluator in Python writes a boolean as a text.
        wanted += [
            name.capitalize()
            for name in ("true", "false")
            if name in wanted and name.capitalize() not in other.variants
        ]
        return {"in": [self.variant(other, gates), wanted]}

    def variant(self, flag: Flag, gates: list[Json]) -> Json:
        """The name of the flag's variant, as logic that another flag can ask. ``gates`` are what it asks before."""
        name = FLAG + flag.key
        while name in self._set.evaluators:  # a flag set that was lowered, taken in again, and then given prerequisites
            name += "'"
        if name not in self._asked and name not in self._inlined:
            logic = _named(self._explicit(self._chain(flag), flag.key), flag.default)
            if gates:
                logic = {"if": [_all(gates), logic, flag.off_variant]}
            if "\\" in json.dumps([name, logic]):
                self._inlined[name] = logic
            else:
                self._asked[name] = logic
        return self._inlined.get(name) or {"$ref": name}

    def _explicit(self, logic: Json, key: str) -> Json:
        """The same when another flag asks: the key and what the short form of ``fractional`` hashes are written out.

        Shared logic that looks at the key is put in, since it would see that of the flag that asks.
        """
        if isinstance(logic, list):
            return [self._explicit(one, key) for one in logic]
        if not isinstance(logic, dict) or len(logic) != 1:
            return logic
        ((operator, args),) = logic.items()
        if operator == "var" and (
            args == "$flagd.flagKey" or (isinstance(args, list) and args[:1] == ["$flagd.flagKey"])
        ):
            return key
        if operator == "$ref" and args in self._evaluators:
            written = self._explicit(self._evaluators[args], key)
            return logic if written == self._evaluators[args] else written
        if operator == "fractional" and isinstance(args, list) and args and isinstance(args[0], list):
            by = {"cat": [key, {"var": TARGETING_KEY}]}
            shares = [self._explicit(one, key) for one in args]
            # Who has no targeting key has no bucket in the short form.
            return {"if": [{"missing": [TARGETING_KEY]}, None, {"fractional": [by, *shares]}]}
        return {operator: self._explicit(args, key)}

    # --- rules

    def _chain(self, flag: Flag) -> Json:
        """Rules, then targeting; None for a flag that serves its default to everybody."""
        steps: list[Json] = []
        seed = flag.key if flag.seed is None else flag.seed
        for rule in flag.rules:
            if rule.paused:
                continue
            conditions = self._conditions(rule)
            serves = served(rule.serve, seed)
            if not conditions:
                return {"if": [*steps, serves]} if steps else _operator(serves)
            steps += [_all(conditions), serves]
        targeting = None if flag.targeting is None else self.logic(flag.targeting)
        return {"if": [*steps, targeting]} if steps else targeting

    def _conditions(self, rule: Rule) -> list[Json]:
        conditions: list[Json] = []
        if rule.begins is not None:
            conditions.append({">=": [TIMESTAMP, seconds(rule.begins)]})
        if rule.ends is not None:
            conditions.append({"<": [TIMESTAMP, seconds(rule.ends)]})
        if rule.when is not None:
            conditions.append(self.logic(rule.when))
        return conditions


def served(serve: str | Split | Linear, seed: str) -> Json:
    """What a rule serves, as a variant or the logic that comes to one."""
    if isinstance(serve, str):
        return serve
    shares = _slices(serve) if isinstance(serve, Split) else _ramp(serve)
    if len(shares) == 1:
        return shares[0][0]
    by = {"cat": [seed, {"var": serve.by}]}
    # Who has nothing to hash would share one bucket with all the others who have not.
    return {"if": [{"missing": [serve.by]}, serve.rest, {"fractional": [by, *shares]}]}


def _slices(split: Split) -> list[list[Json]]:
    """The split as the shares of `fractional`, from the first bucket to the last."""
    shares: list[list[Json]] = []
    cursor = 0
    given = sorted((begin, end, variant) for variant, slices in split.shares.items() for begin, end in slices)
    for begin, end, variant in [*given, (FULL, FULL, split.rest)]:
        for name, width in ((split.rest, begin - cursor), (variant, end - begin)):
            if width and shares and shares[-1][0] == name:
                shares[-1][1] += width
            elif width:
                shares.append([name, width])
        cursor = end
    return shares


def _ramp(linear: Linear) -> list[list[Json]]:
    """Shares that move with the time. Their weights are whole numbers, and JsonLogic divides into none.

    So the total is the ramp's seconds, times what makes its ends whole: 1 for a ramp from nothing to everybody. Where
    that would be more than a total may be, the ends are rounded while it lasts.
    """
    begins = seconds(linear.begins)
    lasts = max(1, seconds(linear.ends) - begins)
    parts = FULL // math.gcd(linear.start, linear.end, FULL)
    parts = min(parts, MOST_WEIGHT // lasts)
    start, end = (round(share * parts / FULL) for share in (linear.start, linear.end))
    total = parts * lasts
    passed = {"min": [lasts, {"max": [0, {"-": [TIMESTAMP, begins]}]}]}
    weight = {"+": [start * lasts, {"*": [end - start, passed]}]}
    return [[linear.variant, weight], [linear.rest, {"-": [total, weight]}]]


def seconds(time: float) -> int:
    """The first whole second at which the time has come: evaluators of flagd count no less."""
    return math.ceil(time)


def _all(conditions: list[Json]) -> Json:
    return conditions[0] if len(conditions) == 1 else {"and": conditions}


def _operator(served: Json) -> Json:
    """As a whole targeting, which must be an operator."""
    return served if isinstance(served, dict) else {"if": [True, served]}


def _replaced(logic: Json, inlined: Mapping[str, Json]) -> Json:
    if isinstance(logic, list):
        return [_replaced(one, inlined) for one in logic]
    if not isinstance(logic, dict):
        return logic
    if len(logic) == 1:
        ((operator, args),) = logic.items()
        if operator in REFERENCES:
            name = REFERENCES[operator] + args
            return inlined.get(name, {"$ref": name})
        return {operator: _replaced(args, inlined)}
    return logic


def _named(logic: Json, default: str | None) -> Json:
    """Logic that comes to the name of a variant where ``logic`` comes to what flagd makes one of."""
    if isinstance(logic, str):
        return logic
    if logic is None:
        return default
    if isinstance(logic, bool):
        return str(logic).lower()
    if isinstance(logic, (int, float)):
        return str(logic)
    if isinstance(logic, dict) and len(logic) == 1:
        ((operator, args),) = logic.items()
        if operator in ("if", "?:") and isinstance(args, list) and args:
            named = [one if i % 2 == 0 and i + 1 < len(args) else _named(one, default) for i, one in enumerate(args)]
            return {operator: named if len(args) % 2 else [*named, default]}
        if operator == "fractional" and isinstance(args, list) and args and all(map(_plain, args[1:])):
            by, *shares = args
            return {"or": [{"fractional": [by, *([_named(one[0], default), *one[1:]] for one in shares)]}, default]}
    return {"if": [{"===": [logic, None]}, default, {"cat": [logic]}]}


def _plain(share: Json) -> bool:
    """Whether a share of `fractional` names its variant as it is."""
    return isinstance(share, list) and bool(share) and isinstance(share[0], (str, bool, int, float)) and share[0] != ""
