"""Whether every value of one JSON Schema is also one of another: what decides if clients of an API still work.

What clients send must go on being accepted: values of the old schema, accepted by the new one. What they get must go on
being understood: values of the new schema, within what the old one promised. So there is one question with two
directions. Where it cannot be decided (`not`, `if`, `patternProperties`), an unlike keyword counts as a difference.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from crossfade.domain.errors import Invalid

MOST_VARIANTS: Final = 128
"""How many combinations of `oneOf` and `anyOf` one schema may have."""

MOST_STEPS: Final = 1_000_000
"""How many schemas are looked at for two documents: a hostile one has exponentially many ways through it."""

Nodes = tuple[Any, ...]
"""Schemas as they stand in a document, all of which hold at once."""


class Way(enum.StrEnum):
    """Which way the values go: clients send them, or get them."""

    REQUEST = "request"
    RESPONSE = "response"


@dataclass(frozen=True, slots=True)
class Difference:
    """One way in which a schema breaks clients. ``path`` leads to it: ``.items[].price``; ``kind`` is stable.

    ``name`` is the property that ``what`` speaks of, where it does: the last one of the path.
    """

    kind: str
    path: str
    what: str
    name: str = ""


_UPPER: Final = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_LOWER: Final = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_OPAQUE: Final = (
    "not",
    "if",
    "then",
    "else",
    "contains",
    "minContains",
    "maxContains",
    "patternProperties",
    "propertyNames",
    "prefixItems",
    "dependentRequired",
    "dependentSchemas",
    "unevaluatedProperties",
    "unevaluatedItems",
    "$dynamicRef",
    "contentEncoding",
    "contentMediaType",
)
_ONLY: Final = {
    "string": ("maxLength", "minLength", "pattern", "format", "contentEncoding", "contentMediaType"),
    "number": ("maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum", "multipleOf", "format"),
    "array": (
        *("maxItems", "minItems", "uniqueItems", "items"),
        *("contains", "minContains", "maxContains", "prefixItems", "unevaluatedItems"),
    ),
    "object": (
        *("maxProperties", "minProperties", "properties", "required", "additionalProperties", "patternProperties"),
        *("propertyNames", "dependentRequired", "dependentSchemas", "unevaluatedProperties"),
    ),
}
_TYPED: Final = frozenset(keyword for keywords in _ONLY.values() for keyword in keywords)
_WIDER_FORMATS: Final = {("int32", "int64"), ("float", "double")}


@dataclass(frozen=True, slots=True)
class _Flat:
    """One alternative of a schema: a single type, with no references or combinations left at its top."""

    type: str | None = None
    enum: tuple[str, ...] | None = None  # values as canonical JSON
    bounds: Mapping[str, float] = field(default_factory=dict)
    patterns: frozenset[str] = frozenset()
    format: str | None = None
    unique: bool = False
    multiples: frozenset[float] = frozenset()
    items: Nodes = ()
    properties: Mapping[str, Nodes] = field(default_factory=dict)
    required: frozenset[str] = frozenset()
    extra: Nodes | None = None  # schemas of further properties; None: nothing is said of them
    closed: bool = False
    opaque: Mapping[str, str] = field(default_factory=dict)
    never: bool = False


def pointer(document: Mapping[str, Any], reference: object) -> Any:
    """What a reference within a document stands for. Raises Invalid for any other reference."""
    if not isinstance(reference, str) or (reference != "#" and not reference.startswith("#/")):
        raise Invalid("$ref", reference, "a reference within the document (#/components/…)")
    here: Any = document
    for part in reference[2:].split("/") if reference != "#" else ():
        decoded = re.sub(r"%([0-9A-Fa-f]{2})", lambda match: chr(int(match[1], 16)), part)
        key = decoded.replace("~1", "/").replace("~0", "~")
        if isinstance(here, Mapping) and key in here:
            here = here[key]
        elif isinstance(here, list) and key.isdecimal() and int(key) < len(here):
            here = here[int(key)]
        else:
            raise Invalid("$ref", reference, "a reference to something that the document has")
    return here


_Parts = tuple[tuple[str, int], ...]
"""Schemas within schemas: the path to each, and the number of the pair that stands there."""

_Found = tuple[tuple[Difference, ...], _Parts]
"""What differs at a place itself, and its parts."""


class Comparison:
    """The schemas of two documents, compared pair by pair. Raises Invalid when there are too many of them.

    Not by recursion, as schemas refer to each other in chains as long as the document: parts are put on a list and taken
    from it, the nearest first, so that each pair is told of by the shortest way to it.
    """

    def __init__(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        self._documents = {"before": before, "after": after}
        self._old_style = {name: str(doc.get("openapi", "")).startswith("3.0") for name, doc in self._documents.items()}
        self._numbers: dict[tuple[Way, frozenset[int], frozenset[int]], int] = {}
        self._pairs: list[tuple[Nodes, Nodes, Way]] = []
        self._found: list[_Found | None] = []
        self._steps = 0

    def differences(self, old: Any, new: Any, way: Way) -> tuple[Difference, ...]:
        """What breaks clients when a schema that was ``old`` is ``new`` now."""
        return self._walk((("", self._number((old,), (new,), way)),))

    def _number(self, old: Nodes, new: Nodes, way: Way) -> int:
        old, new = self._targets("before", old), self._targets("after", new)
        key = (way, frozenset(map(id, old)), frozenset(map(id, new)))
        if key not in self._numbers:
            self._numbers[key] = len(self._pairs)
            self._pairs.append((old, new, way))
            self._found.append(None)
        return self._numbers[key]

    def _walk(self, parts: _Parts) -> tuple[Difference, ...]:
        found: dict[Difference, None] = {}
        # Each step of the way: the pair, the step before, and what leads from there to here.
        steps = [(number, -1, path) for path, number in parts]
        seen = {number for number, _, _ in steps}
        for at, (number, _, _) in enumerate(steps):  # it grows while it is gone through
            known = self._found[number]
            if known is None:
                self._found[number] = ((), ())  # a schema that contains itself is compared once
                known = self._found[number] = self._pair(*self._pairs[number])
            for one in known[0]:
                found[replace(one, path=_way_to(steps, at) + one.path)] = None
            for path, inner in known[1]:
                if inner not in seen:
                    seen.add(inner)
                    steps.append((inner, at, path))
        return tuple(found)

    def _pair(self, old: Nodes, new: Nodes, way: Way) -> _Found:
        before, after = self._flat("before", old), self._flat("after", new)
        values, accepting = (before, after) if way is Way.REQUEST else (after, before)
        each = [self._of(value, accepting, way) for value in values]
        differences = dict.fromkeys(one for differences, _ in each for one in differences)
        return tuple(differences), tuple(part for _, parts in each for part in parts)

    def _of(self, value: _Flat, accepting: Sequence[_Flat], way: Way) -> _Found:
        """What of one alternative is outside of all that are accepted; against the one that is nearest."""
        if value.never:
            return (), ()
        able = [other for other in accepting if not other.never and _type_within(value.type, other.type)]
        if not able:
            allowed = " or ".join(sorted({other.type or "any" for other in accepting if not other.never})) or "nothing"
            kind = value.type or "a value of any type"
            if way is Way.REQUEST:
                return (Difference("type-changed", "", f"{kind} is no longer accepted: it must be {allowed}"),), ()
            return (Difference("type-changed", "", f"{kind} may come now: it was {allowed}"),), ()
        if len(able) == 1:
            return self._within(value, able[0], way)
        nearest: tuple[Difference, ...] | None = None
        for other in able:
            own, parts = self._within(value, other, way)
            whole = (*own, *self._walk(parts))
            if nearest is None or len(whole) < len(nearest):
                nearest = whole
            if not nearest:
                break
        return nearest or (), ()

    def _within(self, value: _Flat, other: _Flat, way: Way) -> _Found:
        old, new = (value, other) if way is Way.REQUEST else (other, value)
        parts = (
            [("[]", self._number(old.items or (True,), new.items or (True,), way))] if old.items or new.items else []
        )
        differences = list(_differences(value, other, way is Way.REQUEST))
        for found in self._objects(old, new, way):
            if isinstance(found, Difference):
                differences.append(found)
            else:
                parts.append(found)
        return tuple(differences), tuple(parts)

    def _objects(self, old: _Flat, new: _Flat, way: Way) -> Iterator[Difference | tuple[str, int]]:
        request = way is Way.REQUEST
        hidden = "readOnly" if request else "writeOnly"
        were = {name: nodes for name, nodes in old.properties.items() if not self._marked("before", nodes, hidden)}
        now = {name: nodes for name, nodes in new.properties.items() if not self._marked("after", nodes, hidden)}
        for name in sorted(were):
            if name in now:
                yield f".{name}", self._number(were[name], now[name], way)
            elif new.extra is not None and not new.closed and request:
                yield f".{name}", self._number(were[name], new.extra, way)
            else:
                yield Difference("property-removed", f".{name}", f"property {name!r} was removed", name)
        if request:
            for name in sorted(new.required - old.required):
                if name in new.properties and name not in now:
                    continue
                said = "is required now" if name in were else "is new and required"
                yield Difference("property-required", f".{name}", f"property {name!r} {said}", name)
            if new.closed and not old.closed:
                yield Difference("closed", "", "properties that are not listed are no longer accepted")
        else:
            for name in sorted(old.required - new.required):
                if name in now or (name not in were and name not in old.properties):
                    yield Difference("property-optional", f".{name}", f"property {name!r} may be missing now", name)
        if old.extra is not None and new.extra is not None:
            yield ".*", self._number(old.extra, new.extra, way)
        elif request and new.extra is not None and not new.closed and not old.closed:
            yield ".*", self._number((True,), new.extra, way)

    def _targets(self, side: str, nodes: Nodes) -> Nodes:
        """What bare references stand for, so that a schema is known again wherever it is referred to."""
        found = []
        for node in nodes:
            here = node
            for _ in range(32):
                if not (isinstance(here, Mapping) and len(here) == 1 and "$ref" in here):
                    break
                here = pointer(self._documents[side], here["$ref"])
            found.append(here)
        return tuple(found)

    def _step(self) -> None:
        self._steps += 1
        if self._steps > MOST_STEPS:
            raise Invalid("OpenAPI document", f"over {MOST_STEPS} schemas in schemas", "documents with fewer of them")

    def _marked(self, side: str, nodes: Nodes, mark: str) -> bool:
        return any(flat.get(mark) is True for node in nodes for flat in self._all_of(side, node, ()))

    def _all_of(self, side: str, node: Any, seen: tuple[int, ...]) -> Iterator[Mapping[str, Any]]:
        if not isinstance(node, Mapping) or id(node) in seen:
            return
        self._step()
        yield node
        seen = (*seen, id(node))
        if "$ref" in node:
            yield from self._all_of(side, pointer(self._documents[side], node["$ref"]), seen)
        for part in _listed(node.get("allOf")):
            yield from self._all_of(side, part, seen)

    def _flat(self, side: str, nodes: Nodes) -> tuple[_Flat, ...]:
        flats: tuple[_Flat, ...] = (_Flat(),)
        for node in nodes:
            flats = self._narrowed(side, flats, node, ())
        return flats

    def _narrowed(self, side: str, flats: tuple[_Flat, ...], node: Any, seen: tuple[int, ...]) -> tuple[_Flat, ...]:
        """The alternatives, with all that one more schema says."""
        self._step()
        if node is False:
            return (_Flat(never=True),)
        if not isinstance(node, Mapping) or id(node) in seen:
            return flats  # True, or one that contains itself, which says no more
        seen = (*seen, id(node))
        if "$ref" in node:
            flats = self._narrowed(side, flats, pointer(self._documents[side], node["$ref"]), seen)
            if self._old_style[side]:
                return flats
        for part in _listed(node.get("allOf")):
            flats = self._narrowed(side, flats, part, seen)
        for keyword in ("anyOf", "oneOf"):
            variants = _listed(node.get(keyword))
            if variants:
                each = (flat for variant in variants for flat in self._narrowed(side, flats, variant, seen))
                flats = tuple(flat for flat in each if not flat.never) or (_Flat(never=True),)
                if len(flats) > MOST_VARIANTS:
                    raise Invalid(f"schema with {keyword}", f"{len(flats)} combinations", f"at most {MOST_VARIANTS}")
        types = _types(node, self._old_style[side])
        alone = [_alone(flat, kind) for flat in flats for kind in types]
        met = tuple(_with(flat, node) for flat in alone if not flat.never)
        return met or (_Flat(never=True),)


def _way_to(steps: Sequence[tuple[int, int, str]], at: int) -> str:
    path: list[str] = []
    while at >= 0:
        _, at, part = steps[at]
        path.append(part)
    return "".join(reversed(path))


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _types(node: Mapping[str, Any], old_style: bool) -> tuple[str | None, ...]:
    given = node.get("type")
    types: list[str | None] = (
        [str(kind) for kind in given] if isinstance(given, list) else [str(given)] if given else []
    )
    if not types:
        values = node["enum"] if isinstance(node.get("enum"), list) else [node["const"]] if "const" in node else []
        types = list(dict.fromkeys(_type_of(value) for value in values))
    if types and old_style and node.get("nullable") is True and "null" not in types:
        types.append("null")
    return tuple(dict.fromkeys(types)) or (None,)


def _type_of(value: object) -> str:
    if value is None:
        return "null"
    kinds = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array"}
    return kinds.get(type(value), "object")


def _type_within(inner: str | None, outer: str | None) -> bool:
    return outer is None or inner == outer or (inner, outer) == ("integer", "number")


def _alone(flat: _Flat, kind: str | None) -> _Flat:
    """An alternative that is also of a type: of the narrower one of both."""
    if _type_within(flat.type, kind):
        return flat
    return replace(flat, type=kind) if _type_within(kind, flat.type) else _Flat(never=True)


def canonical(value: object) -> str:
    """A value as text that is the same for equal values: 1 and 1.0 are."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, sort_keys=True, default=str)


