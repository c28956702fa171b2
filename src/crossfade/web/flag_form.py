"""The targeting editor's form: a flag's data as fields that a person fills in, and fields as a flag's data.

What the form has no fields for stays as it is, in a field of its own as JSON. Nothing is lost by opening a flag here and
saving it again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, Final, TypeVar

from crossfade.domain.errors import Invalid
from crossfade.domain.flags.model import Split
from crossfade.domain.flags.split import reallocate
from crossfade.domain.values import FULL
from crossfade.web.flag_conditions import OPERATORS, Condition, When, logic_of_when, when_of
from crossfade.web.flag_words import shares, written
from crossfade.web.pages import plain

Data = Mapping[str, Any]
Fields = Mapping[str, str]
T = TypeVar("T")

MOST_ROWS: Final = 50
"""Variants, rules, conditions of a rule, prerequisites: what a form has fields for. More is written as a file."""
EVERYBODY: Final = When()
BY: Final = "targetingKey"
HANDLED: Final = ("state", "variants", "defaultVariant", "crossfade")
_OURS: Final = ("description", "owner", "tags", "permanent", "off", "killed", "needs", "requires", "seed", "rules")
RULE_FIELDS: Final = (
    "name",
    "segment",
    "json",
    "serve",
    "shares",
    "rest",
    "by",
    "start",
    "end",
    "begins",
    "ends",
    "since",
    "until",
)
_PERCENT: Final = re.compile(r"\d{1,3}(?:[.,]\d{1,2})?")
_IN_RULE: Final = re.compile(r"crossfade\.rules\[(\d{1,3})\]\.?(.*)", re.DOTALL)
_IN_REQUIRES: Final = re.compile(r"crossfade\.requires\[(\d{1,3})\]")
_FIELDS: Final = frozenset(("description", "owner", "tags", "off", "needs", "requires", "seed", "rules", "variants"))
_ACT: Final = re.compile(r"(add|remove|up|down)-(variant|rule|condition|require)(?:-(\d{1,2}))?(?:-(\d{1,2}))?")


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a field, by its name; an empty one: with the flag."""

    field: str
    text: str


@dataclass(frozen=True, slots=True)
class VariantRow:
    """A variant's name, and its value as JSON."""

    name: str = ""
    value: str = ""


@dataclass(frozen=True, slots=True)
class RequireRow:
    """Another flag, and which of its variants this one wants, by commas."""

    flag: str = ""
    variants: str = ""


@dataclass(frozen=True, slots=True)
class RuleForm:
    """One rule. ``serve`` is `variant:on`, `split`, `linear`, or `other` with ``other`` as JSON.

    ``shares`` are percentages as text by variant; ``slices`` the buckets that a split had given out, as JSON: what it gives
    out next is taken from the rest only.
    """

    name: str = ""
    when: When = EVERYBODY
    serve: str = ""
    by: str = BY
    shares: Mapping[str, str] = field(default_factory=dict)
    rest: str = ""
    slices: str = "{}"
    variant: str = ""
    start: str = "0"
    end: str = "100"
    begins: str = ""
    ends: str = ""
    since: str = ""
    until: str = ""
    paused: bool = False


@dataclass(frozen=True, slots=True)
class FlagForm:
    """The whole form, as it was filled in."""

    name: str = ""
    description: str = ""
    owner: str = ""
    tags: str = ""
    permanent: bool = False
    variants: tuple[VariantRow, ...] = (VariantRow("on", "true"), VariantRow("off", "false"))
    default: str = "off"
    off: str = ""
    needs: str = ""
    requires: tuple[RequireRow, ...] = ()
    seed: str = ""
    rules: tuple[RuleForm, ...] = ()
    rest: str = "{}"
    expects: str = ""
    note: str = ""

    @property
    def names(self) -> list[str]:
        """Of its variants, as far as they have one."""
        return [row.name for row in self.variants if row.name]


# --- a flag as a form


