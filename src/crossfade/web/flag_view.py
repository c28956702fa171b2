"""What the pages of flags say, from flags as data: a flag's state in words, who gets what, bars, what is wrong where.

Pure: the same data give the same words, in the pages and in the tests.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from crossfade.domain.errors import Invalid, InvalidBatch
from crossfade.domain.flags.audience import CODE_DEFAULT, FAILED
from crossfade.domain.flags.model import TARGETING_KEY
from crossfade.domain.values import FULL, ReleaseNumber
from crossfade.web import flag_words as words

Data = Mapping[str, Any]

TONES: Final = 5
"""Shades that variants are told apart by in a bar; the words below it name them all."""
STATES: Final = ("killed", "ramping", "paused", "on", "off")
SAID: Final = {
    "killed": "killed",
    "ramping": "ramping",
    "paused": "paused",
    "on": "on",
    "off": "switched off",
}
MOVES_SHOWN: Final = 12
EXAMPLES_SHOWN: Final = 12
FAILED_SAID: Final = "an error"


class Given(dict[str, Any]):
    """What somebody gave; what they did not is None."""

    def __missing__(self, name: str) -> None:
        return None


@dataclass(frozen=True, slots=True)
class Piece:
    """One part of a bar; ``at`` and ``wide`` in basis points. ``tone`` is `rest`, or a shade's number."""

    name: str
    tone: str
    at: int
    wide: int


@dataclass(frozen=True, slots=True)
class RuleView:
    """One rule in its order. ``state`` is serves, paused, waits (for its time) or over."""

    number: int
    name: str
    state: str
    when: str
    serves: str
    bar: tuple[Piece, ...]
    since: float | None
    until: float | None
    moves: bool


@dataclass(frozen=True, slots=True)
class FlagView:
    """A flag as it is shown. ``bar`` is what somebody gets for whom no rule asks anything special."""

    key: str
    name: str
    state: str
    headline: str
    bar: tuple[Piece, ...]
    rules: tuple[RuleView, ...]
    variants: tuple[tuple[str, str, str], ...]
    data: Data
    ours: Data

    @property
    def off(self) -> str | None:
        """The variant that everybody gets while it is killed."""
        return self.ours.get("off") or self.data.get("defaultVariant")


def tones(data: Data) -> dict[str, str]:
    """A shade for each variant; the one that is served while the flag is off is the ground of every bar."""
    off = data.get("crossfade", {}).get("off") or data.get("defaultVariant")
    others = [name for name in data["variants"] if name != off]
    return {**{name: str(i % TONES) for i, name in enumerate(others)}, **({off: "rest"} if off else {})}


def bar(shares: Mapping[str, int], tones: Mapping[str, str]) -> tuple[Piece, ...]:
    """Shares of variants (any whole numbers) as the parts of a bar; what is off stands last."""
    whole = sum(shares.values())
    found, at = [], 0
    for name in sorted(shares, key=lambda name: tones.get(name) == "rest"):
        wide = round(FULL * shares[name] / whole) if whole else 0
        if wide or shares[name]:
            found.append(Piece(name, tones.get(name, "0"), at, wide))
        at += wide
    return tuple(found)


def flag_view(key: str, name: str, data: Data, now: float, ramp: Data | None = None) -> FlagView:
    """A flag, with its open ramp if there is one."""
    ours = data.get("crossfade", {})
    shade = tones(data)
    rules = tuple(_rule(rule, i, shade, now) for i, rule in enumerate(ours.get("rules", ()), 1))
    state = state_of(data, ramp)
    shares = _for_everybody(data, now) if state != "killed" else {_off(data): FULL}
    return FlagView(
        key,
        name,
        state,
        _headline(data, state, shares, ramp),
        bar({name: bp for name, bp in shares.items() if name}, shade) if state != "off" else (),
        rules,
        tuple((variant, words.short(words.written(value), 200), shade[variant]) for variant, value in _variants(data)),
        Given(data),
        Given(ours),
    )


def _variants(data: Data) -> Iterable[tuple[str, Any]]:
    variants: Mapping[str, Any] = data["variants"]
    return variants.items()


def _off(data: Data) -> str:
    return data.get("crossfade", {}).get("off") or data.get("defaultVariant") or ""


def _rule(rule: Data, number: int, shade: Mapping[str, str], now: float) -> RuleView:
    since, until = rule.get("from"), rule.get("until")
    state = "serves"
    if rule.get("paused"):
        state = "paused"
    elif since is not None and now < since:
        state = "waits"
    elif until is not None and now >= until:
        state = "over"
    serve = rule["serve"]
    return RuleView(
        number,
        rule["name"],
        state,
        words.condition(rule.get("if")),
        words.serves(serve, now),
        bar(words.served(serve, now), shade),
        since,
        until,
        isinstance(serve, Mapping) and "linear" in serve,
    )


