"""A flag set as the JSON document that people write: flagd's format, with what is ours under ``crossfade``.

Reading names everything that is wrong by its place, all at once. What was read can be written and read again, and is
the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, TypeVar

from crossfade.domain.errors import Fault, Invalid, InvalidBatch
from crossfade.domain.flags import references
from crossfade.domain.flags.model import (
    TARGETING_KEY,
    Flag,
    FlagSet,
    Json,
    Killed,
    Linear,
    Prerequisite,
    Rule,
    Segment,
    Slice,
    Split,
)
from crossfade.domain.flags.survey import DEEPEST, faults, survey
from crossfade.domain.values import FULL, ReleaseNumber

T = TypeVar("T")

LONGEST_NAME: Final = 200
MOST_FLAGS: Final = 50_000
MOST_RULES: Final = 200
LONGEST_RAMP: Final = 10 * 366 * 86_400
MOST_NAMED: Final = 20
"""Variants that are named when another one was given."""

_TOP = frozenset(("flags", "$evaluators", "metadata", "crossfade", "$schema"))
_FLAG = frozenset(("state", "variants", "defaultVariant", "targeting", "metadata", "crossfade", "source", "selector"))
_OURS = frozenset(("description", "owner", "tags", "permanent", "off", "killed", "needs", "requires", "seed", "rules"))
_RULE = frozenset(("name", "if", "serve", "paused", "from", "until"))


def read(document: Json) -> FlagSet:
    """The flag set of a parsed document. Raises InvalidBatch with every fault of it."""
    found: list[Fault] = []
    data = _object(document, "the document", found)
    _known(data, _TOP, "", found)
    flags = _object(data.get("flags", {}), "flags", found)
    if len(flags) > MOST_FLAGS:
        raise InvalidBatch([Fault("flags", f"{len(flags)} flags", f"at most {MOST_FLAGS}")])
    ours = _object(data.get("crossfade", {}), "crossfade", found)
    _known(ours, {"segments"}, "crossfade.", found)
    evaluators = _object(data.get("$evaluators", {}), "$evaluators", found)
    for name, logic in evaluators.items():
        _name(name, "$evaluators", found)
        _logic(logic, f"$evaluators.{name}", found)
    metadata = _metadata(data.get("metadata", {}), "metadata", found)
    if metadata.get("hashVersion", 3) not in (1, 2, 3) or isinstance(metadata.get("hashVersion"), bool):
        found.append(Fault("metadata.hashVersion", metadata["hashVersion"], "1, 2 or 3"))
    flag_set = FlagSet(
        flags={key: _flag(key, value, found) for key, value in flags.items()},
        evaluators=evaluators,
        metadata=metadata,
        segments={
            name: _segment(name, value, found)
            for name, value in _object(ours.get("segments", {}), "crossfade.segments", found).items()
        },
    )
    found += [
        Fault(f"$evaluators.{references.SEGMENT}{name}", name, "no name that a segment has")
        for name in flag_set.segments
        if references.SEGMENT + name in evaluators
    ]
    if not found:
        found += references.faults(flag_set)
    if found:
        raise InvalidBatch(found)
    return flag_set


def read_flag(key: str, data: Json, known: FlagSet) -> Flag:
    """One flag, as it would be in ``known`` in place of what has its key there. Raises InvalidBatch."""
    found: list[Fault] = []
    flag = _flag(key, data, found)
    if not found:
        changed = FlagSet({**known.flags, key: flag}, known.evaluators, known.metadata, known.segments)
        found += references.faults(changed, only=key)
    if found:
        raise InvalidBatch(found)
    return flag


def check(flag_set: FlagSet) -> None:
    """Whether all that its flags refer to is there and goes in no circle. Raises InvalidBatch."""
    found = references.faults(flag_set)
    if found:
        raise InvalidBatch(found)


def write(flag_set: FlagSet) -> dict[str, Json]:
    """The document from which `read` makes the same flag set."""
    document: dict[str, Json] = {"flags": {key: write_flag(flag) for key, flag in flag_set.flags.items()}}
    if flag_set.evaluators:
        document["$evaluators"] = dict(flag_set.evaluators)
    if flag_set.metadata:
        document["metadata"] = dict(flag_set.metadata)
    if flag_set.segments:
        document["crossfade"] = {
            "segments": {
                name: _given(description=segment.description) | {"if": segment.when}
                for name, segment in flag_set.segments.items()
            }
        }
    return document


def write_flag(flag: Flag) -> dict[str, Json]:
    """What stands under the flag's key in a document."""
    data: dict[str, Json] = {
        "state": "ENABLED" if flag.enabled else "DISABLED",
        "variants": dict(flag.variants),
        "defaultVariant": flag.default,
    }
    if flag.targeting is not None:
        data["targeting"] = flag.targeting
    if flag.metadata:
        data["metadata"] = dict(flag.metadata)
    ours = _given(
        description=flag.description,
        owner=flag.owner,
        tags=list(flag.tags),
        permanent=flag.permanent,
        killed=flag.killed and {"by": flag.killed.by, "at": flag.killed.at, "why": flag.killed.why},
        needs=flag.needs and str(flag.needs),
        requires=[{"flag": one.flag, "variants": list(one.variants)} for one in flag.requires],
        rules=[_write_rule(rule) for rule in flag.rules],
    )
    if flag.off is not None:
        ours["off"] = flag.off
    if flag.seed is not None:
        ours["seed"] = flag.seed
    if ours:
        data["crossfade"] = ours
    return data


