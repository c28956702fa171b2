"""A source of signals that answers in JSON: one GET, and a JSON path (RFC 9535) for each field."""

from __future__ import annotations

import functools
import math
from typing import Any, Final

from jsonpath_rfc9535 import JSONPathError, JSONPathQuery
from jsonpath_rfc9535 import compile as compile_path

from crossfade.domain.analysis.policy import Shape, Source
from crossfade.domain.analysis.totals import COUNT, ERRORS, REQUESTS, SUM, SUM_SQUARES, Totals, bucket
from crossfade.domain.errors import Unavailable
from crossfade.signals.fetch import Fetch, quote, where, within

MOST_SERIES: Final = 1000


def read(source: Source) -> Totals:
    """What ``source.url`` answers now; URL and paths have no placeholders left. Raises Unavailable.

    A path may find several numbers (``$.workers[*].requests``): each is a series of its own. A path that finds
    nothing is never taken for 0. ``histogram`` finds objects of cumulative counts by upper edge in seconds:
    ``{"0.1": 90, "0.5": 99, "+Inf": 100}``.
    """
    return within(source.timeout, where(source.url), lambda fetch: _read(fetch, source))


async def _read(fetch: Fetch, source: Source) -> Totals:
    status, document = await fetch.json(source.url)
    if not 200 <= status < 300:
        raise Unavailable(f"{where(source.url)} answers HTTP {status}.")
    if document is None:
        raise Unavailable(f"{where(source.url)} does not answer in JSON.")
    if source.shape is Shape.HISTOGRAM:
        return Totals(_buckets(source.histogram, document))
    if source.value:
        found = list(_numbers("value", source.value, document).values())
        if len(found) > 1:
            raise Unavailable(f"value: {len(found)} numbers are at {quote(source.value)}; one is wanted.")
        return Totals({}, found[0])
    if source.shape is Shape.RATE:
        fields = {REQUESTS: source.requests, ERRORS: source.errors}
    else:
        fields = {COUNT: source.count, SUM: source.sum, SUM_SQUARES: source.sum_squares}
    return Totals({field: _numbers(field, path, document) for field, path in fields.items()})


def _numbers(field: str, path: str, document: Any) -> dict[str, float]:
    nodes = _nodes(field, path, document)
    # By the place without its last part, so that the errors and requests of one worker are one series.
    short = [place.rpartition("[")[0] for place, _ in nodes] if len(nodes) > 1 else [""]
    if len(set(short)) < len(short):
        short = [place for place, _ in nodes]
    return {one: _number(f"{field}: {quote(place)}", value) for one, (place, value) in zip(short, nodes, strict=True)}


def _buckets(path: str, document: Any) -> dict[str, dict[str, float]]:
    counters: dict[str, dict[str, float]] = {}
    for place, value in _nodes("histogram", path, document):
        if not isinstance(value, dict):
            raise Unavailable(f"histogram: {quote(place)} is {_kind(value)}; an object of counts by edge is wanted.")
        for text, count in value.items():
            try:
                edge = float(text)
            except ValueError:
                edge = math.nan
            if math.isnan(edge):
                raise Unavailable(f"histogram: {quote(place)} has the edge {quote(text)}, which is no number.")
            counters.setdefault(bucket(edge), {})[place] = _number(f"histogram: {quote(place)}", count)
    return counters


def _nodes(field: str, path: str, document: Any) -> list[tuple[str, Any]]:
    """Place and value of all that a path finds, at least one. Raises Unavailable."""
    try:
        nodes = []
        for node in _path(path).finditer(document):
            nodes.append((node.path(), node.value))
            if len(nodes) > MOST_SERIES:
                raise Unavailable(f"{field}: more than {MOST_SERIES} values are at {quote(path)}.")
    except (JSONPathError, RecursionError) as error:
        raise Unavailable(f"{field}: JSON path {quote(path)} cannot be followed: {quote(error)}.") from error
    if not nodes:
        raise Unavailable(f"{field}: nothing is at {quote(path)}.")
    return nodes


def _number(where_: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Unavailable(f"{where_} is {_kind(value)}; a number is wanted.")
    try:
        return float(value)
    except OverflowError:
        raise Unavailable(f"{where_} is too large a number.") from None


def _kind(value: Any) -> str:
    names = {type(None): "null", bool: "a truth value", str: "a text", list: "a list", dict: "an object"}
    return names.get(type(value), "a number")


@functools.lru_cache(maxsize=256)
def _path(text: str) -> JSONPathQuery:
    return compile_path(text)