def _with(flat: _Flat, node: Mapping[str, Any]) -> _Flat:
    # A keyword of strings says nothing of null, so it must not be found to differ there.
    if flat.type is not None:
        own_keywords = _ONLY.get("number" if flat.type == "integer" else flat.type, ())
        node = {key: value for key, value in node.items() if key not in _TYPED or key in own_keywords}
    enums = [[canonical(value) for value in node["enum"]]] if isinstance(node.get("enum"), list) else []
    enums += [[canonical(node["const"])]] if "const" in node else []
    kept = flat.enum
    for values in enums:
        # Those of this alternative's own type; null of a nullable enum belongs to the alternative that is null.
        mine = tuple(
            value for value in values if flat.type is None or _type_within(_type_of(json.loads(value)), flat.type)
        )
        kept = mine if kept is None else tuple(value for value in kept if value in mine)
    bounds = dict(flat.bounds)
    for keyword, bound in _bounds_of(node):
        known = bounds.get(keyword, bound)
        bounds[keyword] = min(known, bound) if keyword in _UPPER else max(known, bound)
    properties = dict(flat.properties)
    for name, schema in node["properties"].items() if isinstance(node.get("properties"), Mapping) else ():
        properties[str(name)] = (*properties.get(str(name), ()), schema)
    extra = node.get("additionalProperties")
    said = "additionalProperties" in node and extra is not False
    multiple = node.get("multipleOf")
    opaque = {keyword: canonical(node[keyword]) for keyword in _OPAQUE if keyword in node}
    if isinstance(multiple, int | float) and not isinstance(multiple, bool):
        opaque["multipleOf"] = canonical(multiple)
    for keyword in opaque.keys() & flat.opaque.keys():
        opaque[keyword] += flat.opaque[keyword]
    return replace(
        flat,
        enum=kept,
        bounds=bounds,
        patterns=flat.patterns | ({str(node["pattern"])} if "pattern" in node else set()),
        format=str(node["format"]) if "format" in node else flat.format,
        unique=flat.unique or node.get("uniqueItems") is True,
        items=(*flat.items, node["items"]) if "items" in node else flat.items,
        properties=properties,
        required=flat.required | {str(name) for name in _listed(node.get("required"))},
        extra=(*(flat.extra or ()), extra) if said else flat.extra,
        closed=flat.closed or extra is False,
        opaque={**flat.opaque, **opaque},
        never=flat.never or kept == (),
    )


