"""The report as Markdown, for an issue, a wiki or a mail. Whatever a name holds, it is text there and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from crossfade.domain.report.words import cases, change, count, lasting, moment, percent, say

Data = Mapping[str, Any]
MOST_ROWS: Final = 200
LONGEST: Final = 300
_MEANS: Final = re.compile(r"([\\`*_{}\[\]()#+!|<>&~$@:-])")
"""What means something to Markdown, to HTML in it, or to what turns addresses and names into links."""
_SPEAKS: Final = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]+")
_PLAIN: Final = re.compile(r"(?<=\w)\\([-:.])(?=\w)")
_LINK: Final = re.compile(r"(?i)(https?|ftp|mailto|javascript|www)(?=\\?[:.])")


def plain(text: object) -> str:
    """A text of somebody else's in a line of Markdown."""
    told = _SPEAKS.sub(" ", str(text))[:LONGEST]
    told = _MEANS.sub(r"\\\1", told)
    # Between letters these mean nothing, unless they make an address.
    told = told if _LINK.search(told) else _PLAIN.sub(r"\1", told)
    return _LINK.sub(lambda match: f"{match[0][0]}\u2060{match[0][1:]}", told)


def markdown(report: Data) -> str:
    """The whole report."""
    parts = [
        f"# Report: {plain(report['title'])}",
        _head(report),
        _figures(report),
        *_environments(report),
        *_incidents(report),
        *_failures(report),
        _deliveries(report),
        *_drills(report),
        _definitions(report),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(report: Data) -> str:
    places = report["environments"]
    names = ", ".join(plain(f"{p['service']}/{p['environment']}") for p in places[:20]) or "no environment"
    more = f" and {len(places) - 20} more" if len(places) > 20 else ""
    open_end = "" if report["whole"] else f" As far as it was over on {moment(report['made'])}."
    return f"Of {names}{more}. Days are those of UTC.{open_end}"


def _figures(report: Data) -> str:
    rows = [
        [
            one["name"],
            say(one["value"], one["unit"]),
            lasting(one["p90"]) if one.get("p90") is not None else "",
            cases(one["n"], one["of"]),
            f"{say(one['before']['value'], one['unit'])} (n {count(one['before']['n'])})",
            change(one["change"], one["unit"]),
        ]
        for one in report["figures"]
    ]
    head = ["figure", "value", "p90", "n", plain(report["compared_with"]), "change"]
    return "## Figures\n\n" + _table(head, rows)


def _environments(report: Data) -> Iterable[str]:
    rows, promised = [], []
    for one in report["environments"]:
        name = plain(f"{one['service']}/{one['environment']}") + (" (gone)" if one["gone"] else "")
        rows.append(
            [
                name,
                percent(one["edge"]["good"]),
                count(one["edge"]["n"]),
                percent(one["edge"]["covered"]),
                percent(one["outside"]["good"]),
                count(one["outside"]["n"]),
                count(one["dora"]["frequency"]["n"]),
                count(one["dora"]["fail_rate"]["failed"]),
                count(one["incidents"]),
            ]
        )
        for each in one["objectives"]:
            left, good = percent(each["budget_left"]), percent(each["good"])
            row = [name, plain(each["name"]), percent(each["target"]), good, count(each["n"]), left]
            promised.append([*row, percent(each["covered"])])
    head = ["environment", "edge", "requests", "covered", "outside", "questions", "deployments", "failed", "incidents"]
    yield "## Environments\n\n" + _table(head, rows) if rows else ""
    head = ["environment", "objective", "target", "good", "n", "budget left", "covered"]
    yield "## Objectives\n\n" + _table(head, promised) if promised else ""


def _incidents(report: Data) -> Iterable[str]:
    found = report["incidents"]
    rows = [
        [
            moment(one["begins"]),
            plain(f"{one['service']}/{one['environment']}"),
            lasting(one["duration"]) + (" so far" if one["ends"] is None else ""),
            plain(one["what"]) + (" (in a drill)" if one["drill"] else ""),
            count(one["failed"]),
            percent(one["share"]),
            plain(one["how"]),
            lasting(one["detection"]),
        ]
        for one in found["list"]
    ]
    head = ["began", "environment", "lasted", "what", "failed requests", "exposed", "ended by", "noticed after"]
    yield "## Incidents\n\n" + (_table(head, rows) if rows else "None that is known of.")


def _failures(report: Data) -> Iterable[str]:
    rows = [
        [
            moment(one["at"]),
            plain(f"{one['service']}/{one['environment']}"),
            f"{plain(one['release'])} in rollout {one['rollout']}",
            plain(one["why"]),
            percent(one["share"]) if one["exposed"] else "nobody",
            lasting(one["recovery"]),
        ]
        for one in report["failures"]
    ]
    head = ["when", "environment", "release", "why", "exposed", "recovered after"]
    yield "## Failed deployments\n\n" + _table(head, rows) if rows else ""


def _deliveries(report: Data) -> str:
    found = report["receipts"]
    rollouts = (
        f"- Rollouts: {count(found['rollouts'])}, of which promoted {count(found['promoted'])}, went back "
        f"{count(found['went_back'])}, rollbacks {count(found['rollbacks'])}, under way {count(found['open'])}."
    )
    lost = (
        f"- Lost to switches: {count(found['lost'])} requests, of {count(found['served'])} that "
        f"{count(found['counted'])} receipts counted."
    )
    lines = [rollouts, lost]
    return "## Receipts\n\n" + "\n".join(lines)


def _drills(report: Data) -> Iterable[str]:
    found, proofs = report["drills"], report["proofs"]
    rows = [
        [
            moment(one["began"]),
            plain(f"{one['service']}/{one['environment']}"),
            plain(one["name"] or "by hand") + (f" ({plain(one['fault'])})" if one["fault"] else ""),
            one["outcome"] or "not over",
            lasting(one["detection"]),
            lasting(one["switch"]),
            lasting(one["recovery"]),
            count(one["harmed"]),
        ]
        for one in found["list"]
    ]
    head = ["began", "environment", "drill", "outcome", "detection", "switch", "recovery", "requests harmed"]
    said = [_table(head, rows)] if rows else ["No drill was held."]
    said += [f"- Overdue: {plain(one)}" for one in found["overdue"]]
    if proofs["n"]:
        said.append(
            f"{cases(proofs['n'], 'proofs')} of {cases(proofs['releases'], 'releases')}, {count(proofs['failed'])} failed; "
            f"a release is restored within {lasting(proofs['took']['median'])} (p90 {lasting(proofs['took']['p90'])})."
        )
    yield "## Drills and proofs\n\n" + "\n\n".join(said)


def _definitions(report: Data) -> str:
    lines = [f"- **{one['name']}**: {one['definition']}" for one in report["figures"]]
    return "## What the figures say\n\n" + "\n".join([*lines, *(f"- {note}" for note in report["notes"])])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    shown = [list(head), ["---"] * len(head), *(list(row) for row in rows[:MOST_ROWS])]
    lines = ["| " + " | ".join(row) + " |" for row in shown]
    if len(rows) > MOST_ROWS:
        lines.append(f"\n… and {len(rows) - MOST_ROWS} more.")
    return "\n".join(lines)