def _write_rule(rule: Rule) -> dict[str, Json]:
    data: dict[str, Json] = {"name": rule.name}
    if rule.when is not None:
        data["if"] = rule.when
    match rule.serve:
        case Split(shares=shares, rest=rest, by=by):
            slices = {variant: [list(one) for one in given] for variant, given in shares.items()}
            data["serve"] = {"split": {"by": by, "shares": slices, "rest": rest}}
        case Linear() as linear:
            data["serve"] = {
                "linear": {
                    "variant": linear.variant,
                    "rest": linear.rest,
                    "by": linear.by,
                    "from": linear.start,
                    "to": linear.end,
                    "begins": linear.begins,
                    "ends": linear.ends,
                }
            }
        case variant:
            data["serve"] = variant
    if rule.paused:
        data["paused"] = True
    if rule.begins is not None:
        data["from"] = rule.begins
    if rule.ends is not None:
        data["until"] = rule.ends
    return data


def _given(**values: Json) -> dict[str, Json]:
    return {name: value for name, value in values.items() if value}


def _flag(key: Any, value: Json, found: list[Fault]) -> Flag:
    place = f"flags.{key}"
    _name(key, "flags", found)
    if key in (".", ".."):
        found.append(Fault("flags", key, "a name that can be part of an address"))
    data = _object(value, place, found)
    _known(data, _FLAG, f"{place}.", found)
    state = data.get("state")
    if state not in ("ENABLED", "DISABLED"):
        found.append(Fault(f"{place}.state", state, "ENABLED or DISABLED"))
    variants = _variants(data.get("variants"), f"{place}.variants", found)
    default = data.get("defaultVariant")
    if isinstance(default, bool):
        default = str(default).lower()
    default = default or None  # flagd reads an empty name as none
    targeting = data.get("targeting") or None
    if targeting is not None:
        if not isinstance(targeting, dict) or len(targeting) != 1:
            found.append(Fault(f"{place}.targeting", targeting, "one operator of JsonLogic with its arguments"))
        else:
            _logic(targeting, f"{place}.targeting", found)
    metadata = data.get("metadata")
    basic = {
        "key": key,
        "variants": variants,
        "default": _variant(default, variants, f"{place}.defaultVariant", found) if default is not None else None,
        "enabled": state == "ENABLED",
        "targeting": targeting,
        "metadata": _metadata(metadata, f"{place}.metadata", found) if metadata else {},
    }
    ours = data.get("crossfade")
    return Flag(**basic, **_extension(ours, variants, f"{place}.crossfade", found)) if ours else Flag(**basic)


