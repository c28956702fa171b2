"""The conditions that the targeting editor has fields for: an attribute, an operator and a value, to JsonLogic and back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from crossfade.web.flag_words import written
from crossfade.web.pages import plain

OPERATORS: Final = {
    "is": "is",
    "not": "is not",
    "in": "is one of",
    "none": "is none of",
    "contains": "contains",
    "starts": "starts with",
    "ends": "ends with",
    "lt": "<",
    "le": "\N{LESS-THAN OR EQUAL TO}",
    "gt": ">",
    "ge": "\N{GREATER-THAN OR EQUAL TO}",
    "ver-eq": "version =",
    "ver-lt": "version <",
    "ver-le": "version \N{LESS-THAN OR EQUAL TO}",
    "ver-gt": "version >",
    "ver-ge": "version \N{GREATER-THAN OR EQUAL TO}",
    "ver-major": "same major version as",
    "ver-minor": "same minor version as",
    "set": "is set",
    "unset": "is not set",
}
VALUELESS: Final = ("set", "unset")
_PLAIN: Final = {"is": "==", "not": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "starts": "starts_with"} | {
    "ends": "ends_with"
}
_VERSION: Final = {"ver-eq": "=", "ver-lt": "<", "ver-le": "<=", "ver-gt": ">", "ver-ge": ">="} | {
    "ver-major": "^",
    "ver-minor": "~",
}
_WRITTEN: Final = {sign: code for code, sign in _PLAIN.items()}
_VERSION_WRITTEN: Final = {sign: code for code, sign in _VERSION.items()}
_NAMES: Final = {"true": True, "false": False, "null": None}


@dataclass(frozen=True, slots=True)
class Condition:
    """One line of a rule: all three as they stand in its fields."""

    attribute: str = ""
    operator: str = "is"
    value: str = ""


def value_of(text: str) -> object:
    """What a person means by a value: a number, true, false, null or a "quoted" text as such, anything else as text."""
    text = text.strip()
    if text in _NAMES:
        return _NAMES[text]
    if text[:1] == '"' or text[:1] in "-0123456789":
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            return text
        # `1e999` is no number of JSON, and what cannot be written back is a text.
        if isinstance(found, str) or (isinstance(found, int | float) and found - found == 0):
            return found
    return text


def text_of(value: object) -> str:
    """The text that `value_of` understands as this value."""
    bare = isinstance(value, str) and value == value.strip() and value_of(value) == value and value[:1] != '"'
    return value if isinstance(value, str) and bare and plain(value) == value else written(value)


def list_of(text: str) -> list[object]:
    """Several values, by commas; a comma inside of a "quoted" one parts nothing."""
    if not text.strip():
        return []
    try:
        found = json.loads(f"[{text}]")
        if all(_scalar(one) for one in found):
            return list(found)
    except (ValueError, RecursionError):
        pass
    return [value_of(part) for part in text.split(",")]


def text_of_list(values: Sequence[object]) -> str:
    """The text that `list_of` understands as these values."""
    plain = ", ".join(text_of(value) for value in values)
    if all(type(one) is type(other) and one == other for one, other in zip(list_of(plain), values, strict=False)) and (
        len(list_of(plain)) == len(values)
    ):
        return plain
    return ", ".join(map(written, values))


def logic_of(condition: Condition) -> dict[str, Any]:
    """The condition as JsonLogic."""
    one: dict[str, Any] = {"var": condition.attribute}
    match condition.operator:
        case "in":
            return {"in": [one, list_of(condition.value)]}
        case "none":
            return {"!": {"in": [one, list_of(condition.value)]}}
        case "contains":
            return {"in": [str(value_of(condition.value)), one]}
        case "set":
            return {"!!": one}
        case "unset":
            return {"!": one}
        case sign if sign in _VERSION:
            return {"sem_ver": [one, _VERSION[sign], condition.value.strip()]}
        case "starts" | "ends":
            # Only a text begins or ends with something.
            return {_PLAIN[condition.operator]: [one, _text(condition.value)]}
        case sign:
            return {_PLAIN[sign]: [one, value_of(condition.value)]}


def condition_of(logic: object) -> Condition | None:
    """The condition that is written like this; None for one that has no fields here."""
    match logic:
        case {"in": [{"var": str() as name}, list() as values]} if all(map(_scalar, values)):
            found = Condition(name, "in", text_of_list(values))
        case {"!": {"in": [{"var": str() as name}, list() as values]}} if all(map(_scalar, values)):
            found = Condition(name, "none", text_of_list(values))
        case {"in": [str() as part, {"var": str() as name}]}:
            found = Condition(name, "contains", text_of(part))
        case {"!!": {"var": str() as name}}:
            found = Condition(name, "set")
        case {"!": {"var": str() as name}}:
            found = Condition(name, "unset")
        case {"sem_ver": [{"var": str() as name}, str() as sign, str() as version]} if sign in _VERSION_WRITTEN:
            found = Condition(name, _VERSION_WRITTEN[sign], version)
        case dict() if len(logic) == 1 and next(iter(logic)) in _WRITTEN:
            sign = next(iter(logic))
            match logic[sign]:
                case [{"var": str() as name}, value] if _scalar(value):
                    found = Condition(name, _WRITTEN[sign], text_of(value))
                case _:
                    return None
        case _:
            return None
    # Only what is written again as it was has fields: nobody's rule is changed by looking at it.
    name = found.attribute
    return found if plain(name) == name.strip() == name and same(logic_of(found), logic) else None


def same(one: object, other: object) -> bool:
    """Whether two values are written alike: 1, 1.0 and true are three."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _text(text: str) -> str:
    found = value_of(text)
    return found if isinstance(found, str) else text.strip()


def _scalar(value: object) -> bool:
    return value is None or isinstance(value, str | int | float | bool)


@dataclass(frozen=True, slots=True)
class When:
    """Whom a rule is for: a segment, conditions that all hold, or else JsonLogic as text in ``json``.

    ``segment`` is empty, `segment:beta`, or `ref:staff` for a shared condition of `$evaluators`.
    """

    segment: str = ""
    conditions: tuple[Condition, ...] = ()
    json: str = ""
    simple: bool = True


def when_of(logic: object) -> When:
    """From a rule's condition."""
    if logic is None:
        return When()
    parts = logic["and"] if isinstance(logic, Mapping) and list(logic) == ["and"] else [logic]
    segment, rest = "", list(parts) if isinstance(parts, list) else [None]
    match rest[0] if rest else None:
        case {"segment": str() as name}:
            segment, rest = f"segment:{name}", rest[1:]
        case {"$ref": str() as name}:
            segment, rest = f"ref:{name}", rest[1:]
    conditions = [condition_of(part) for part in rest]
    known = tuple(one for one in conditions if one is not None)
    simple = When(segment, known)
    if len(known) == len(conditions) and same(logic_of_when(simple), logic):
        return simple
    return When(json=written(logic, 2), simple=False)


def logic_of_when(when: When) -> Any:
    """The condition of a rule; None: everybody. Raises ValueError for JSON that is none."""
    if not when.simple:
        return json.loads(when.json) if when.json.strip() else None
    parts: list[Any] = []
    kind, _, name = when.segment.partition(":")
    if name:
        parts.append({"segment": name} if kind == "segment" else {"$ref": name})
    parts += [logic_of(one) for one in when.conditions]
    return None if not parts else parts[0] if len(parts) == 1 else {"and": parts}