def _bounds_of(node: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for keyword in (*_UPPER, *_LOWER):
        bound = node.get(keyword)
        if isinstance(bound, bool) or not isinstance(bound, int | float):
            continue
        # OpenAPI 3.0 says by a flag beside `maximum` that the bound itself is not allowed.
        name = f"exclusive{keyword[0].upper()}{keyword[1:]}"
        yield (name if node.get(name) is True else keyword), bound


def _differences(value: _Flat, other: _Flat, request: bool) -> Iterator[Difference]:
    """What of one alternative is outside of another of its type, its parts aside."""
    yield from _enums(value, other, request)
    if value.enum is None:
        yield from _bounds(value, other, request)
        for pattern in sorted(other.patterns - value.patterns):
            said = "must match the pattern" if request else "need no longer match the pattern"
            yield Difference("pattern-changed", "", f"{said} {pattern!r}")
        if other.format and other.format != value.format and (value.format, other.format) not in _WIDER_FORMATS:
            was, now = (value.format, other.format) if request else (other.format, value.format)
            yield Difference("format-changed", "", f"format is {now or 'any'}, was {was or 'any'}")
    if other.unique and not value.unique:
        yield Difference("unique-items-changed", "", f"uniqueItems is {request}, was {not request}".lower())
    for keyword in sorted(other.opaque):
        if value.opaque.get(keyword) != other.opaque[keyword]:
            yield Difference("not-comparable", "", f"{keyword!r} is not as it was, and cannot be compared")


def _enums(value: _Flat, other: _Flat, request: bool) -> Iterator[Difference]:
    if other.enum is None:
        return
    listed = ", ".join(other.enum[:10])
    if value.enum is None:
        said = f"only {listed} is accepted now" if request else f"any value may come now: it was one of {listed}"
        yield Difference("enum-changed", "", said)
        return
    for item in value.enum:
        if item not in other.enum:
            said = "is no longer accepted" if request else "may come now"
            kind = "enum-value-removed" if request else "enum-value-added"
            yield Difference(kind, "", f"enum value {item} {said}")


def _bounds(value: _Flat, other: _Flat, request: bool) -> Iterator[Difference]:
    for keyword, bound in sorted(other.bounds.items()):
        own = value.bounds.get(keyword)
        if own is not None and (own <= bound if keyword in _UPPER else own >= bound):
            continue
        if keyword in _LOWER and keyword.startswith("min") and keyword != "minimum" and bound <= 0:
            continue
        was, now = (own, bound) if request else (bound, own)
        shown = [f"{number:g}" if number is not None else "unlimited" for number in (now, was)]
        yield Difference(f"{keyword}-changed", "", f"{keyword} is {shown[0]}, was {shown[1]}")
