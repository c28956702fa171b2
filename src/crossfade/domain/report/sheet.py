"""The report as CSV: one figure a line, so that every sheet and program can filter it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from crossfade.domain.report.words import moment

Data = Mapping[str, Any]
COLUMNS: Final = ("section", "service", "environment", "at", "item", "figure", "value", "unit", "n")
FORMULAS: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "|", "%")
"""What a spreadsheet may take for the beginning of something to be carried out."""
_QUOTED: Final = re.compile('[",\\r\\n]|^\\s|\\s$')
_SPEAKS: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def csv_of(report: Data) -> str:
    """The whole report, as RFC 4180 has it. What is not known is an empty cell."""
    return "".join(",".join(map(cell, row)) + "\r\n" for row in (COLUMNS, *_rows(report)))


def cell(value: object) -> str:
    """A number as it is; a text so that no spreadsheet takes it for a formula."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return repr(value)
    text = _SPEAKS.sub("\N{REPLACEMENT CHARACTER}", str(value))
    if text.lstrip().startswith(FORMULAS) or text.startswith(FORMULAS):
        text = f"'{text}"
    return '"' + text.replace('"', '""') + '"' if _QUOTED.search(text) else text


Row = tuple[object, ...]


def _rows(report: Data) -> Iterator[Row]:
    period = report["month"] or report["title"]
    for one in report["figures"]:
        yield "figures", "", "", period, "", one["name"], one["value"], one["unit"], one["n"]
        if one.get("p90") is not None:
            yield "figures", "", "", period, "", f"{one['name']}, p90", one["p90"], one["unit"], one["n"]
        before = one["before"]
        yield "before", "", "", report["compared_with"], "", one["name"], before["value"], one["unit"], before["n"]
    for day in report["days"]:
        yield from _counted("days", "", "", day["day"], day)
        for name in ("deployments", "failed", "incidents"):
            yield "days", "", "", day["day"], "", name, day[name], "count", None
    for one in report["environments"]:
        yield from _environment(period, one)
    for one in report["incidents"]["list"]:
        yield from _incident(one)
    for one in report["failures"]:
        place = ("failures", one["service"], one["environment"], moment(one["at"]), f"{one['release']}: {one['why']}")
        yield *place, "recovery", one["recovery"], "seconds", None
        yield *place, "exposed", one["share"], "share", one["requests"]
    for one in report["drills"]["list"]:
        place = ("drills", one["service"], one["environment"], moment(one["began"]), one["name"])
        yield *place, "outcome", one["outcome"], "", None
        for name in ("detection", "decision", "switch", "recovery"):
            yield *place, name, one[name], "seconds", None
        yield *place, "harmed", one["harmed"], "requests", None
    for name, value in report["receipts"].items():
        yield "receipts", "", "", period, "", name, value, "count", None


def _counted(section: str, service: str, environment: str, at: str, one: Data) -> Iterator[Row]:
    for name in ("edge", "outside"):
        found = one[name]
        yield section, service, environment, at, "", f"{name}, good", found["good"], "share", found["n"]
        yield section, service, environment, at, "", f"{name}, covered", found["covered"], "share", None


def _environment(period: str, one: Data) -> Iterator[Row]:
    service, environment = one["service"], one["environment"]
    yield from _counted("environments", service, environment, period, one)
    place = ("environments", service, environment, period)
    dora = one["dora"]
    yield *place, "", "deployments", dora["frequency"]["n"], "count", None
    yield *place, "", "deployments a day", dora["frequency"]["per_day"], "per day", dora["frequency"]["n"]
    for name in ("lead_time", "recovery"):
        found = dora[name]
        yield *place, "", name.replace("_", " "), found["median"], "seconds", found["n"]
        yield *place, "", f"{name.replace('_', ' ')}, p90", found["p90"], "seconds", found["n"]
    fails = dora["fail_rate"]
    yield *place, "", "fail rate", fails["share"], "share", fails["n"]
    yield *place, "", "fail rate, exposed", fails["exposed"]["share"], "share", fails["n"]
    yield *place, "", "rework rate", dora["rework"]["share"], "share", dora["rework"]["n"]
    yield *place, "", "incidents", one["incidents"], "count", None
    for each in one["objectives"]:
        named = ("objectives", service, environment, period, each["name"])
        yield *named, "good", each["good"], "share", each["n"]
        yield *named, "target", each["target"], "share", None
        yield *named, "budget left", each["budget_left"], "share", each["n"]
        yield *named, "covered", each["covered"], "share", None


def _incident(one: Data) -> Iterator[Row]:
    place = ("incidents", one["service"], one["environment"], moment(one["begins"]), one["what"])
    yield *place, "lasted", one["duration"], "seconds", None
    yield *place, "failed", one["failed"], "requests", None
    yield *place, "exposed", one["share"], "share", None
    yield *place, "noticed after", one["detection"], "seconds", None
    yield *place, "over after", one["repair"], "seconds", None
    yield *place, "ended by", one["how"], "", None
    yield *place, "release", one["release"], "", None
