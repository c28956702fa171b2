"""What applications tell of their flags: which units got which variant, what they did then, what is evaluated how often."""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from typing import Any, Final

from crossfade.domain.errors import Fault, Invalid, InvalidBatch
from crossfade.domain.events import CLOCKS_DIFFER, LARGEST_VALUE, POOLS
from crossfade.domain.values import EnvKey, ReleaseNumber
from crossfade.ports import Parts
from crossfade.ports.flags import LATE, Evaluations, Exposure, Tracked
from crossfade.service.flag_serving import Serving

MOST_TOLD: Final = 1_000
"""Exposures, and tracks, of one batch."""
MOST_COUNTED: Final = 10_000
"""Counts of evaluations of one batch."""
LONGEST_NAME: Final = 200
LONGEST_TRACK: Final = 100
LONGEST_UNIT: Final = 4_000
LARGEST_COUNT: Final = 10**9
LONGEST_ATTRIBUTE: Final = 100
UNIT_BYTES: Final = 16

Told = Mapping[str, Any]


class FlagEvents:
    """Counts them. ``served`` gives the flags of an environment; ``segments`` the attributes that experiments look at."""

    def __init__(
        self,
        parts: Parts,
        served: Callable[[EnvKey], Serving],
        segments: Callable[[EnvKey], Mapping[str, frozenset[str]]],
    ) -> None:
        self._parts, self._served, self._segments = parts, served, segments

    def post(
        self,
        key: EnvKey,
        batch: str = "",
        exposures: Sequence[Told] = (),
        tracks: Sequence[Told] = (),
        usage: Sequence[Told] = (),
    ) -> dict[str, int]:
        """Count a batch, all or none; one that is sent again under its name is counted once.

        Exposures have flag, variant, unit, and may have at, release, slot, attributes; tracks have name, unit, and may have
        value, at, release, slot; usage has flag, variant, n and release. Answers how many of each counted; ``left_out`` are
        those that no experiment wanted. Raises NotFound for an environment that there is not, InvalidBatch with everything
        that is wrong, by index.
        """
        serving, now = self._served(key), self._parts.now()
        reader = _Reader(now, self._releases(key))
        for kind, many, most in (
            ("exposures", exposures, MOST_TOLD),
            ("tracks", tracks, MOST_TOLD),
            ("usage", usage, MOST_COUNTED),
        ):
            if len(many) > most:
                raise Invalid(kind, len(many), f"at most {most} in one batch")
        wanted = self._segments(key)
        exposed = [self._exposure(key, reader, f"exposures.{i}", one, wanted) for i, one in enumerate(exposures)]
        tracked = [self._tracked(key, reader, f"tracks.{i}", one) for i, one in enumerate(tracks)]
        counted = [found for i, one in enumerate(usage) if (found := reader.evaluations(f"usage.{i}", one, serving))]
        if reader.faults:
            raise InvalidBatch(reader.faults)
        # Applications of different environments may hit upon the same name.
        scope = hashlib.sha256(f"{key} {batch}".encode()).hexdigest() if batch else ""
        return asdict(self._parts.flags.take(key, scope, exposed, tracked, counted, now))

    def _exposure(
        self, key: EnvKey, reader: _Reader, place: str, one: Told, wanted: Mapping[str, frozenset[str]]
    ) -> Exposure:
        flag = reader.name(f"{place}.flag", one.get("flag"))
        given = one.get("attributes") or {}
        # Who somebody is stays with the application: only what an experiment is cut by is written down.
        attributes = {
            name: _shown(given[name])
            for name in sorted(wanted.get(flag, ()))
            if isinstance(given.get(name), str | int | float | bool)
        }
        return Exposure(
            flag,
            reader.name(f"{place}.variant", one.get("variant")),
            self.unit(key, reader.unit(f"{place}.unit", one.get("unit"))),
            reader.at(f"{place}.at", one.get("at")),
            reader.release(f"{place}.release", one.get("release")),
            reader.slot(f"{place}.slot", one.get("slot")),
            attributes,
        )

    def _tracked(self, key: EnvKey, reader: _Reader, place: str, one: Told) -> Tracked:
        return Tracked(
            reader.name(f"{place}.name", one.get("name"), LONGEST_TRACK),
            self.unit(key, reader.unit(f"{place}.unit", one.get("unit"))),
            reader.value(f"{place}.value", one.get("value")),
            reader.at(f"{place}.at", one.get("at")),
            reader.release(f"{place}.release", one.get("release")),
            reader.slot(f"{place}.slot", one.get("slot")),
        )

    def unit(self, key: EnvKey, name: str) -> bytes:
        """What is kept of a unit: nobody without this installation's secret can tell who it is, or find it elsewhere."""
        said = f"unit {key} {name}".encode("utf-8", "surrogatepass")
        return hmac.digest(self._parts.key, said, "sha256")[:UNIT_BYTES]

    def _releases(self, key: EnvKey) -> Callable[[ReleaseNumber], bool]:
        """Whether an environment has had a release."""
        store = self._parts.store
        environment = store.environment(key)
        held = {occupant.release for occupant in environment.slots.values()} if environment is not None else set()

        @cache
        def all_of_them() -> frozenset[ReleaseNumber]:
            return frozenset(release.number for release in store.releases(key))

        return lambda number: number in held or number in all_of_them()


