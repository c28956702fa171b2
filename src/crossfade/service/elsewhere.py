"""Objectives whose requests and errors a source elsewhere counts (Prometheus, say), each read by a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from crossfade.domain.analysis.policy import Shape, Source
from crossfade.domain.analysis.totals import Totals, since
from crossfade.domain.environment import Environment
from crossfade.domain.errors import CrossfadeError
from crossfade.domain.release import ReleaseConfig
from crossfade.domain.slo import Counted, Objective, Series
from crossfade.domain.values import EnvKey
from crossfade.ports import Parts
from crossfade.service.outside import Asker

EVERY: Final = 5.0
"""Seconds between two readings of a source."""
LONGEST: Final = 60.0
"""Seconds that may lie between two readings; of a longer time nothing is known: it may have begun anew twice."""

Name = tuple[EnvKey, str]
"""An environment, and the name of its objective."""


@dataclass(slots=True)
class _Told:
    """What a source is asked for an objective, what it has said so far, and when."""

    objective: Objective
    source: Source | None
    arm: Mapping[str, str]
    known: Totals | None = None
    at: float = 0.0
    trouble: str = ""


class Elsewhere:
    """Reads what objectives with a `signal` are counted by."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._lock = threading.Lock()
        self._told: dict[Name, _Told] = {}
        self._askers: dict[Name, Asker] = {}

    def settle(self, there: Mapping[EnvKey, tuple[Environment, ReleaseConfig]]) -> None:
        """Read what these want, and nothing else. What belongs to another release begins anew."""
        wanted: dict[Name, _Told] = {}
        for key, (environment, config) in there.items():
            for objective in config.slo.objectives:
                if not objective.signal:
                    continue
                source = next((one for one in config.analysis.sources if one.name == objective.signal), None)
                arm = {
                    "service": key.service,
                    "environment": key.environment,
                    "slot": environment.slot.value if environment.slot is not None else "",
                    "release": str(environment.live),
                    "arm": "baseline",
                }
                wanted[key, objective.name] = _Told(objective, source, arm)
        for name in self._askers.keys() - wanted.keys():
            self._askers.pop(name).stop()
        with self._lock:
            for name in self._told.keys() - wanted.keys():
                del self._told[name]
            for name, told in wanted.items():
                known = self._told.get(name)
                if known is None or (known.objective, known.source, known.arm) != (
                    told.objective,
                    told.source,
                    told.arm,
                ):
                    self._told[name] = told
        for name in wanted.keys() - self._askers.keys():
            self._askers[name] = Asker(f"objective {name[0]} {name[1]}", lambda name=name: self.turn(name))  # type: ignore[misc]  # bound now

    def stop(self) -> None:
        for asker in self._askers.values():
            asker.stop()

    def trouble(self, key: EnvKey, objective: str) -> str:
        """Why an objective's source cannot be read; empty while it can."""
        with self._lock:
            told = self._told.get((key, objective))
            return told.trouble if told is not None else ""

    def turn(self, name: Name) -> float:
        """Read once; seconds until the next time."""
        with self._lock:
            told = self._told.get(name)
        if told is None:
            return EVERY
        if told.source is None:
            told.trouble = f"there is no source {told.objective.signal!r} in analysis.sources"
            return EVERY
        try:
            later = self._parts.sources.read(told.source, told.arm)
            at = self._parts.now()
            if told.known is not None and 0 < at - told.at <= LONGEST:
                counted = self._counted(told, later, told.known, at - told.at)
                self._parts.histories.add(Series(name[0], told.objective.name), told.at, at, counted)
            told.known, told.at, told.trouble = later.after(told.known), at, ""
        except CrossfadeError as error:
            told.trouble = error.what
        return EVERY

    @staticmethod
    def _counted(told: _Told, later: Totals, known: Totals, seconds: float) -> Counted:
        """Raises Unavailable when the counts contradict each other."""
        assert told.source is not None  # it was read
        arm = since(told.source, later, known)
        if told.source.shape is Shape.HISTOGRAM and told.objective.threshold is not None:
            histogram = arm.histograms[told.source.name]
            limit = told.objective.threshold * 1000
            # A bucket is good when all of it is: the application chose its edges, and the threshold should be one of them.
            good = sum(
                n for edge, n in zip(histogram.edges, histogram.counts, strict=False) if edge <= limit * (1 + 1e-9)
            )
            total = sum(histogram.counts)
            return Counted(total, max(0.0, total - good), seconds)
        total, bad = arm.rates.get(told.source.name, (0.0, 0.0))
        return Counted(total, bad, seconds)
