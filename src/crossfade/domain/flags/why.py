"""Why a flag came to what it came to, in steps that a person can follow.

Each step says what was asked, what was found in the context, and what came of it. The steps walk the flag as people
wrote it; what decides in each is the same lowered logic that evaluates the flag.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from crossfade.domain.flags import bucketing
from crossfade.domain.flags.closures import FLAGD, Call, function
from crossfade.domain.flags.jsonlogic import Compiler, Unsound
from crossfade.domain.flags.lowering import Lowering, seconds, served
from crossfade.domain.flags.model import (
    ErrorCode,
    Evaluation,
    Flag,
    FlagSet,
    Json,
    Linear,
    Prerequisite,
    Rule,
    Split,
    Surroundings,
)
from crossfade.domain.flags.operators import TooLarge, bounded, lookup, text, truthy
from crossfade.domain.flags.references import counted
from crossfade.domain.flags.split import variant_of
from crossfade.domain.flags.survey import REFERENCES, attributes_of
from crossfade.domain.values import FULL, ReleaseNumber

CODE_DEFAULT = "the code's own default"


def as_data(evaluation: Evaluation) -> dict[str, Json]:
    """An evaluation as JSON."""
    return {
        "key": evaluation.key,
        "value": evaluation.value,
        "variant": evaluation.variant,
        "reason": str(evaluation.reason),
        "metadata": dict(evaluation.metadata),
        "error": None if evaluation.error is None else str(evaluation.error),
        "details": evaluation.details,
    }


def trace(
    flag_set: FlagSet, surroundings: Surroundings, evaluation: Evaluation, context: Any, now: float
) -> dict[str, Json]:
    """Of one evaluation that was made of this context at this time."""
    flag = flag_set.flags.get(evaluation.key)
    steps: list[dict[str, str]] = []
    if flag is None or evaluation.error is ErrorCode.INVALID_CONTEXT:
        steps.append(_step("the flag" if flag is None else "the context", evaluation.details, str(evaluation.error)))
    else:
        walk = _Walk(flag_set, surroundings, flag, dict(context), now, steps)
        try:
            walk.whole()
        except Exception as error:  # noqa: BLE001  # it ended the evaluation as well, and is told there
            said = error.what if isinstance(error, Unsound) else f"{type(error).__name__}: {error}"[:200]
            steps.append(_step("the evaluation", f"cannot go on: {said}", str(evaluation.error)))
    return {"flag": evaluation.key, "evaluation": as_data(evaluation), "steps": steps}


class _Walk:
    def __init__(
        self,
        flag_set: FlagSet,
        surroundings: Surroundings,
        flag: Flag,
        context: dict[str, Json],
        now: float,
        steps: list[dict[str, str]],
    ) -> None:
        self._set = flag_set
        self._oldest = surroundings.release
        self._flag = flag
        self._context = context
        self._now = now
        self._steps = steps
        self._lowering = Lowering(flag_set, surroundings)
        self._seed = flag.key if flag.seed is None else flag.seed

    def whole(self) -> None:
        """In the order in which a flag is asked, until something decides."""
        flag = self._flag
        if not flag.enabled:
            self._add("state", "DISABLED", CODE_DEFAULT)
            return
        self._add("state", "ENABLED", "goes on")
        if flag.killed is not None:
            killed = flag.killed
            by = f" by {killed.by}" if killed.by else ""
            why = f": {killed.why}" if killed.why else ""
            self._add("kill switch", f"killed{by} at {_time(killed.at)}{why}", _variant(flag.off_variant))
            return
        if not self._open():
            return
        for rule in flag.rules:
            if self._ruled(rule):
                return
        if flag.targeting is not None:
            found = self._targeted("targeting", flag.targeting)
            if found is not None:
                return
        found = "nothing before came to a variant" if flag.rules or flag.targeting else "no rule and no targeting"
        self._add("default", found, _variant(flag.default))

    def _open(self) -> bool:
        """Whether the release and all prerequisites are there."""
        flag = self._flag
        gates = [] if flag.needs is None else [(flag.needs, self._lowering.need(flag.needs))]
        asked: list[tuple[ReleaseNumber | Prerequisite, Json]] = [*gates]
        asked += [(one, self._lowering.required(one)) for one in flag.requires]
        # What is known not to be met is not met whatever else there is.
        for what, logic in sorted(asked, key=lambda pair: pair[1] is not False):
            met = logic if isinstance(logic, bool) else truthy(self._result(logic))
            told = self._need(what) if isinstance(what, ReleaseNumber) else self._prerequisite(what)
            self._add(*told, "met" if met else f"not met: {_variant(flag.off_variant)}")
            if not met:
                return False
        return True

    def _need(self, release: ReleaseNumber) -> tuple[str, str]:
        asks = self._context.get("release")
        if asks not in (None, ""):
            found = f"release is {_shown(asks)}"
        elif self._oldest is None:
            found = "no release asks, and none serves"
        else:
            found = f"no release asks; the oldest that serves is {self._oldest}"
        return f"needs release {release} or newer", found

    def _prerequisite(self, one: Prerequisite) -> tuple[str, str]:
        other = self._set.flags[one.flag]
        what = f"requires {one.flag} to be {' or '.join(f'`{variant}`' for variant in one.variants)}"
        if not other.enabled:
            return what, f"{one.flag} is disabled"
        if other.killed is not None:
            return what, f"{one.flag} is killed: {_variant(other.off_variant)}"
        gates = self._lowering.gates(other)
        if False in gates:
            return what, f"{one.flag} is {_variant(other.off_variant)}"
        names = _names_in([rule.when for rule in other.rules if not rule.paused] + [other.targeting])
        looks = self._attributes(names)
        found = self._result(self._lowering.variant(other, gates))
        return what, f"{one.flag} is {_variant(found)}" + (f" ({looks})" if looks else "")

    # --- rules

    def _ruled(self, rule: Rule) -> bool:
        what = f"rule {rule.name}"
        if rule.paused:
            self._add(what, "paused", "is left out")
            return False
        now = int(self._now)
        if rule.begins is not None and now < seconds(rule.begins):
            self._add(what, f"from {_time(rule.begins)}; it is {_time(now)}", "not yet")
            return False
        if rule.ends is not None and now >= seconds(rule.ends):
            self._add(what, f"until {_time(rule.ends)}; it is {_time(now)}", "is over")
            return False
        if rule.when is not None and not self._holds(what, rule.when):
            return False
        if isinstance(rule.serve, str):
            self._add(what, "holds" if rule.when is not None else "for everybody", _variant(rule.serve))
            return True
        found = self._result(self._serving(rule.serve))
        told = self._split(rule.serve) if isinstance(rule.serve, Split) else self._ramp(rule.serve)
        if found is None:
            self._add(what, f"{told}, which has no bucket", "comes to no variant")
            self._add("default", "nothing before came to a variant", _variant(self._flag.default))
        else:
            self._add(what, told, _variant(found))
        return True

    def _serving(self, serve: Split | Linear) -> Json:
        return served(serve, self._seed)

    def _split(self, split: Split) -> str:
        bucket = self._bucket(split.by)
        if bucket is None:
            return f"split by {split.by}: {self._attributes([split.by])}"
        number = int(bucket * FULL)
        variant = variant_of(split, number)
        ranges = ", ".join(f"{begin}-{end - 1}" for begin, end in split.shares.get(variant, ()))
        has = f"`{variant}` has {ranges}" if ranges else f"rest `{variant}`"
        return f"split by {split.by}: bucket {number} of {FULL}, {has}"

    def _ramp(self, linear: Linear) -> str:
        bucket = self._bucket(linear.by)
        if bucket is None:
            return f"ramp by {linear.by}: {self._attributes([linear.by])}"
        begins, ends = seconds(linear.begins), seconds(linear.ends)
        passed = min(max(int(self._now) - begins, 0), max(1, ends - begins)) / max(1, ends - begins)
        share = linear.start + (linear.end - linear.start) * passed
        return f"ramp by {linear.by}: bucket {int(bucket * FULL)} of {FULL}, `{linear.variant}` has {share / 100:.4g} % now"

    def _bucket(self, by: str) -> float | None:
        """Where in [0, 1) the context falls; None where it has nothing to hash."""
        value = lookup(self._whole(), by)
        if value is None or value == "":
            return None
        version = self._set.hash_version
        hashed = bucketing.hash_of(self._seed + text(value), version)
        if hashed is None:
            return None
        return bucketing.place(hashed, FULL, 1) / 100 if version == 1 else hashed / 2**32

    # --- logic

    def _holds(self, what: str, logic: Json) -> bool:
        """Whether it does. Of an `and` or `or`, each part is told until one decides."""
        if isinstance(logic, dict) and len(logic) == 1:
            ((operator, args),) = logic.items()
            if operator in ("and", "or") and isinstance(args, list) and args:
                decides = bool(operator == "or")
                return decides if any(self._holds(what, part) is decides for part in args) else not decides
        holds = truthy(self._result(self._lowering.logic(logic)))
        found = self._attributes(self._names(logic)) or "looks at nothing"
        self._add(f"{what}: {_written(logic)}", found, "holds" if holds else "does not hold")
        return holds

    def _targeted(self, what: str, logic: Json) -> Json:
        """What the targeting comes to, told by the branch that is taken."""
        if isinstance(logic, dict) and len(logic) == 1:
            ((operator, args),) = logic.items()
            if operator in ("if", "?:") and isinstance(args, list) and args:
                for at in range(0, len(args) - 1, 2):
                    if self._holds(what, args[at]):
                        return self._targeted(what, args[at + 1])
                return self._targeted(what, args[-1] if len(args) % 2 else None)
        found = self._result(self._lowering.logic(logic))
        told = self._attributes(self._names(logic)) if isinstance(logic, (dict, list)) else "what is left"
        outcome = "comes to no variant" if found is None else _variant(_name(found))
        self._add(
            f"{what}: {_written(logic)}" if isinstance(logic, (dict, list)) else what,
            told or "looks at nothing",
            outcome,
        )
        return found

    def _result(self, logic: Json) -> Json:
        made = Compiler(self._lowering.shared, self._set.hash_version).compile(logic, self._flag.key)
        return function(made.node)(self._context, Call(self._now))

    def _names(self, logic: Json) -> list[str]:
        """The attributes that it looks at, with those of all that it refers to."""
        shared = self._lowering.shared
        segments = {REFERENCES["segment"] + name: one.when for name, one in self._set.segments.items()}
        known = {**self._set.evaluators, **segments, **shared}
        seen: set[str] = set()
        todo, pieces = list(counted(logic)), [logic]
        while todo:
            name = todo.pop()
            if name in known and name not in seen:
                seen.add(name)
                pieces.append(known[name])
                todo += counted(known[name])
        return _names_in(pieces)

    def _attributes(self, names: list[str]) -> str:
        whole = self._whole()
        told = []
        for name in names[:6]:
            value = lookup(whole, name)
            told.append(f"{name} is not given" if value is None else f"{name} is {_shown(value)}")
        more = f"; and {len(names) - 6} more" if len(names) > 6 else ""
        return "; ".join(told) + more

    def _whole(self) -> dict[str, Json]:
        return Call(self._now).whole(self._context, self._flag.key)

    def _add(self, what: str, found: str, outcome: str) -> None:
        self._steps.append(_step(what, found, outcome))


def _step(what: str, found: str, outcome: str) -> dict[str, str]:
    return {"what": what, "found": found, "outcome": outcome}


def _names_in(pieces: list[Json]) -> list[str]:
    names = {name for piece in pieces for name in attributes_of(piece)}
    return sorted(names - {f"{FLAGD}.flagKey"})


def _name(found: Json) -> str:
    return str(found).lower() if isinstance(found, bool) else found if isinstance(found, str) else _shown(found)


def _variant(name: str | None) -> str:
    return CODE_DEFAULT if name is None else f"`{name}`"


def _written(logic: Json) -> str:
    if isinstance(logic, dict) and len(logic) == 1:
        ((operator, args),) = logic.items()
        if operator in REFERENCES:
            return f"{'segment' if operator == 'segment' else 'evaluator'} {args}"
    return _shown(logic, 200)


def _shown(value: Json, most: int = 80) -> str:
    try:
        written = json.dumps(bounded(value), ensure_ascii=False, default=str)
    except (ValueError, TooLarge, RecursionError):  # a number of thousands of digits, say
        written = type(value).__name__
    return written if len(written) <= most else written[: most - 3] + "..."


def _time(epoch: float) -> str:
    try:
        return datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):
        return str(epoch)