def _extension(value: Json, variants: Mapping[str, Json], place: str, found: list[Fault]) -> dict[str, Any]:
    data = _object(value, place, found)
    _known(data, _OURS, f"{place}.", found)
    off, seed = data.get("off"), data.get("seed")
    tags = _list(data.get("tags", []), f"{place}.tags", found)
    for i, tag in enumerate(tags):
        _name(tag, f"{place}.tags[{i}]", found)
    rules = _list(data.get("rules", []), f"{place}.rules", found)
    if len(rules) > MOST_RULES:
        found.append(Fault(f"{place}.rules", f"{len(rules)} rules", f"at most {MOST_RULES}"))
        rules = []
    read_rules = tuple(_rule(rule, variants, f"{place}.rules[{i}]", found) for i, rule in enumerate(rules))
    names = [rule.name for rule in read_rules]
    for i, name in enumerate(names):
        if name in names[:i]:
            found.append(Fault(f"{place}.rules[{i}].name", name, "a name that no other rule of the flag has"))
    return {
        "description": _text(data.get("description", ""), f"{place}.description", found),
        "owner": _text(data.get("owner", ""), f"{place}.owner", found),
        "tags": tuple(tag for tag in tags if isinstance(tag, str)),
        "permanent": _bool(data.get("permanent", False), f"{place}.permanent", found),
        "off": None if off is None else _variant(off, variants, f"{place}.off", found),
        "killed": _killed(data["killed"], f"{place}.killed", found) if data.get("killed") else None,
        "needs": _needs(data["needs"], f"{place}.needs", found) if data.get("needs") is not None else None,
        "requires": tuple(
            _prerequisite(one, f"{place}.requires[{i}]", found)
            for i, one in enumerate(_list(data.get("requires", []), f"{place}.requires", found))
        ),
        "seed": None if seed is None else _text(seed, f"{place}.seed", found),
        "rules": read_rules,
    }


def _rule(value: Json, variants: Mapping[str, Json], place: str, found: list[Fault]) -> Rule:
    data = _object(value, place, found)
    _known(data, _RULE, f"{place}.", found)
    name = data.get("name")
    _name(name, f"{place}.name", found)
    when = data.get("if")
    if when is not None:
        _logic(when, f"{place}.if", found)
    begins, ends = (_time(data.get(key), f"{place}.{key}", found) for key in ("from", "until"))
    if begins is not None and ends is not None and ends <= begins:
        found.append(Fault(f"{place}.until", ends, f"a time after `from` ({begins})"))
    return Rule(
        name=name if isinstance(name, str) else "",
        serve=_serve(data.get("serve"), variants, f"{place}.serve", found),
        when=when,
        paused=_bool(data.get("paused", False), f"{place}.paused", found),
        begins=begins,
        ends=ends,
    )


def _serve(value: Json, variants: Mapping[str, Json], place: str, found: list[Fault]) -> str | Split | Linear:
    if isinstance(value, dict) and len(value) == 1:
        ((kind, inner),) = value.items()
        if kind == "split":
            return _split(inner, variants, f"{place}.split", found)
        if kind == "linear":
            return _linear(inner, variants, f"{place}.linear", found)
    if not isinstance(value, str):
        found.append(Fault(place, value, "a variant, or an object with `split` or `linear`"))
        return ""
    return _variant(value, variants, place, found)


