"""What flags say in words: conditions, what a rule serves, shares, and what changed between two versions.

Pure: the same data give the same words, in the pages and in the tests.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from crossfade.domain.values import FULL
from crossfade.web.pages import TURNING, when

Data = Mapping[str, Any]

_NUMBERS: Final = {code: f"\\u{code:04x}" for code in TURNING}

LONGEST: Final = 300
"""Characters of a condition that is said whole; a longer one ends in an ellipsis."""
DEEPEST: Final = 6
"""Conditions inside conditions that are said in words; what lies deeper is shown as it is written."""

COMPARISONS: Final = {
    "==": "is",
    "===": "is",
    "!=": "is not",
    "!==": "is not",
    "<": "<",
    "<=": "\N{LESS-THAN OR EQUAL TO}",
    ">": ">",
    ">=": "\N{GREATER-THAN OR EQUAL TO}",
    "starts_with": "starts with",
    "ends_with": "ends with",
}
VERSIONS: Final = {"^": "has the major version of", "~": "has the major and minor version of"}


def written(value: object, indent: int | None = None) -> str:
    """A value as JSON, in which what turns the direction of text stands as its number: it can be seen, and sent back."""
    return json.dumps(value, ensure_ascii=False, indent=indent).translate(_NUMBERS)


def condition(logic: object) -> str:
    """A condition of JsonLogic as a person would say it: ``country is "de" and email ends with "@shop.test"``."""
    return short(_said(logic, 0))


def short(text: str, most: int = LONGEST) -> str:
    """At most so many characters."""
    return text if len(text) <= most else text[: most - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"


def _said(logic: object, depth: int) -> str:
    if logic is None or logic is True:
        return "everybody"
    if logic is False:
        return "nobody"
    if not isinstance(logic, Mapping) or len(logic) != 1 or depth > DEEPEST:
        return written(logic)
    operator, found = next(iter(logic.items()))
    parts: Sequence[Any] = found if isinstance(found, list) else [found]
    match operator, len(parts):
        case "segment", 1:
            return f"in segment {parts[0]}"
        case "$ref", 1:
            name = str(parts[0])
            return f"in segment {name.removeprefix('segment:')}" if name.startswith("segment:") else f"meets {name}"
        case "and" | "or", n if n:
            inner = [_inside(part, depth) for part in parts]
            return f" {operator} ".join(inner)
        case "!", 1:
            return _denied(parts[0], depth)
        case "!!" | "var", 1 if not isinstance(parts[0], Mapping) or operator == "!!":
            return f"{_value(parts[0] if operator == '!!' else logic)} is set"
        case "in", 2:
            one, other = parts
            if isinstance(other, list):
                return f"{_value(one)} is one of {', '.join(_value(each) for each in other) or 'none'}"
            return f"{_value(other)} contains {_value(one)}"
        case "sem_ver", 3:
            one, sign, other = parts
            said = VERSIONS.get(str(sign), f"{sign} version")
            return f"{_value(one)} {COMPARISONS.get(str(sign), said)} {_value(other)}"
        case sign, 2 if sign in COMPARISONS:
            return f"{_value(parts[0])} {COMPARISONS[sign]} {_value(parts[1])}"
        case _:
            return written(logic)


def _inside(logic: object, depth: int) -> str:
    several = isinstance(logic, Mapping) and len(logic) == 1 and next(iter(logic)) in ("and", "or")
    said = _said(logic, depth + 1)
    return f"({said})" if several else said


def _denied(logic: object, depth: int) -> str:
    match logic:
        case {"segment": str() as name}:
            return f"not in segment {name}"
        case {"in": [one, list() as others]}:
            return f"{_value(one)} is none of {', '.join(map(_value, others)) or 'none'}"
        case {"var": _}:
            return f"{_value(logic)} is not set"
        case _:
            return f"not ({_said(logic, depth + 1)})"


def _value(found: object) -> str:
    match found:
        case {"var": str() as name, **rest} | {"var": [str() as name, *_], **rest} if not rest:
            return {"$flagd.timestamp": "the time", "$flagd.flagKey": "the flag's key"}.get(name, name)
        case _:
            return written(found)


# --- shares


def shares(split: Data) -> dict[str, int]:
    """The share of each variant of a split, in basis points, that of the rest with them."""
    found = {name: sum(end - begin for begin, end in slices) for name, slices in split["shares"].items()}
    found[split["rest"]] = found.get(split["rest"], 0) + max(0, FULL - sum(found.values()))
    return {name: bp for name, bp in found.items() if bp}


def linear(found: Data, now: float) -> dict[str, int]:
    """The shares that a linear ramp gives at a time."""
    begins, ends = float(found["begins"]), float(found["ends"])
    start, end = int(found.get("from", 0)), int(found.get("to", FULL))
    done = 1.0 if ends <= begins else min(1.0, max(0.0, (now - begins) / (ends - begins)))
    bp = round(start + (end - start) * done)
    given = {str(found["variant"]): bp, str(found["rest"]): FULL - bp}
    return {name: bp for name, bp in given.items() if bp}


def served(serve: object, now: float) -> dict[str, int]:
    """What a rule serves as shares of variants, in basis points."""
    match serve:
        case str():
            return {serve: FULL}
        case {"split": split}:
            return shares(split)
        case {"linear": found}:
            return linear(found, now)
        case _:
            return {}


def percent(bp: int) -> str:
    """Basis points: ``12.5 %``."""
    return f"{bp / 100:g} %"


def serves(serve: object, now: float) -> str:
    """The same as a sentence: ``on to 10 %, off to the rest``."""
    match serve:
        case str():
            return serve
        case {"split": split}:
            given = [f"{name} to {percent(bp)}" for name, bp in shares(split).items() if name != split["rest"]]
            by = split.get("by", "targetingKey")
            said = ", ".join([*given, f"{split['rest']} to the rest" if given else f"{split['rest']} to all"])
            return said if by == "targetingKey" else f"{said}, by {by}"
        case {"linear": found}:
            bp = linear(found, now).get(found["variant"], 0)
            return f"{found['variant']} to {percent(bp)} now, on the way to {percent(int(found.get('to', FULL)))}"
        case _:
            return written(serve)


# --- changes


def fields(data: Data | None) -> dict[str, str]:
    """All that a flag says, each under the name that a person calls it by."""
    if data is None:
        return {}
    ours = data.get("crossfade", {})
    found = {
        "state": "switched on" if data.get("state") == "ENABLED" else "switched off",
        "killed": _killed(ours.get("killed")),
        "description": ours.get("description", ""),
        "owner": ours.get("owner", ""),
        "tags": ", ".join(ours.get("tags", ())),
        "stays for good": "yes" if ours.get("permanent") else "",
        "default": data.get("defaultVariant") or "what the code says",
        "while killed": ours.get("off") or "",
        "needs": ours.get("needs") or "",
        "seed": ours.get("seed") or "",
        "targeting": written(data["targeting"]) if data.get("targeting") else "",
    }
    found |= {f"variant {name}": written(value) for name, value in data.get("variants", {}).items()}
    found |= {f"requires {one['flag']}": " or ".join(one["variants"]) for one in ours.get("requires", ())}
    rules = ours.get("rules", ())
    found["order of rules"] = ", ".join(rule["name"] for rule in rules) if len(rules) > 1 else ""
    for rule in rules:
        found |= {f"rule {rule['name']}{part}": said for part, said in _rule(rule).items()}
    found |= {f"metadata {name}": written(value) for name, value in data.get("metadata", {}).items()}
    return {name: said for name, said in found.items() if said}


def _killed(killed: Data | None) -> str:
    return f"by {killed['by']}{': ' + killed['why'] if killed['why'] else ''}" if killed else ""


def _rule(rule: Data) -> dict[str, str]:
    since, until = rule.get("from"), rule.get("until")
    time = " ".join(f"{word} {when(at)}" for word, at in (("from", since), ("until", until)) if at is not None)
    return {
        " is for": condition(rule.get("if")),
        " serves": told(rule["serve"]),
        " is paused": "yes" if rule.get("paused") else "",
        " holds": time,
    }


def told(serve: object) -> str:
    """What a rule serves, the same at every time."""
    match serve:
        case {"linear": found}:
            span = f"from {percent(int(found.get('from', 0)))} to {percent(int(found.get('to', FULL)))}"
            times = f"{when(found['begins'])} to {when(found['ends'])}"
            return f"{found['variant']} {span} between {times}, {found['rest']} to the rest"
        case _:
            return serves(serve, 0.0)


def differences(old: Data | None, new: Data | None) -> list[dict[str, str]]:
    """What differs between two states of a flag; None is one that is not there."""
    if old is None and new is None:
        return []
    if old is None or new is None:
        gone = {"what": "the flag", "before": "is not there", "after": "is not there"}
        gone |= {"after": "is there"} if old is None else {"before": "is there"}
        return [gone, *_pairs(fields(old), fields(new))]
    return _pairs(fields(old), fields(new))


def _pairs(old: Mapping[str, str], new: Mapping[str, str]) -> list[dict[str, str]]:
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    dash = "\N{EN DASH}"
    return [{"what": name, "before": old.get(name, dash), "after": new.get(name, dash)} for name in names]


def sentence(change: Mapping[str, str]) -> str:
    """A difference on one line."""
    before, after = (short(change[side], 80) for side in ("before", "after"))
    return f"{change['what']}: {before} \N{RIGHTWARDS ARROW} {after}"
