"""What an environment's clients ask for, hour by hour: how often, and which paths. For load tests at the expected peak.

Paths are kept as templates: what looks like a value of somebody's is replaced. Queries and bodies never come here: the
edge does not write them down. Whatever clients ask for, an hour of an environment has at most `MOST_PATHS` templates.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from crossfade.domain.errors import CrossfadeError
from crossfade.domain.values import EnvKey
from crossfade.ports.pipeline import Profile

MOST_PATHS: Final = 100
OTHER: Final = "other"
DAYS: Final = 30
HOUR: Final = 3600
SHORTEST: Final = 60.0
"""Seconds over which a rate is taken at least: the first requests of an environment are no peak."""
SAVED_EVERY: Final = 10.0

_NUMBER: Final = re.compile(r"-?[0-9]+")
_PLAIN: Final = re.compile(r"[A-Za-z][A-Za-z._-]{0,31}|v[0-9]{1,2}|[A-Za-z._-]{1,24}[0-9]{1,2}|\.well-known")
_METHOD: Final = re.compile(r"[A-Z]{1,10}")


def template(path: str) -> str:
    """A path with ``{n}`` for numbers and ``{id}`` for all else that could be a value: ``/books/7`` is ``/books/{n}``.

    Only segments that look like words stay. What is deeper than eight segments is cut, and ends in ``{id}``.
    """
    segments = path.split("?", 1)[0].split("/")[1:]
    found = [_segment(one) for one in segments[:8]]
    return "/" + "/".join([*found, "{id}"] if len(segments) > 8 else found)


def _segment(text: str) -> str:
    if not text or _PLAIN.fullmatch(text):
        return text
    return "{n}" if _NUMBER.fullmatch(text) else "{id}"


class Hours:
    """The profiles of all environments. Not safe for several threads: who feeds it holds a lock."""

    def __init__(self, file: Path, now: float) -> None:
        self._file, self._saved, self._dirty = file, now, False
        self._totals: dict[EnvKey, tuple[int, float]] = {}
        self._hours: dict[EnvKey, dict[int, dict[str, Any]]] = {}
        self._load()

    def count(self, key: EnvKey, total: int, now: float) -> None:
        """An environment has served so many requests in all, as the edge counts since it began."""
        before = self._totals.get(key)
        self._totals[key] = (total, now)
        if before is None or total < before[0]:
            return  # the edge has begun to count anew
        hour = self._hour(key, now)
        hour["requests"] += total - before[0]
        hour["seconds"] += min(60.0, max(0.0, now - before[1]))
        self._dirty = self._dirty or total > before[0]

    def ask(self, key: EnvKey, method: str, path: str, now: float) -> None:
        """One request of a sample."""
        if not _METHOD.fullmatch(method) or not path.startswith("/"):
            return
        paths = self._hour(key, now)["paths"]
        name = f"{method} {template(path)}"
        if name not in paths and len(paths) >= MOST_PATHS:
            name = OTHER
        paths[name] = paths.get(name, 0) + 1
        self._dirty = True

    def _hour(self, key: EnvKey, now: float) -> dict[str, Any]:
        hours = self._hours.setdefault(key, {})
        number = int(now // HOUR)
        if number not in hours:
            hours[number] = {"requests": 0, "seconds": 0.0, "paths": {}}
            for old in [one for one in hours if one < number - DAYS * 24]:
                del hours[old]
        return hours[number]

    def profile(self, key: EnvKey) -> Profile | None:
        """What is known of an environment; None when nobody has asked for anything there."""
        hours = {number: hour for number, hour in self._hours.get(key, {}).items() if hour["requests"]}
        if not hours:
            return None
        rates = {number: hour["requests"] / max(SHORTEST, hour["seconds"]) for number, hour in hours.items()}
        busiest = max(rates, key=lambda number: rates[number])
        paths: dict[str, int] = {}
        for hour in hours.values():
            for name, count in hour["paths"].items():
                paths[name] = paths.get(name, 0) + count
        asked = sum(paths.values())
        mix = {name: count / asked for name, count in sorted(paths.items(), key=lambda one: -one[1])}
        return Profile(rates[busiest], mix, len(hours), busiest * float(HOUR))

    # --- on disk

    def save(self, now: float, *, at_once: bool = False) -> None:
        """Write it down, now and then. A disk that is full costs the last hours, not the server."""
        if not self._dirty or (now - self._saved < SAVED_EVERY and not at_once):
            return
        self._saved = now
        data = {str(key): {str(n): hour for n, hour in hours.items()} for key, hours in self._hours.items()}
        fresh = self._file.with_suffix(".new")
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)
            with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(json.dumps(data, separators=(",", ":")))
            os.replace(fresh, self._file)
            self._dirty = False

    def _load(self) -> None:
        try:
            data: Mapping[str, Mapping[str, Any]] = json.loads(self._file.read_text())
            for key, hours in data.items():
                self._hours[EnvKey.parse(key)] = {
                    int(number): {
                        "requests": int(hour["requests"]),
                        "seconds": float(hour["seconds"]),
                        "paths": {str(name): int(count) for name, count in hour["paths"].items()},
                    }
                    for number, hour in hours.items()
                }
        except (OSError, ValueError, KeyError, TypeError, AttributeError, CrossfadeError):
            self._hours.clear()  # what cannot be read is begun anew
