"""How runs look in a terminal. Colour only underlines what the words say already."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from crossfade.domain.values import show_duration

Data = Mapping[str, Any]

SIGNS: Final = {
    "passed": ("✓", "green"),
    "failed": ("✗", "red"),
    "running": ("●", "cyan"),
    "waiting": ("◌", "yellow"),
    "queued": ("◌", "yellow"),
    "cancelled": ("\N{EN DASH}", "dim"),
    "superseded": ("\N{EN DASH}", "dim"),
    "skipped": ("\N{EN DASH}", "dim"),
    "pending": ("·", "dim"),
}
DETAILS: Final = 12
"""How many lines of a failed node are shown; `crossfade runs log` has all."""


def sign(status: str) -> Text:
    """A mark and the word."""
    mark, style = SIGNS.get(status, ("?", ""))
    return Text(f"{mark} {status}", style=style)


def took(began: float | None, finished: float | None, now: float) -> str:
    """How long something took, or takes so far."""
    if began is None:
        return ""
    return show_duration(round(max(0.0, (finished if finished is not None else now) - began), 1))


def run(data: Data, whole: bool = True) -> RenderableType:
    """A run with its stages and nodes, what it waits for, and what failed."""
    title = Text(f"run #{data['id']} ", style="bold")
    title.append(f"{data['service']} {data['short']} on {data['branch']} ", style="bold")
    title.append_text(sign(data["status"]))
    title.append(f"  {took(data['queued'], data['finished'], data['now'])}", style="dim")
    rows: list[RenderableType] = [title, Text(f"  {data['subject']}  ({data['author'] or 'somebody'})", style="dim")]
    if data["waiting"]:
        rows.append(Text(f"  {data['waiting']}", style="yellow"))
    for stage in data["stages"]:
        rows.append(_stage(stage, data["now"]))
        if whole or stage["status"] in ("running", "waiting", "failed"):
            rows += [_node(node, data["now"]) for node in stage["nodes"]]
    if data["reason"]:
        rows.append(Text(f"  {data['reason']}", style="red" if data["status"] == "failed" else ""))
    return Group(*rows)


def _stage(stage: Data, now: float) -> Text:
    text = Text("  ").append(f"{stage['name']:<12}", style="bold").append_text(sign(stage["status"]))
    spent = took(stage["began"], stage["finished"], now)
    if spent:
        text.append(f"  {spent}", style="dim")
    if stage["attempt"] > 1:
        text.append(f"  attempt {stage['attempt']}", style="dim")
    for label, value in (("", stage["release"]), ("rollout #", stage["rollout"]), ("approval ", stage["approval"])):
        if value:
            text.append(f"  {label}{value}", style="dim")
    return text


def _node(node: Data, now: float) -> Text:
    text = Text("    ").append(f"{node['name']:<18}").append_text(sign(node["status"]))
    if node["waiting"]:
        return text.append(f"  {node['waiting']}", style="yellow")
    if node["sentence"]:
        text.append(f"  {node['sentence']}")
    elif node["status"] == "running":
        text.append(f"  {took(node['began'], node['finished'], now)}", style="dim")
    return text


def failures(data: Data) -> list[RenderableType]:
    """What the failed nodes say, place by place."""
    rows: list[RenderableType] = []
    for stage in data["stages"]:
        for node in stage["nodes"]:
            if node["status"] != "failed":
                continue
            rows.append(Text(f"{stage['name']}: {node['name']}: {node['sentence']}", style="red"))
            rows += [Text(f"  {line}") for line in node["details"][:DETAILS]]
            more = len(node["details"]) - DETAILS
            if more > 0:
                rows.append(Text(f"  and {more} more lines", style="dim"))
            if node["log"]:
                rows.append(Text(f"  crossfade runs log {data['id']} {stage['name']} {node['name']}", style="dim"))
    return rows


def table(rows: Sequence[Data]) -> Table:
    """Runs, a line each."""
    found = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("run", "service", "commit", "branch", "status", "stages", "by", "ago"):
        found.add_column(column, overflow="fold")
    for row in rows:
        stages = Text()
        for stage in row["stages"]:
            mark, style = SIGNS.get(stage["status"], ("?", ""))
            stages.append(mark, style=style)
        ago = show_duration(round(max(0.0, time.time() - row["queued"])))
        commit = f"{row['short']} {row['subject'][:40]}"
        found.add_row(
            f"#{row['id']}", row["service"], Text(commit), row["branch"], sign(row["status"]), stages, row["by"], ago
        )
    return found


def stream(data: Data) -> RenderableType:
    """The value stream: medians of the stages, then the commits."""
    summary = data["summary"]
    lead = _seconds(summary["lead_median"])
    rows: list[RenderableType] = [
        Text(f"{data['service']}: {summary['deployments']} deployments to production, median {lead} from the commit")
    ]
    stages = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("stage", "runs", "failed", "waited (median)", "worked (median)"):
        stages.add_column(column)
    for stage in summary["stages"]:
        waited, worked = _seconds(stage["waited_median"]), _seconds(stage["worked_median"])
        stages.add_row(stage["name"], str(stage["n"]), str(stage["failed"]), waited, worked)
    commits = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("run", "commit", "status", "lead time", "waited longest for"):
        commits.add_column(column, overflow="fold")
    for row in data["runs"]:
        longest = max(row["stages"], key=lambda stage: stage["waited"], default=None)
        why = f"{longest['why']} ({_seconds(longest['waited'])})" if longest is not None and longest["why"] else ""
        commit = Text(f"{row['short']} {row['subject'][:40]}")
        commits.add_row(f"#{row['id']}", commit, sign(row["status"]), _seconds(row["lead"]), Text(why))
    return Group(*rows, Text(), stages, Text(), commits)


def _seconds(found: float | None) -> str:
    return "\N{EN DASH}" if found is None else show_duration(round(found, 1))