def _for_everybody(data: Data, now: float) -> dict[str, int]:
    """What the first rule that asks nothing gives; empty while targeting decides, which asks who it is."""
    for rule in data.get("crossfade", {}).get("rules", ()):
        waits = rule.get("from") is not None and now < rule["from"]
        over = rule.get("until") is not None and now >= rule["until"]
        if not rule.get("paused") and not waits and not over and rule.get("if") in (None, True):
            return words.served(rule["serve"], now)
    if data.get("targeting"):
        return {}
    return {data.get("defaultVariant") or "": FULL}


def state_of(data: Data, ramp: Data | None) -> str:
    """One of `STATES`."""
    if data["state"] != "ENABLED":
        return "off"
    if data.get("crossfade", {}).get("killed"):
        return "killed"
    if ramp is not None:
        return "paused" if ramp.get("paused") else "ramping"
    rules = data.get("crossfade", {}).get("rules", ())
    return "paused" if rules and all(rule.get("paused") for rule in rules) else "on"


def said(shares: Mapping[str, int]) -> str:
    """Shares in words: ``on to 10 %, off to 90 %``."""
    if len(shares) == 1:
        return f"everybody gets {next(iter(shares)) or 'what the code says'}"
    return ", ".join(f"{name or 'what the code says'} to {words.percent(bp)}" for name, bp in shares.items())


def _headline(data: Data, state: str, shares: Mapping[str, int], ramp: Data | None) -> str:
    others = any(rule.get("if") not in (None, True) for rule in data.get("crossfade", {}).get("rules", ()))
    to_all = said(shares) if shares else "its targeting says who gets what"
    match state:
        case "off":
            return "Switched off: everybody gets what the code says"
        case "killed":
            return f"Killed: {said(shares)}"
        case "ramping" | "paused" if ramp is not None:
            how = "Its ramp is paused" if state == "paused" else "Ramps up"
            return f"{how}: {to_all}"
        case "paused":
            return f"All of its rules are paused: {to_all}"
        case _:
            return f"On: {to_all}{', but for its rules' if others else ''}"


def rest_bar(data: Data) -> tuple[Piece, ...]:
    """What those get whom no rule is for."""
    name = data.get("defaultVariant") or ""
    return (Piece(name, tones(data).get(name, "rest"), 0, FULL),)


def unmet(flag: FlagView, release: str | None, key: object) -> str:
    """Why nobody gets what its rules say, since a release is missing; empty when it is not."""
    needs = flag.ours.get("needs")
    if not needs or flag.state in ("off", "killed"):
        return ""
    if release is not None and ReleaseNumber.parse(release) >= ReleaseNumber.parse(needs):
        return ""
    serves = f"{key} serves {release}" if release else f"nothing is live in {key}"
    return f"It needs {needs} or newer, and {serves}: who does not tell a newer release gets {flag.off or 'what the code says'}"


# --- orders


def why_not(flag: FlagView, order: str, rule: str, required_by: Sequence[str]) -> str:
    """Why an order makes no sense now; empty when it does."""
    killed, paused = bool(flag.ours.get("killed")), {one.name: one.state == "paused" for one in flag.rules}
    match order:
        case "kill" if killed:
            return "It is killed already."
        case "revive" if not killed:
            return "It is not killed."
        case "on" if flag.state != "off":
            return "It is switched on already."
        case "off" if flag.state == "off":
            return "It is switched off already."
        case "pause-rule" if paused[rule]:
            return "It is paused already."
        case "resume-rule" if not paused[rule]:
            return "It is not paused."
        case "remove" if required_by:
            return (
                f"{', '.join(required_by)} {'requires' if len(required_by) == 1 else 'require'} it: change that first."
            )
        case _:
            return ""


def what_happens(flag: FlagView, order: str, rule: str, approval: str | None) -> list[str]:
    """What an order will do, in sentences."""
    off = flag.off or "what the code says"
    at_once = "Every client is told at once; those of a server follow within a second."
    match order:
        case "kill":
            said = [f"Everybody gets {off}, whatever its rules say.", at_once, "It waits for nobody's approval."]
        case "revive":
            said = ["Its rules decide again, as before it was killed.", at_once]
        case "on":
            said = ["Its rules decide again.", at_once]
        case "off":
            said = ["Everybody gets what the code says by itself: not a variant of the flag.", at_once]
            said.append(f"To serve {off} to everybody, kill it instead.")
        case "pause-rule":
            said = [f"Rule {rule} is passed over: those it was for go on to what comes behind it.", at_once]
        case "resume-rule":
            said = [f"Rule {rule} decides again, in its place.", at_once]
        case _:
            said = ["Who asks for it is told that there is no such flag, and gets what the code says.", at_once]
            said.append("Its versions stay: it can be put back from them.")
    if approval:
        return [f"Somebody else with the role {approval} has to approve it first. Then:", *said]
    return said


# --- what differs


