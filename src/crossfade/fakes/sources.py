"""The twin of `signals.sources`: totals that a test writes itself."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping

from crossfade.domain.analysis.policy import Shape, Source
from crossfade.domain.analysis.totals import COUNT, ERRORS, REQUESTS, SUM, SUM_SQUARES, Totals, bucket, contradiction
from crossfade.domain.errors import CrossfadeError, Unavailable


class FakeSources:
    """`ports.Sources` in memory, by the name of a source and by arm. ``fails_with`` is raised until it is None."""

    def __init__(self) -> None:
        self.fails_with: CrossfadeError | None = None
        self._lock = threading.Lock()
        self._counters: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
        self._values: dict[tuple[str, str], float] = {}

    def set(self, source: str, arm: str, series: str = "", **fields: float) -> None:
        """The counters of one series of an arm are now these; ``value`` is the gauge."""
        with self._lock:
            if "value" in fields:
                self._values[source, arm] = fields.pop("value")
            for field, count in fields.items():
                self._counters.setdefault((source, arm), {}).setdefault(field, {})[series] = count

    def set_buckets(self, source: str, arm: str, counts: Mapping[float, float], series: str = "") -> None:
        """The cumulative counts of a histogram by upper edge in seconds, the last one infinite."""
        self.set(source, arm, series, **{bucket(edge): count for edge, count in counts.items()})

    def forget(self, source: str, arm: str, series: str = "") -> None:
        """A series vanishes, and with it the gauge."""
        with self._lock:
            self._values.pop((source, arm), None)
            for counts in self._counters.get((source, arm), {}).values():
                counts.pop(series, None)

    def read(self, source: Source, arm: Mapping[str, str]) -> Totals:
        """See `Sources.read`. ``source`` needs its shape only; its queries are not looked at."""
        if self.fails_with is not None:
            raise self.fails_with
        place = (source.name, arm["arm"])
        with self._lock:
            counters = {field: dict(series) for field, series in self._counters.get(place, {}).items()}
            value = self._values.get(place)
        if source.shape is Shape.RATE:
            counters = {field: counters.get(field, {}) for field in (REQUESTS, ERRORS)}
            needed = [REQUESTS]
        elif source.shape is Shape.HISTOGRAM:
            counters = {field: counts for field, counts in counters.items() if counts}
            needed = [bucket(math.inf)]
        elif source.value:
            if value is None:
                raise Unavailable(f"value: no series matches {source.value}.")
            counters, needed = {}, []
        else:
            needed = [COUNT, SUM, SUM_SQUARES]
        for field in needed:
            if not counters.get(field):
                raise Unavailable(f"{field}: no series matches.")
        totals = Totals(counters, value if source.value else None)
        wrong = contradiction(source, totals)
        if wrong:
            raise Unavailable(f"{source.name}: {wrong}.")
        return totals
