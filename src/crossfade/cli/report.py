"""`crossfade report`: what a month was like, for people, wikis, sheets and programs; and `crossfade mark`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from crossfade.cli.context import Json, telling, who
from crossfade.cli.terminal import as_json as written
from crossfade.domain.errors import Invalid
from crossfade.domain.report.markdown import markdown
from crossfade.domain.report.sheet import csv_of
from crossfade.domain.report.words import cases, change, lasting, moment, percent, say

Data = Mapping[str, Any]
MOST_INCIDENTS = 20
ENDED = {"automatic rollback": "by an automatic rollback", "kill flag": "by a killed flag", "person": "by a person"}


class Format(StrEnum):
    """What a report may be written as."""

    TABLE = "table"
    MARKDOWN = "markdown"
    CSV = "csv"
    JSON = "json"


def report(
    context: typer.Context,
    keys: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY]...",
            help="Services, or SERVICE/ENVIRONMENT, either half may be *; production of all when left out.",
            show_default=False,
        ),
    ] = None,
    month: Annotated[
        str | None, typer.Option(help="A month of UTC, 2026-11.", show_default="the one that it is")
    ] = None,
    first: Annotated[str | None, typer.Option("--from", help="The first day, with --to.", show_default=False)] = None,
    last: Annotated[str | None, typer.Option("--to", help="The last day, with --from.", show_default=False)] = None,
    format: Annotated[Format, typer.Option(help="In which form.")] = Format.TABLE,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A file for it, in place of the terminal.", show_default=False)
    ] = None,
    plots: Annotated[Path | None, typer.Option(help="A folder for the plots, as SVG.", show_default=False)] = None,
    as_json: Json = False,
) -> None:
    """Availability, incidents, DORA's measures, recoveries, drills and receipts of a month."""
    with telling(context, as_json) as ctx:
        asked: dict[str, Any] = {"month": month, "from": first, "to": last, "key": keys or None}
        found = ctx.client().call(
            "GET", "/report", params={name: value for name, value in asked.items() if value is not None}
        )
        if plots is not None:
            from crossfade.domain.report.plots import PLOTS  # what it draws with takes its time to load

            for name, draw in PLOTS.items():
                _write(plots / f"report-{name}.svg", draw(found))
        chosen = Format.JSON if as_json else format
        if output is not None:
            if chosen is Format.TABLE:
                raise Invalid("--format", chosen.value, "markdown, csv or json for a file")
            _write(output, _text(found, chosen))
            ctx.errors.print(f"The report of {found['title']} is in {output}.", soft_wrap=True)
        elif chosen is Format.TABLE:
            ctx.console.print(shown(found))
        else:
            sys.stdout.write(_text(found, chosen))


def mark(
    context: typer.Context,
    rollout: Annotated[int, typer.Argument(help="The number of a rollout.", min=1, show_default=False)],
    failed: Annotated[
        bool, typer.Option("--failed/--not-failed", help="Whether it has failed after all.", show_default=False)
    ],
    why: Annotated[str, typer.Option(help="For those who look later.", show_default=False)] = "",
    as_json: Json = False,
) -> None:
    """Say of a deployment that it has failed, though nobody rolled it back. The report counts it so."""
    with telling(context, as_json) as ctx:
        body = {"failed": failed, "why": why, "by": who()}
        found = ctx.client().call("POST", f"/rollouts/{rollout}/failed", json=body)
        ctx.say(found, lambda: f"Rollout #{rollout} counts as {'failed' if failed else 'not failed'}.")


def _text(found: Data, format: Format) -> str:
    match format:
        case Format.MARKDOWN:
            return markdown(found)
        case Format.CSV:
            return csv_of(found)
        case _:
            return written(found) + "\n"