def form_of(name: str, data: Data, expects: int) -> FlagForm:
    """The form of a flag as it is now."""
    ours = data.get("crossfade", {})
    rest = {key: value for key, value in data.items() if key not in HANDLED}
    more = {key: value for key, value in ours.items() if key not in _OURS}
    return FlagForm(
        name=name,
        description=ours.get("description", ""),
        owner=ours.get("owner", ""),
        tags=", ".join(ours.get("tags", ())),
        permanent=bool(ours.get("permanent", False)),
        variants=tuple(VariantRow(key, _pretty(value)) for key, value in data["variants"].items()),
        default=data.get("defaultVariant") or "",
        off=ours.get("off") or "",
        needs=ours.get("needs") or "",
        requires=tuple(RequireRow(one["flag"], ", ".join(one["variants"])) for one in ours.get("requires", ())),
        seed=ours.get("seed") or "",
        rules=tuple(_rule_form(rule) for rule in ours.get("rules", ())),
        rest=_pretty({**rest, **({"crossfade": more} if more else {})}),
        expects=str(expects),
    )


def _rule_form(rule: Data) -> RuleForm:
    found = RuleForm(
        name=rule["name"],
        when=when_of(rule.get("if")),
        since=stamp(rule.get("from")),
        until=stamp(rule.get("until")),
        paused=bool(rule.get("paused", False)),
    )
    match rule["serve"]:
        case {"split": split}:
            given = {name: _percent(bp) for name, bp in shares(split).items() if name != split["rest"]}
            slices = json.dumps(split["shares"])
            by = split.get("by", BY)
            return replace(found, serve="split", by=by, shares=given, rest=split["rest"], slices=slices)
        case {"linear": way}:
            return replace(
                found,
                serve="linear",
                by=way.get("by", BY),
                variant=way["variant"],
                rest=way["rest"],
                start=_percent(way.get("from", 0)),
                end=_percent(way.get("to", FULL)),
                begins=stamp(way["begins"]),
                ends=stamp(way["ends"]),
            )
        case str() as variant:
            return replace(found, serve=f"variant:{variant}")
        case _:
            raise Invalid("rule", rule["serve"], "a variant, a split or a linear ramp")


def _pretty(value: object) -> str:
    """JSON on one line while it is short."""
    line = written(value)
    return line if len(line) <= 60 else written(value, 2)


def _percent(bp: int) -> str:
    return f"{bp / 100:g}"


def stamp(at: float | None) -> str:
    """Epoch seconds as a field for day and time holds them, in UTC."""
    return "" if at is None else f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%S}"


# --- what was sent as a form


def read_form(fields: Fields) -> FlagForm:
    """The form that was sent, whatever is wrong with it."""

    def text(name: str) -> str:
        return fields.get(name, "").replace("\r\n", "\n").strip()

    variants = [VariantRow(text(f"variant-{i}-name"), text(f"variant-{i}-value")) for i in _rows(fields, "variant")]
    names = [row.name for row in variants]
    requires = [RequireRow(text(f"require-{i}-flag"), text(f"require-{i}-variants")) for i in _rows(fields, "require")]
    return FlagForm(
        name=text("name"),
        description=text("description"),
        owner=text("owner"),
        tags=text("tags"),
        permanent="permanent" in fields,
        variants=tuple(variants),
        default=text("default"),
        off=text("off"),
        needs=text("needs"),
        requires=tuple(requires),
        seed=text("seed"),
        rules=tuple(_read_rule(fields, i, names) for i in _rows(fields, "rule")),
        rest=text("rest") or "{}",
        expects=text("expects"),
        note=text("note"),
    )


def _rows(fields: Fields, kind: str) -> list[int]:
    """The numbers of the rows that were sent, in their order."""
    found = (re.fullmatch(rf"{kind}-(\d{{1,2}})-(?:name|flag|attribute)", name) for name in fields)
    return sorted({int(match[1]) for match in found if match is not None})[:MOST_ROWS]


