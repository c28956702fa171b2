"""A flag set by its places, so that a change is what is to be in some of them, and can be told, kept and put upon another set.

Places are `flags/KEY`, `segments/NAME`, `$evaluators/NAME` and `metadata`. Nothing in a place is None.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from crossfade.domain.errors import Invalid

FLAGS: Final = "flags/"
SEGMENTS: Final = "segments/"
EVALUATORS: Final = "$evaluators/"
METADATA: Final = "metadata"

LARGEST: Final = 16 * 1024 * 1024
"""Characters of a flag set as JSON."""

Places = dict[str, Any]


def apart(document: Mapping[str, Any]) -> Places:
    """The places of a flag set that is as `domain.flags.document` writes it."""
    places = {f"{FLAGS}{name}": data for name, data in document.get("flags", {}).items()}
    places |= {f"{EVALUATORS}{name}": data for name, data in document.get("$evaluators", {}).items()}
    segments = document.get("crossfade", {}).get("segments", {})
    places |= {f"{SEGMENTS}{name}": data for name, data in segments.items()}
    if document.get("metadata"):
        places[METADATA] = document["metadata"]
    return places


def together(places: Mapping[str, Any]) -> dict[str, Any]:
    """The flag set that has these places."""
    document: dict[str, Any] = {"flags": dict(_below(FLAGS, places))}
    evaluators, segments = dict(_below(EVALUATORS, places)), dict(_below(SEGMENTS, places))
    if evaluators:
        document["$evaluators"] = evaluators
    if places.get(METADATA):
        document["metadata"] = places[METADATA]
    if segments:
        document["crossfade"] = {"segments": segments}
    return document


def changed(places: Mapping[str, Any], after: Mapping[str, Any]) -> Places:
    """The places once some of them are what ``after`` says."""
    made = {**places, **after}
    return {place: data for place, data in made.items() if data is not None}


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Places:
    """What has to be where, to come from one to the other."""
    return {place: new.get(place) for place in sorted({*old, *new}) if not same(old.get(place), new.get(place))}


def same(one: Any, other: Any) -> bool:
    """As JSON, in which 1 is neither true nor 1.0."""
    if one is other:
        return True
    return bool(one == other) and json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def flags_of(places: Iterable[str]) -> tuple[str, ...]:
    """The keys of the flags among some places, in order."""
    return tuple(sorted(place.removeprefix(FLAGS) for place in places if place.startswith(FLAGS)))


def alive(data: Any) -> Any:
    """A flag's data as if it were not killed: what a change of it is compared by."""
    if not isinstance(data, Mapping) or "killed" not in data.get("crossfade", {}):
        return data
    ours = {name: value for name, value in data["crossfade"].items() if name != "killed"}
    rest = {name: value for name, value in data.items() if name != "crossfade"}
    return {**rest, "crossfade": ours} if ours else rest


def as_killed(data: Any, as_: Any) -> Any:
    """A flag's data, killed as another one is, or not: nobody revives a flag by changing it, or kills it."""
    killed = as_.get("crossfade", {}).get("killed") if isinstance(as_, Mapping) else None
    bare = alive(data)
    if killed is None or not isinstance(bare, Mapping):
        return bare
    return {**bare, "crossfade": {**bare.get("crossfade", {}), "killed": killed}}


def used(data: Any) -> tuple[set[str], set[str]]:
    """The names of segments and of evaluators that a flag's conditions refer to, directly."""
    segments: set[str] = set()
    evaluators: set[str] = set()
    for operator, name in _calls(data):
        if operator == "segment" or name.startswith("segment:"):
            segments.add(name.removeprefix("segment:"))
        else:
            evaluators.add(name)
    return segments, evaluators


def _calls(data: Any) -> Iterator[tuple[str, str]]:
    left = [data]
    while left:
        one = left.pop()
        if isinstance(one, Mapping):
            for name, value in one.items():
                if name in ("$ref", "segment") and isinstance(value, str):
                    yield name, value
                else:
                    left.append(value)
        elif isinstance(one, list | tuple):
            left += one


def plain(place: str, data: Any, largest: int = LARGEST) -> Any:
    """The same data, that can be written down as JSON. Raises Invalid."""
    try:
        text = json.dumps(data, allow_nan=False, ensure_ascii=False)
        text.encode()
    except (TypeError, ValueError, RecursionError):
        allowed = "plain JSON: whole characters, finite numbers, not nested too deeply"
        raise Invalid(place, type(data).__name__, allowed) from None
    if len(text) > largest:
        raise Invalid(place, f"{len(text)} characters", f"at most {largest} characters as JSON")
    return json.loads(text)


def _below(prefix: str, places: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    return ((place.removeprefix(prefix), data) for place, data in places.items() if place.startswith(prefix))
