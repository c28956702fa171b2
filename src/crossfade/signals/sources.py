"""The port `Sources`: each source is asked by the adapter of its kind, with the arm's names put into its queries."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from crossfade.domain.analysis.policy import Shape, Source, SourceKind
from crossfade.domain.analysis.totals import Totals, contradiction
from crossfade.domain.errors import Invalid, Unavailable
from crossfade.ports import PLACEHOLDERS
from crossfade.signals import http_json, prometheus

_VALUE: Final = re.compile(r"[a-z](?:[a-z0-9-]{0,62}[a-z0-9])?")
_PLACEHOLDER: Final = re.compile(r"\{(" + "|".join(PLACEHOLDERS) + r")\}")
_QUERIES: Final = ("url", "requests", "errors", "histogram", "value", "count", "sum", "sum_squares")


class ElsewhereSources:
    """`ports.Sources` over HTTP. Safe to use from several threads, keeps nothing between readings."""

    def read(self, source: Source, arm: Mapping[str, str]) -> Totals:
        """See `Sources.read`. A reading takes no longer than the source's timeout."""
        if source.kind is SourceKind.EVENTS:
            raise Invalid(f"sources.{source.name}.kind", source.kind.value, "prometheus or http: events are posted")
        asked = filled(source, arm)
        totals = prometheus.read(asked) if source.kind is SourceKind.PROMETHEUS else http_json.read(asked)
        wrong = contradiction(asked, totals)
        if wrong:
            raise Unavailable(f"{source.name}: {wrong}.")
        return totals


def filled(source: Source, arm: Mapping[str, str]) -> Source:
    """The source with the arm's names in its queries and URL. Other braces stay as they are: they are PromQL's.

    The names are our own; that they cannot end a PromQL string, a path of JSON or of a URL is checked all the same.
    Raises Invalid for one that could, for a placeholder without a name, and for queries that do not go together.
    """
    for name, value in arm.items():
        if not _VALUE.fullmatch(value):
            raise Invalid(f"{{{name}}}", value, "a-z, 0-9 and '-', beginning with a letter")

    def fill(place: str, text: str) -> str:
        for name in _PLACEHOLDER.findall(text):
            if name not in arm:
                raise Invalid(f"sources.{source.name}.{place}", f"{{{name}}}", ", ".join(arm) or "no placeholder")
        return _PLACEHOLDER.sub(lambda found: arm[found[1]], text)

    _check(source)
    texts: dict[str, Any] = {name: fill(name, getattr(source, name)) for name in _QUERIES}
    return replace(source, **texts)


def _check(source: Source) -> None:
    place = f"sources.{source.name}"
    if not re.match(r"https?://[^/\s]", source.url):
        raise Invalid(f"{place}.url", source.url, "a URL that begins with http:// or https://")
    if source.shape is Shape.RATE and not (source.requests and source.errors):
        raise Invalid(place, "requests" if source.requests else "errors", "both requests and errors")
    moments = (bool(source.count), bool(source.sum), bool(source.sum_squares))
    whole = not any(moments) if source.value else all(moments)
    if source.shape is Shape.MEAN and not whole:
        raise Invalid(place, "an incomplete mean", "either value, or all of count, sum and sum_squares")