def _read_rule(fields: Fields, i: int, names: Sequence[str]) -> RuleForm:
    def text(name: str) -> str:
        return fields.get(f"rule-{i}-{name}", "").replace("\r\n", "\n").strip()

    lines = _rows(
        {name.removeprefix(f"rule-{i}-"): "" for name in fields if name.startswith(f"rule-{i}-")}, "condition"
    )
    conditions = [
        Condition(*(text(f"condition-{j}-{part}") for part in ("attribute", "operator", "value"))) for j in lines
    ]
    return RuleForm(
        name=text("name"),
        when=When(text("segment"), tuple(conditions), text("json"), text("how") != "json"),
        serve=text("serve"),
        by=text("by") or BY,
        shares={name: text(f"share-{j}") for j, name in enumerate(names) if text(f"share-{j}")},
        rest=text("rest"),
        slices=text("slices") or "{}",
        variant=text("variant"),
        start=text("start"),
        end=text("end"),
        begins=text("begins"),
        ends=text("ends"),
        since=text("since"),
        until=text("until"),
        paused=f"rule-{i}-paused" in fields,
    )


def act(form: FlagForm, order: str) -> FlagForm:
    """The form after one of its own buttons, such as `add-rule` or `up-rule-2`. An unknown one does nothing."""
    match = _ACT.fullmatch(order)
    if match is None:
        return form
    what, kind, at = match[1], match[2], int(match[3] or 0)
    match kind:
        case "variant":
            return replace(form, variants=_moved(form.variants, what, at, VariantRow()))
        case "require":
            return replace(form, requires=_moved(form.requires, what, at, RequireRow()))
        case "rule":
            first = form.names[0] if form.names else ""
            other = next((name for name in form.names if name != first), first)
            fresh = RuleForm(name=_fresh(form.rules), serve=f"variant:{first}", rest=other, variant=first)
            return replace(form, rules=_moved(form.rules, what, at, fresh))
        case _:
            if at >= len(form.rules):
                return form
            rule = form.rules[at]
            conditions = _moved(rule.when.conditions, what, int(match[4] or 0), Condition())
            changed = replace(rule, when=replace(rule.when, conditions=conditions))
            return replace(form, rules=(*form.rules[:at], changed, *form.rules[at + 1 :]))


def _fresh(rules: Iterable[RuleForm]) -> str:
    taken = {rule.name for rule in rules}
    return next(name for n in range(1, MOST_ROWS + 2) if (name := f"rule-{n}") not in taken)


def _moved(rows: tuple[T, ...], what: str, at: int, fresh: T) -> tuple[T, ...]:
    found = list(rows)
    if what == "add":
        return (*found, fresh) if len(found) < MOST_ROWS else rows
    if at >= len(found):
        return rows
    one = found.pop(at)
    if what != "remove":
        found.insert(max(0, at + (-1 if what == "up" else 1)), one)
    return tuple(found)


# --- a form as a flag


def data_of(form: FlagForm, now: Data | None) -> tuple[dict[str, Any], list[Problem]]:
    """The flag's data, as far as it can be understood, and what can not. ``now`` is the flag as it is, for its state."""
    problems: list[Problem] = []
    rest = _object(form.rest, "rest", problems)
    more = rest.pop("crossfade", {})
    if not isinstance(more, Mapping):
        problems.append(Problem("rest", "crossfade is no object."))
        more = {}
    for place, given, known in (("", rest, HANDLED), ("crossfade.", more, _OURS)):
        problems += [
            Problem("rest", f"{place}{key} has fields above: change it there.") for key in given if key in known
        ]
    was = (now or {}).get("crossfade", {})
    ours: dict[str, Any] = {
        "description": _as_it_was(form.description, was.get("description")),
        "owner": _as_it_was(form.owner, was.get("owner")),
        "tags": _words(form.tags),
        "permanent": form.permanent,
        "off": form.off,
        "killed": was.get("killed"),
        "needs": form.needs,
        "requires": [{"flag": row.flag, "variants": _words(row.variants)} for row in form.requires if row.flag],
        "seed": _as_it_was(form.seed, was.get("seed")),
        "rules": [_rule(rule, i, problems) for i, rule in enumerate(form.rules)],
        **more,
    }
    found = {
        "state": (now or {}).get("state", "ENABLED"),
        "variants": _variants(form, problems),
        **({"defaultVariant": form.default} if form.default or not now else {}),
        **rest,
    }
    kept = {key: value for key, value in ours.items() if value not in ("", None, False) and value != []}
    return {**found, **({"crossfade": kept} if kept else {})}, problems