def _write(path: Path, text: str) -> None:
    """Raises Invalid."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise Invalid("--output", str(path), f"a file that can be written ({error.strerror})") from error


# --- how it looks


def shown(report: Data) -> RenderableType:
    """The report in a terminal."""
    places = [f"{one['service']}/{one['environment']}" for one in report["environments"]]
    of = ", ".join(places[:4]) + (f" and {len(places) - 4} more" if len(places) > 4 else "")
    head = Text(report["title"], style="bold").append(f"   {of or 'no environment'}", style="not bold")
    if not report["whole"]:
        head.append(f"   so far, at {moment(report['made'])}", style="dim not bold")
    rows: list[RenderableType] = [head, Text(""), _figures(report)]
    if any(one["objectives"] for one in report["environments"]):
        rows += [Text("\nObjectives", style="bold"), _objectives(report)]
    rows += [Text("\nIncidents", style="bold"), _incidents(report)]
    drills = report["drills"]
    if drills["n"] or drills["overdue"]:
        rows.append(Text(f"\nDrills: {drills['passed']} of {drills['n']} passed", style="bold"))
        rows += [Text(f"  overdue: {said}", style="yellow") for said in drills["overdue"]]
    receipts = report["receipts"]
    rows.append(
        Text(
            f"\nRollouts: {receipts['rollouts']}, of which promoted {receipts['promoted']}, went back "
            f"{receipts['went_back']}, rollbacks {receipts['rollbacks']}. Lost to switches: {_requests(receipts['lost'])}.",
            style="dim",
        )
    )
    rows.append(Text("Days are those of UTC. `--format markdown` says what each figure means.", style="dim"))
    return Group(*rows)


def _requests(known: float | None) -> str:
    return "nobody counted" if known is None else cases(known, "requests")


def _table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left")
    return table


def _figures(report: Data) -> Table:
    before = report["compared_with"]
    table = _table("", "value", "p90", "n", before, "change", right=("value", "p90", before, "change"))
    for one in report["figures"]:
        p90 = lasting(one["p90"]) if one.get("p90") is not None else ""
        table.add_row(
            one["name"],
            Text(say(one["value"], one["unit"]), style="bold"),
            p90,
            cases(one["n"], one["of"]),
            say(one["before"]["value"], one["unit"]),
            Text(change(one["change"], one["unit"]), style="" if one["better"] is not False else "yellow"),
        )
    return table


def _objectives(report: Data) -> Table:
    table = _table(
        "environment", "objective", "target", "good", "budget left", "covered", right=("target", "good", "budget left")
    )
    for place in report["environments"]:
        for one in place["objectives"]:
            left = one["budget_left"]
            table.add_row(
                f"{place['service']}/{place['environment']}",
                one["name"],
                percent(one["target"]),
                percent(one["good"]),
                Text(percent(left), style="red" if left is not None and left <= 0 else ""),
                percent(one["covered"]),
            )
    return table


def _incidents(report: Data) -> RenderableType:
    found = report["incidents"]["list"]
    if not found:
        return Text("  None that is known of.")
    rows: list[RenderableType] = []
    for one in found[:MOST_INCIDENTS]:
        rows.append(
            Text("  ").append(moment(one["begins"]), style="bold").append(f"  {one['service']}/{one['environment']}")
        )
        # What is said of it is too long for a column.
        rows += [Padding(Text(said), (0, 0, 0, 4)) for said in (_incident(one), one["what"])]
    if len(found) > MOST_INCIDENTS:
        rows.append(Text(f"  and {len(found) - MOST_INCIDENTS} more", style="dim"))
    return Group(*rows)


def _incident(one: Data) -> str:
    over = one["ends"] is not None
    said = [f"lasted {lasting(one['duration'])}" if over else f"for {lasting(one['duration'])} so far"]
    if one["failed"] is not None:
        said.append(f"{cases(one['failed'], 'requests')} failed")
    said.append(f"{percent(one['share'])} exposed")
    said.append(f"ended {ENDED.get(one['how'], one['how'])}" if over else one["how"])
    return ", ".join([*said, *(["in a drill"] if one["drill"] else [])])


COMMANDS = (report, mark)
"""Commands of the first level."""
