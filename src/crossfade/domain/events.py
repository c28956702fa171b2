"""Business events that an application posts: whose they are, what is allowed, and how they are counted."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from crossfade.domain.analysis.sample import Moments
from crossfade.domain.errors import Fault, Invalid, InvalidBatch
from crossfade.domain.values import EnvKey, ReleaseNumber

MOST_NAMES: Final = 50
"""Names of events that one release may have in one environment."""

MOST_EVENTS: Final = 1000
"""Events of one batch."""

BATCHES_KEPT: Final = 10_000
"""Names of batches that are remembered, so that one that is sent again is not counted again."""

LARGEST_VALUE: Final = 1e12
CLOCKS_DIFFER: Final = 300.0
"""Seconds by which the clock of whoever posts may be ahead."""

POOLS: Final = ("blue", "green", "control")
NAME: Final = re.compile(r"[a-z][a-z0-9_.-]{0,39}")

_NOWHERE: Final = EnvKey("nowhere", "nowhere")
_NONE: Final = ReleaseNumber(1)

Tallies = dict[tuple[EnvKey, ReleaseNumber, str, str], Moments]


@dataclass(frozen=True, slots=True)
class Posted:
    """An event as it was posted. ``slot`` (see `POOLS`) or ``release``, or both, say whose it is; ``at`` is epoch s."""

    key: EnvKey
    name: str
    value: float = 1.0
    slot: str = ""
    release: ReleaseNumber | None = None
    at: float | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """One value of a release. ``pool`` is empty when nobody said where it came from."""

    key: EnvKey
    release: ReleaseNumber
    pool: str
    name: str
    value: float


@dataclass(frozen=True, slots=True)
class Held:
    """What a slot holds now: the release, and since when (epoch seconds)."""

    release: ReleaseNumber
    since: float


@dataclass(frozen=True, slots=True)
class Ledger:
    """What is known of the environments that events are posted for.

    ``slots``: what each pool of an environment holds now. ``exists``: whether it has had such a release.
    """

    slots: Mapping[EnvKey, Mapping[str, Held]]
    exists: Callable[[EnvKey, ReleaseNumber], bool]


def parse(batch: Sequence[Mapping[str, Any]]) -> tuple[Posted, ...]:
    """Events from their fields: service, environment, name (text), value (number), slot, release (text, may be empty)

    and at (a number or None). Raises InvalidBatch with everything that is wrong in itself, by index.
    """
    faults: list[Fault] = []
    posted = []
    for i, one in enumerate(batch):
        try:
            key = EnvKey(one["service"], one["environment"])
            release = ReleaseNumber.parse(one["release"]) if one["release"] else None
        except Invalid as error:
            faults.append(Fault(f"events.{i}.{error.fields['place']}", error.fields["found"], error.fields["allowed"]))
            key, release = _NOWHERE, _NONE
        posted.append(Posted(key, one["name"], float(one["value"]), one["slot"], release, one["at"]))
        faults += _wrong(f"events.{i}", posted[-1])
    if faults:
        raise InvalidBatch(faults)
    return tuple(posted)


def _wrong(place: str, one: Posted) -> Iterator[Fault]:
    if not NAME.fullmatch(one.name):
        yield Fault(f"{place}.name", one.name, "1 to 40 of a-z, 0-9, '_', '.' and '-', beginning with a letter")
    if not (math.isfinite(one.value) and abs(one.value) <= LARGEST_VALUE):
        yield Fault(f"{place}.value", one.value, f"a number from -{LARGEST_VALUE:g} to {LARGEST_VALUE:g}")
    if one.slot and one.slot not in POOLS:
        yield Fault(f"{place}.slot", one.slot, ", ".join(POOLS))
    if not one.slot and one.release is None:
        yield Fault(place, "neither slot nor release", "one of them, as the request's headers or the replica's env say")


def attribute(posted: Sequence[Posted], known: Ledger, now: float) -> tuple[Event, ...]:
    """Each event with the release that it belongs to: the one it names, else the one in its slot now.

    Raises InvalidBatch with every event that belongs to none, by index.
    """
    faults = [fault for i, one in enumerate(posted) for fault in _homeless(f"events.{i}", one, known, now)]
    if faults:
        raise InvalidBatch(faults)
    events = []
    for one in posted:
        release = one.release or known.slots[one.key][one.slot].release
        events.append(Event(one.key, release, one.slot, one.name, one.value))
    return tuple(events)


def _homeless(place: str, one: Posted, known: Ledger, now: float) -> Iterator[Fault]:
    if one.at is not None and not 0 <= one.at <= now + CLOCKS_DIFFER:
        yield Fault(f"{place}.at", one.at, f"epoch seconds, at most {CLOCKS_DIFFER:g} s from now")
    if one.release is not None:
        if not known.exists(one.key, one.release):
            yield Fault(f"{place}.release", str(one.release), f"a release of {one.key}")
        return
    slots = known.slots.get(one.key, {})
    held = slots.get(one.slot)
    if held is None:
        holding = ", ".join(f"{pool} ({slots[pool].release})" for pool in sorted(slots)) or "none holds any now"
        yield Fault(f"{place}.slot", one.slot, f"a slot that holds a release: {holding}")
    elif one.at is not None and one.at < held.since:
        yield Fault(f"{place}.at", one.at, f"not before {held.release} came to {one.slot}, unless it names its release")


def tally(events: Iterable[Event]) -> Tallies:
    """What events add, by environment, release, pool and name."""
    values: dict[tuple[EnvKey, ReleaseNumber, str, str], list[float]] = {}
    for event in events:
        values.setdefault((event.key, event.release, event.pool, event.name), []).append(event.value)
    return {
        place: Moments(float(len(found)), math.fsum(found), math.fsum(value * value for value in found))
        for place, found in values.items()
    }


def refuse_many_names(events: Sequence[Event], known: Mapping[tuple[EnvKey, ReleaseNumber], Iterable[str]]) -> None:
    """Raises InvalidBatch, naming the first event of each name too many. ``known`` are the names counted so far."""
    names = {place: set(found) for place, found in known.items()}
    faults = []
    for i, event in enumerate(events):
        mine = names.setdefault((event.key, event.release), set())
        if event.name not in mine and len(mine) >= MOST_NAMES:
            allowed = f"one of the {MOST_NAMES} names that {event.release} of {event.key} has used already"
            faults.append(Fault(f"events.{i}.name", event.name, allowed))
        else:
            mine.add(event.name)
    if faults:
        raise InvalidBatch(faults)