def _as_it_was(sent: str, was: str | None) -> str:
    """A text that was sent; one that was shown without the marks that turn its direction, and not changed, keeps them."""
    return was if was is not None and plain(was).strip() == sent else sent


def placed(problems: Sequence[Problem], form: FlagForm) -> list[Problem]:
    """The same; one whose field the form does not show is the flag's."""
    fields = {"", "name", "description", "owner", "tags", "variants", "default", "off", "rules", "needs", "seed"}
    fields |= {"requires", "rest", "contexts"}
    fields |= {f"variant-{i}-{part}" for i in range(len(form.variants)) for part in ("name", "value")}
    fields |= {f"require-{i}-flag" for i in range(len(form.requires))}
    for i, rule in enumerate(form.rules):
        fields |= {f"rule-{i}-{part}" for part in RULE_FIELDS}
        fields |= {f"rule-{i}-condition-{j}-attribute" for j in range(len(rule.when.conditions))}
    return [one if one.field in fields else Problem("", one.text) for one in problems]


def _variants(form: FlagForm, problems: list[Problem]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for i, row in enumerate(form.variants):
        if not row.name and not row.value:
            continue
        if not row.name:
            problems.append(Problem(f"variant-{i}-name", "A variant has a name."))
        elif row.name in found:
            problems.append(Problem(f"variant-{i}-name", f"There are two variants {row.name}."))
        try:
            found[row.name] = json.loads(row.value, parse_constant=_no_number)
        except (ValueError, RecursionError):
            found[row.name] = row.value
            said = 'This is no JSON: a text stands in quotes, as "blue".'
            problems.append(Problem(f"variant-{i}-value", said))
    return found


def _rule(form: RuleForm, i: int, problems: list[Problem]) -> dict[str, Any]:
    def wrong(field: str, text: str) -> None:
        problems.append(Problem(f"rule-{i}-{field}", text))

    found: dict[str, Any] = {"name": form.name}
    for j, line in enumerate(form.when.conditions if form.when.simple else ()):
        if not line.attribute:
            wrong(f"condition-{j}-attribute", "Which attribute?")
        if line.operator not in OPERATORS:
            wrong(f"condition-{j}-attribute", "There is no such comparison.")
    try:
        known = tuple(line for line in form.when.conditions if line.operator in OPERATORS)
        when = logic_of_when(replace(form.when, conditions=known))
        if when is not None:
            found["if"] = when
    except (ValueError, RecursionError):
        wrong("json", "This is no JSON.")
    found["serve"] = _serve(form, wrong)
    if form.paused:
        found["paused"] = True
    for name, key, text in (("since", "from", form.since), ("until", "until", form.until)):
        at = time_of(text)
        if text and at is None:
            wrong(name, "Day and time, as 2026-03-01 14:00.")
        elif at is not None:
            found[key] = at
    return found


def _serve(form: RuleForm, wrong: Any) -> Any:
    match form.serve:
        case "split":
            return {"split": _split(form, wrong)}
        case "linear":
            begins, ends = time_of(form.begins), time_of(form.ends)
            for field, at in (("begins", begins), ("ends", ends)):
                if at is None:
                    wrong(field, "Day and time, as 2026-03-01 14:00.")
            found: dict[str, Any] = {"variant": form.variant, "rest": form.rest, "by": form.by}
            found |= {"from": _share(form.start, "start", wrong), "to": _share(form.end, "end", wrong)}
            return {"linear": {**found, "begins": begins or 0.0, "ends": ends or 1.0}}
        case _:
            return form.serve.removeprefix("variant:")


def _split(form: RuleForm, wrong: Any) -> dict[str, Any]:
    wanted = {name: _share(text, "shares", wrong) for name, text in form.shares.items() if text and name != form.rest}
    held = _slices(form.slices)
    # A variant that is not there any more gives its buckets back.
    split = Split({name: held[name] for name in wanted if name in held}, form.rest, form.by)
    if sum(wanted.values()) > FULL:
        wrong("shares", f"These are {_percent(sum(wanted.values()))} % together: at most 100 %.")
    else:
        split = reallocate(split, wanted)
    given = {name: [list(piece) for piece in pieces] for name, pieces in split.shares.items() if pieces}
    return {"by": form.by, "shares": given, "rest": form.rest}


def _slices(text: str) -> dict[str, tuple[tuple[int, int], ...]]:
    """What the form brought back of the buckets that were given out; nothing, when somebody has changed that by hand."""
    try:
        found = {
            str(name): tuple((int(begin), int(end)) for begin, end in pieces)
            for name, pieces in json.loads(text).items()
        }
    except (ValueError, TypeError, AttributeError, RecursionError):
        return {}
    taken = sorted(piece for pieces in found.values() for piece in pieces)
    fair = all(0 <= begin < end <= FULL for begin, end in taken)
    apart = all(one[1] <= other[0] for one, other in pairwise(taken))
    return found if fair and apart else {}


def _share(text: str, field: str, wrong: Any) -> int:
    if not _PERCENT.fullmatch(text) or float(text.replace(",", ".")) > 100:
        wrong(field, "A percentage from 0 to 100, with at most two decimals.")
        return 0
    return round(float(text.replace(",", ".")) * 100)


def time_of(text: str) -> float | None:
    """Epoch seconds of such a field; None for what it cannot hold."""
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() if text else None
    except ValueError:
        return None


def field_of(place: str, form: FlagForm) -> str:
    """The field in which something stands that is wrong at a place of the data; empty: in none."""
    place = place.removeprefix(f"flags.{form.name}.")
    if match := _IN_RULE.match(place):
        i, part = int(match[1]), match[2]
        if part.startswith("if"):
            simple = i < len(form.rules) and form.rules[i].when.simple
            return f"rule-{i}-segment" if simple else f"rule-{i}-json"
        last = part.rpartition(".")[2]
        if part.startswith("serve.split.shares"):
            return f"rule-{i}-shares"
        fields = {"": "name", "from": "since"} if "." not in part else {"from": "start", "to": "end"}
        return f"rule-{i}-{fields.get(last, last)}"
    if match := _IN_REQUIRES.match(place):
        sent = [i for i, row in enumerate(form.requires) if row.flag]
        at = int(match[1])
        return f"require-{sent[at]}-flag" if at < len(sent) else "requires"
    if place.startswith("variants."):
        names = [row.name for row in form.variants]
        name = next((name for name in names if place == f"variants.{name}"), None)
        return f"variant-{names.index(name)}-value" if name is not None else "variants"
    if place.startswith(("targeting", "metadata")):
        return "rest"
    ours = place.removeprefix("crossfade.").partition("[")[0].partition(".")[0]
    return {"flags": "name", "defaultVariant": "default", "": ""}.get(ours, ours if ours in _FIELDS else "")


def _words(text: str) -> list[str]:
    return [word for part in text.split(",") if (word := part.strip())]


def _object(text: str, field: str, problems: list[Problem]) -> dict[str, Any]:
    try:
        found = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError):
        problems.append(Problem(field, "This is no JSON."))
        return {}
    if not isinstance(found, dict):
        problems.append(Problem(field, "This is no object: it stands in braces."))
        return {}
    return found


def _no_number(name: str) -> object:
    raise ValueError(f"{name} is no number of JSON")