def places(before: Data, after: Data) -> list[dict[str, str]]:
    """What differs by place, flags and what they share, as rows with the ``flag`` that each is about."""
    rows = []
    for place in sorted({*before, *after}):
        was, will = before.get(place), after.get(place)
        kind, _, name = place.partition("/")
        if kind == "flags":
            rows += [{**one, "flag": name} for one in words.differences(was, will)]
        else:
            what = f"{kind.strip('$').removesuffix('s')} {name}".strip()
            rows.append({"flag": "", "what": what, "before": shown(was), "after": shown(will)})
    return rows


def documents(old: Data, new: Data) -> list[dict[str, str]]:
    """What differs between two flag sets, as documents."""
    return places(_apart(old), _apart(new))


def _apart(document: Data) -> dict[str, Any]:
    found = {f"flags/{name}": data for name, data in document.get("flags", {}).items()}
    found |= {f"evaluators/{name}": logic for name, logic in document.get("$evaluators", {}).items()}
    segments = document.get("crossfade", {}).get("segments", {})
    found |= {f"segments/{name}": data for name, data in segments.items()}
    return {**found, **({"metadata": document["metadata"]} if document.get("metadata") else {})}


def as_killed(data: Data | None, other: Data | None) -> Data | None:
    """A flag's data, killed or not as another one is: what stays as it is when a flag comes from elsewhere."""
    if data is None:
        return None
    ours = {name: value for name, value in data.get("crossfade", {}).items() if name != "killed"}
    killed = (other or {}).get("crossfade", {}).get("killed")
    return {**data, "crossfade": {**ours, **({"killed": killed} if killed else {})}}


def shown(found: object) -> str:
    """A value of a difference; a dash where there is none."""
    if found is None:
        return "\N{EN DASH}"
    return words.short(found if isinstance(found, str) else words.written(found), 2000)


# --- a preview


@dataclass(frozen=True, slots=True)
class Tally:
    """One bar of a preview: how many get which variant."""

    said: str
    pieces: tuple[Piece, ...]
    counts: tuple[tuple[str, str, int], ...]


@dataclass(frozen=True, slots=True)
class Crowd:
    """Some who would ask: what they get before and after, and who moves from what to what."""

    who: str
    total: int
    moved: int
    tallies: tuple[Tally, Tally]
    moves: tuple[tuple[str, str, int], ...]


@dataclass(frozen=True, slots=True)
class Example:
    """One context, and what it gets."""

    context: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Preview:
    """Who would get what. Those who asked lately come first, when there are any."""

    crowds: tuple[Crowd, ...]
    examples: tuple[Example, ...]


def preview_of(found: Data, shade: Mapping[str, str]) -> Preview:
    """Of what the service says of a change that is not made yet."""
    crowds = [_crowd("contexts that were asked for lately", found["seen"], shade)] if found["seen"]["contexts"] else []
    crowds.append(_crowd("made-up visitors, of whom nothing is known but a key", found["made_up"], shade))
    examples = [
        Example(words.short(_context(one["context"]), 400), _gets(one["before"]), _gets(one["after"]))
        for one in found["contexts"][:EXAMPLES_SHOWN]
    ]
    return Preview(tuple(crowds), tuple(examples))


def _context(context: Data) -> str:
    """On one line, who it is first."""
    first = {name: context[name] for name in (TARGETING_KEY,) if name in context}
    return json.dumps({**first, **context}, ensure_ascii=False)


def _crowd(who: str, found: Data, shade: Mapping[str, str]) -> Crowd:
    moves = [(named(one["from"]), named(one["to"]), int(one["n"])) for one in found["moves"][:MOVES_SHOWN]]
    tallies = (_tally("now", found["before"], shade), _tally("then", found["after"], shade))
    return Crowd(who, found["contexts"], found["moved"], tallies, tuple(moves))


def _tally(said: str, counts: Mapping[str, int], shade: Mapping[str, str]) -> Tally:
    pieces = bar(counts, shade)
    return Tally(said, pieces, tuple((named(piece.name), piece.tone, counts[piece.name]) for piece in pieces))


def named(variant: str | None) -> str:
    """A variant, or what there is in its place."""
    return {CODE_DEFAULT: "what the code says", FAILED: FAILED_SAID}.get(variant or CODE_DEFAULT, variant or "")


def _gets(evaluation: Data) -> str:
    return FAILED_SAID if evaluation.get("error") else named(evaluation.get("variant"))


def context_of(text: str) -> dict[str, Any]:
    """A context as a person types it. Raises Invalid."""
    try:
        found = json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError):
        raise Invalid("context", text, 'JSON, such as {"targetingKey": "ada", "country": "de"}') from None
    if not isinstance(found, dict):
        raise Invalid("context", text, "an object, in braces")
    return found


# --- what is wrong where


def faults_of(error: Invalid) -> list[tuple[str, str]]:
    """Each fault of an error with its place in the data, in a sentence."""
    if isinstance(error, InvalidBatch):
        return [
            (fault.place, f"{words.short(repr(fault.found), 80)} is not allowed; allowed: {fault.allowed}.")
            for fault in error.faults
        ]
    place = str(error.fields.get("place", ""))
    return [(place, str(error))]