class _Reader:
    """Takes values of a batch, and notes what is wrong with them."""

    def __init__(self, now: float, exists: Callable[[ReleaseNumber], bool]) -> None:
        self._now, self._exists = now, exists
        self.faults: list[Fault] = []

    def _wrong(self, place: str, found: object, allowed: str) -> None:
        self.faults.append(Fault(place, found, allowed))

    def name(self, place: str, found: object, longest: int = LONGEST_NAME) -> str:
        if isinstance(found, str) and 1 <= len(found) <= longest and found.isprintable():
            return found
        self._wrong(place, found, f"a name of 1 to {longest} printable characters")
        return ""

    def unit(self, place: str, found: object) -> str:
        if isinstance(found, str) and 1 <= len(found) <= LONGEST_UNIT:
            return found
        self._wrong(place, found, f"what tells units apart, 1 to {LONGEST_UNIT} characters")
        return ""

    def value(self, place: str, found: object) -> float:
        if found is None:
            return 1.0
        if isinstance(found, int | float) and not isinstance(found, bool) and abs(found) <= LARGEST_VALUE:
            return float(found)
        self._wrong(place, found, f"a number from -{LARGEST_VALUE:g} to {LARGEST_VALUE:g}")
        return 0.0

    def at(self, place: str, found: object) -> float:
        """One that is a little ahead of us is now."""
        if found is None:
            return self._now
        if isinstance(found, int | float) and not isinstance(found, bool):
            at = float(found) if abs(found) <= LARGEST_VALUE else math.inf
            if self._now - LATE <= at <= self._now + CLOCKS_DIFFER:
                return min(at, self._now)
        self._wrong(
            place, found, f"epoch seconds, at most {CLOCKS_DIFFER:g} s from now, not older than {LATE / 86_400:g} days"
        )
        return 0.0

    def release(self, place: str, found: object) -> ReleaseNumber | None:
        if found in (None, ""):
            return None
        try:
            number = ReleaseNumber.parse(str(found))
        except Invalid as error:
            self._wrong(place, found, error.fields["allowed"])
            return None
        if not self._exists(number):
            self._wrong(place, found, "a release that the environment has had")
        return number

    def slot(self, place: str, found: object) -> str:
        if found in (None, "", *POOLS):
            return str(found or "")
        self._wrong(place, found, ", ".join(POOLS))
        return ""

    def evaluations(self, place: str, one: Told, serving: Serving) -> Evaluations | None:
        """None for what says nothing: a flag or variant that there is not (any more), no release."""
        flag, variant = self.name(f"{place}.flag", one.get("flag")), one.get("variant") or ""
        release = self.release(f"{place}.release", one.get("release"))
        n = one.get("n")
        if isinstance(n, bool) or not isinstance(n, int) or not 0 <= n <= LARGEST_COUNT:
            self._wrong(f"{place}.n", n, f"a whole number from 0 to {LARGEST_COUNT}")
            return None
        if not isinstance(variant, str) or len(variant) > LONGEST_NAME:
            self._wrong(f"{place}.variant", variant, f"at most {LONGEST_NAME} characters")
            return None
        known = serving.flags.flags.get(flag)
        if known is None or release is None or n == 0 or (variant and variant not in known.variants):
            return None
        return Evaluations(flag, variant, release, n, self._now, self._now)


def _shown(value: str | float | bool) -> str:
    shown = str(value).lower() if isinstance(value, bool) else str(value)
    return shown[:LONGEST_ATTRIBUTE]