def _split(value: Json, variants: Mapping[str, Json], place: str, found: list[Fault]) -> Split:
    data = _object(value, place, found)
    _known(data, {"by", "shares", "rest"}, f"{place}.", found)
    rest = _variant(data.get("rest"), variants, f"{place}.rest", found)
    shares: dict[str, tuple[Slice, ...]] = {}
    given = _object(data.get("shares", {}), f"{place}.shares", found)
    cursor = 0
    for variant, slices in given.items():
        where = f"{place}.shares.{variant}"
        _variant(variant, variants, where, found)
        if variant == rest:
            found.append(Fault(where, slices, "no share for the variant of `rest`, which has what the others leave"))
        # A bare number is a share that has never been changed: its slice follows that of the one before it.
        if type(slices) is int and 0 <= slices <= FULL:
            shares[variant] = ((cursor, cursor + slices),) if slices else ()
            cursor += slices
        elif not isinstance(slices, list):
            found.append(Fault(where, slices, f"basis points from 0 to {FULL}, or a list of slices [begin, end)"))
        else:
            shares[variant] = _slices(slices, where, found)
    if cursor > FULL:
        found.append(Fault(f"{place}.shares", cursor, f"at most {FULL} basis points together"))
    taken = 0
    for begin, end in sorted(one for slices in shares.values() for one in slices):
        if begin < taken:
            found.append(Fault(f"{place}.shares", [begin, end], "slices that do not overlap"))
        taken = max(taken, end)
    return Split(shares, rest, _by(data, place, found))


def _slices(value: Json, place: str, found: list[Fault]) -> tuple[Slice, ...]:
    slices: list[Slice] = []
    for i, one in enumerate(_list(value, place, found)):
        if (
            isinstance(one, (list, tuple))
            and len(one) == 2
            and all(type(bound) is int for bound in one)
            and 0 <= one[0] < one[1] <= FULL
        ):
            slices.append((one[0], one[1]))
        else:
            found.append(Fault(f"{place}[{i}]", one, f"[begin, end) within 0 … {FULL}"))
    return tuple(slices)


def _linear(value: Json, variants: Mapping[str, Json], place: str, found: list[Fault]) -> Linear:
    data = _object(value, place, found)
    _known(data, {"variant", "rest", "by", "from", "to", "begins", "ends"}, f"{place}.", found)
    shares = []
    for key, otherwise in (("from", 0), ("to", FULL)):
        share = data.get(key, otherwise)
        if type(share) is not int or not 0 <= share <= FULL:
            found.append(Fault(f"{place}.{key}", share, f"a whole number of basis points from 0 to {FULL}"))
            share = otherwise
        shares.append(share)
    begins, ends = (_time(data.get(key), f"{place}.{key}", found) for key in ("begins", "ends"))
    absent = (key for key in ("begins", "ends") if data.get(key) is None)
    found += [Fault(f"{place}.{key}", None, "a time in epoch seconds") for key in absent]
    if begins is not None and ends is not None and not 0 < ends - begins <= LONGEST_RAMP:
        found.append(Fault(f"{place}.ends", ends, f"a time after `begins` ({begins}), by ten years at most"))
    variant = _variant(data.get("variant"), variants, f"{place}.variant", found)
    rest = _variant(data.get("rest"), variants, f"{place}.rest", found)
    return Linear(variant, rest, begins or 0.0, ends or 0.0, shares[0], shares[1], _by(data, place, found))


def _by(data: Mapping[str, Json], place: str, found: list[Fault]) -> str:
    by = data.get("by", TARGETING_KEY)
    _name(by, f"{place}.by", found)
    return by if isinstance(by, str) else TARGETING_KEY


def _segment(name: Any, value: Json, found: list[Fault]) -> Segment:
    place = f"crossfade.segments.{name}"
    _name(name, "crossfade.segments", found)
    data = _object(value, place, found)
    _known(data, {"description", "if"}, f"{place}.", found)
    if data.get("if") is None:
        found.append(Fault(f"{place}.if", None, "a condition in JsonLogic"))
    else:
        _logic(data["if"], f"{place}.if", found)
    return Segment(name, data.get("if"), _text(data.get("description", ""), f"{place}.description", found))


def _killed(value: Json, place: str, found: list[Fault]) -> Killed:
    data = _object(value, place, found)
    _known(data, {"by", "at", "why"}, f"{place}.", found)
    return Killed(
        by=_text(data.get("by", ""), f"{place}.by", found),
        at=_time(data.get("at", 0.0), f"{place}.at", found) or 0.0,
        why=_text(data.get("why", ""), f"{place}.why", found),
    )


def _needs(value: Json, place: str, found: list[Fault]) -> ReleaseNumber | None:
    try:
        return ReleaseNumber.parse(value)
    except (Invalid, TypeError):
        found.append(Fault(place, value, "a release, for example r12"))
        return None


