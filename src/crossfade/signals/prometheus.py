"""A source of signals that is asked in PromQL: instant queries of Prometheus' HTTP API (and of what speaks it too).

The counters are read as they are, series by series, and what has happened between two readings is worked out here
(`domain.analysis.totals`): so no window of a `rate()` delays the judge, and nothing is extrapolated. All queries of a
reading are evaluated at one moment, that of the first, by the server's own clock.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from crossfade.domain.analysis.policy import Shape, Source
from crossfade.domain.analysis.totals import COUNT, ERRORS, REQUESTS, SUM, SUM_SQUARES, Totals, bucket
from crossfade.domain.errors import Unavailable
from crossfade.signals.fetch import Fetch, quote, where, within

MOST_SERIES: Final = 1000

# A plain selector, whose samples have times of their own: `name` or `name{...}`. What is in quotes may hold any
# character. Without a name it might choose several metrics, of which `timestamp` makes equal series: an error.
_TEXT = r""""(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|`[^`]*`"""
_SELECTOR: Final = re.compile(rf"\s*[a-zA-Z_:][a-zA-Z0-9_:]*\s*(?:\{{(?:[^\"'`{{}}]|{_TEXT})*\}})?\s*")


def read(source: Source) -> Totals:
    """What Prometheus at ``source.url`` says now; its queries have no placeholders left. Raises Unavailable.

    No series for ``errors`` while there are some for ``requests`` means that there were none: a counter with labels
    does not exist before it is first counted.
    """
    return within(source.timeout, where(source.url), lambda fetch: _read(fetch, source))


async def _read(fetch: Fetch, source: Source) -> Totals:
    ask = _Asker(fetch, source.url.rstrip("/") + "/api/v1/query", source.stale_after)
    match source.shape:
        case Shape.RATE:
            # The errors first: a scrape that comes in between must not make them look more than the requests.
            errors = await ask.series("errors", source.errors, needed=False)
            requests = await ask.series("requests", source.requests)
            return Totals({REQUESTS: _by_id(requests), ERRORS: _by_id(errors)})
        case Shape.HISTOGRAM:
            return Totals(_by_edge(await ask.series("histogram", source.histogram)))
        case Shape.MEAN if source.value:
            found = await ask.series("value", source.value)
            if len(found) > 1:
                raise Unavailable(
                    f"value: {len(found)} series match {quote(source.value)}; one is wanted: sum() or avg()."
                )
            return Totals({}, found[0].value, ask.newest)
        case Shape.MEAN:
            squares = await ask.series("sum_squares", source.sum_squares)
            sums = await ask.series("sum", source.sum)
            counts = await ask.series("count", source.count)
            return Totals({COUNT: _by_id(counts), SUM: _by_id(sums), SUM_SQUARES: _by_id(squares)})


@dataclass(frozen=True, slots=True)
class _Sample:
    labels: Mapping[str, str]
    value: float


class _Asker:
    """Asks the queries of one reading. ``newest``: when the newest sample so far was taken, where that is known."""

    def __init__(self, fetch: Fetch, url: str, stale_after: float) -> None:
        self._fetch = fetch
        self._url = url
        self._stale_after = stale_after
        self._moment: float | None = None
        self.newest: float | None = None

    async def series(self, field: str, query: str, *, needed: bool = True) -> list[_Sample]:
        """The series that match, none only if they are not ``needed``. Raises Unavailable."""
        found = await self._vector(field, query)
        if len(found) > MOST_SERIES:
            raise Unavailable(f"{field}: {len(found)} series match {quote(query)}; at most {MOST_SERIES} are read.")
        if not found and needed:
            raise Unavailable(f"{field}: no series matches {quote(query)}.")
        if found and _SELECTOR.fullmatch(query):
            await self._refuse_stale(field, query)
        return found

    async def _refuse_stale(self, field: str, query: str) -> None:
        """A series that is no longer scraped ends at once, but one that brings its own times stays as it is."""
        # Of a plain selector `timestamp` gives the time of each sample, of any other expression that of the question.
        found = await self._vector(field, f"max(timestamp({query}))")
        if not found or self._moment is None:
            raise Unavailable(f"{field}: no series matches {quote(query)} any more.")
        newest = found[0].value
        age = self._moment - newest
        if age > self._stale_after:
            raise Unavailable(
                f"{field}: stale: the newest sample of {quote(query)} is {age:.0f} s old, "
                f"more than stale_after ({self._stale_after:g} s)."
            )
        self.newest = newest if self.newest is None else max(newest, self.newest)

    async def _vector(self, field: str, query: str) -> list[_Sample]:
        form = {"query": query} | ({} if self._moment is None else {"time": repr(self._moment)})
        status, body = await self._fetch.json(self._url, form)
        if not isinstance(body, dict) or body.get("status") != "success":
            said = body.get("error") if isinstance(body, dict) else None
            raise Unavailable(f"{field}: {where(self._url)} answers HTTP {status}{f': {quote(said)}' if said else ''}.")
        try:
            return self._samples(field, body["data"])
        except (KeyError, TypeError, ValueError, AttributeError, IndexError):
            raise Unavailable(f"{field}: {where(self._url)} does not answer as Prometheus does.") from None

    def _samples(self, field: str, data: Any) -> list[_Sample]:
        kind, result = data["resultType"], data["result"]
        if kind not in ("vector", "scalar"):
            raise Unavailable(f"{field}: the query gives a {quote(kind)}; an instant vector is wanted.")
        rows = [{"metric": {}, "value": result}] if kind == "scalar" else list(result)
        samples = []
        for row in rows:
            if "value" not in row:
                raise Unavailable(f"{field}: the query gives a native histogram; use its classic buckets.")
            moment, text = row["value"]
            if self._moment is None:
                self._moment = float(moment)
            samples.append(_Sample({str(k): str(v) for k, v in row["metric"].items()}, float(text)))
        return samples


def _id(labels: Mapping[str, str]) -> str:
    """The name of a series: its labels, written as in PromQL."""
    inside = ",".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in sorted(labels.items()))
    return f"{{{inside}}}"


def _by_id(samples: list[_Sample]) -> dict[str, float]:
    """Values by series. The metric's name is left out, so that errors and requests of one process are one series."""
    short = [_id({name: value for name, value in sample.labels.items() if name != "__name__"}) for sample in samples]
    if len(set(short)) < len(short):
        short = [_id(sample.labels) for sample in samples]
    return {one: sample.value for one, sample in zip(short, samples, strict=True)}


def _by_edge(samples: list[_Sample]) -> dict[str, dict[str, float]]:
    """The buckets of classic histograms: by field, then by series."""
    counters: dict[str, dict[str, float]] = {}
    for sample in samples:
        text = sample.labels.get("le")
        if text is None:
            raise Unavailable("histogram: a series has no label le; a classic histogram's _bucket is wanted.")
        try:
            edge = float(text)
        except ValueError:
            edge = math.nan
        if math.isnan(edge):
            raise Unavailable(f"histogram: le={quote(text)} is no number.")
        one = _id({name: value for name, value in sample.labels.items() if name not in ("le", "__name__")})
        series = counters.setdefault(bucket(edge), {})
        if one in series:
            raise Unavailable(f"histogram: two series have the labels {quote(one)} and le={quote(text)}.")
        series[one] = sample.value
    return counters
