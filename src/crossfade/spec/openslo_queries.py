"""What a query of an OpenSLO file counts: the counters behind it, as sources are read.

There a query is usually a rate over some minutes, which a tool puts into a rule. Here counters are read as they are, series by
series, and what happened between two readings is worked out from them: a rate would count requests several times, and in a
sum a process that begins again cannot be told from one that was never there.
"""

from __future__ import annotations

import re
from typing import Final

_TEXT: Final = r""""(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|`[^`]*`"""
_COUNTER: Final = rf"([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(?:\{{(?:[^\"'`{{}}]|{_TEXT})*\}})?"
_PLAIN: Final = re.compile(_COUNTER)
_RATE: Final = re.compile(rf"(?:rate|irate|increase)\s*\(\s*(?P<counter>{_COUNTER})\s*\[[^\[\]]{{1,60}}\]\s*\)")
_LABELS: Final = r"\s*(?:by|without)\s*\([^()]*\)"
_SUM: Final = re.compile(rf"sum(?:{_LABELS})?\s*\((?P<inner>.*?)\)(?:{_LABELS})?", re.DOTALL)
_PARENTHESES: Final = re.compile(r"\((?P<inner>.*)\)", re.DOTALL)

COUNTERS: Final = "a counter by its name, also in sum(…) and in rate(…[5m]) or increase(…[5m])"
"""What `counter` takes."""


def counter(query: str) -> str | None:
    """The selector of the counter in a query, without the rates and sums around it; None for any other query."""
    text = query.strip()
    for _ in range(10):
        if _PLAIN.fullmatch(text):
            return text
        rate = _RATE.fullmatch(text)
        if rate is not None:
            return rate["counter"].strip()
        around = _SUM.fullmatch(text) or _PARENTHESES.fullmatch(text)
        if around is None:
            return None
        text = around["inner"].strip()
    return None


def name_of(selector: str) -> str:
    """The metric that a selector selects from."""
    found = _PLAIN.fullmatch(selector)
    assert found is not None  # `counter` made it
    return found[1]


def rest(total: str, good: str) -> str:
    """The query of what is in ``total`` and not in ``good``, both selectors, series by series.

    Of one metric these are other series (those of other codes). Of two, as of a histogram's count and one of its buckets, it
    is their difference; a series without its good one is bad as a whole.
    """
    if name_of(total) == name_of(good):
        return f"{total} unless {good}"
    return f"({total} - ignoring(le) {good}) or {total}"