def _prerequisite(value: Json, place: str, found: list[Fault]) -> Prerequisite:
    data = _object(value, place, found)
    _known(data, {"flag", "variants"}, f"{place}.", found)
    variants = _list(data.get("variants", []), f"{place}.variants", found)
    if not variants or not all(isinstance(one, str) for one in variants):
        found.append(Fault(f"{place}.variants", variants, "at least one variant of that flag"))
    return Prerequisite(
        flag=_text(data.get("flag"), f"{place}.flag", found),
        variants=tuple(one for one in variants if isinstance(one, str)),
    )


def _variants(value: Json, place: str, found: list[Fault]) -> Mapping[str, Json]:
    variants = _object(value, place, found)
    if not variants and isinstance(value, dict):
        found.append(Fault(place, value, "at least one variant"))
    for name, given in variants.items():
        _name(name, place, found)
        if type(given) is bool or type(given) is str:
            continue
        if given is None:
            found.append(Fault(f"{place}.{name}", None, "a boolean, text, number, object or list"))
        elif not _is_json(given):
            found.append(Fault(f"{place}.{name}", given, f"a value of JSON, finite and of at most {DEEPEST} levels"))
    return variants


def _is_json(value: Json) -> bool:
    level = [value]
    for _ in range(DEEPEST):
        below: list[Json] = []
        for one in level:
            if isinstance(one, dict):
                if not all(isinstance(key, str) for key in one):
                    return False
                below += one.values()
            elif isinstance(one, list):
                below += one
            elif isinstance(one, float):
                if not math.isfinite(one):
                    return False
            elif one is not None and not isinstance(one, (str, bool, int)):
                return False
        if not below:
            return True
        level = below
    return False


def _variant(value: Json, variants: Mapping[str, Json], place: str, found: list[Fault]) -> str:
    if isinstance(value, str) and value in variants:
        return value
    names = ", ".join(map(str, [*variants][:MOST_NAMED])) or "it has none"
    found.append(Fault(place, value, f"a variant of the flag ({names})"))
    return ""


def _metadata(value: Json, place: str, found: list[Fault]) -> Mapping[str, Json]:
    metadata = _object(value, place, found)
    for name, given in metadata.items():
        _name(name, place, found)
        if not isinstance(given, (str, bool, int, float)) or (isinstance(given, float) and not math.isfinite(given)):
            found.append(Fault(f"{place}.{name}", given, "text, a number or a boolean"))
    return metadata


def _logic(value: Json, place: str, found: list[Fault]) -> None:
    if not survey(value).sound:
        found += faults(value, place)


def _known(data: Mapping[str, Json], names: frozenset[str] | set[str], place: str, found: list[Fault]) -> None:
    if not data.keys() <= names:
        allowed = f"one of {', '.join(sorted(names))}"
        found += [Fault(f"{place}{name}", name, allowed) for name in data if name not in names]


def _name(value: Json, place: str, found: list[Fault]) -> None:
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_NAME or not value.isprintable():
        found.append(Fault(place, value, f"a name of 1 to {LONGEST_NAME} printable characters"))


def _text(value: Json, place: str, found: list[Fault]) -> str:
    return _typed(value, place, found, str, "text", "")


def _bool(value: Json, place: str, found: list[Fault]) -> bool:
    return _typed(value, place, found, bool, "true or false", False)


def _list(value: Json, place: str, found: list[Fault]) -> list[Json]:
    return _typed(value, place, found, list, "a list", [])


def _object(value: Json, place: str, found: list[Fault]) -> dict[str, Json]:
    return _typed(value, place, found, dict, "an object", {})


def _typed(value: Json, place: str, found: list[Fault], kind: type[T], allowed: str, otherwise: T) -> T:
    if isinstance(value, kind):
        return value
    found.append(Fault(place, value, allowed))
    return otherwise


def _time(value: Json, place: str, found: list[Fault]) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e11:
        found.append(Fault(place, value, "a time in epoch seconds"))
        return None
    return float(value)
