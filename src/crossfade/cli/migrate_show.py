"""How migrations look in a terminal: a phase while it runs, plans, findings, what was applied."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from crossfade.domain.migrations import plan as plans
from crossfade.domain.migrations.phases import Phase, Progress, Record
from crossfade.domain.values import show_duration
from crossfade.ports.databases import Finding

BAR: Final = 24
BETWEEN_LINES: Final = 5.0
"""Seconds between two lines of progress where they stay, in a log."""
_STYLE: Final = {
    "contracted": "green",
    "contractable": "green",
    "verified": "cyan",
    "planned": "dim",
    "aborted": "dim",
    "aborting": "yellow",
    "contracting": "yellow",
}
_SEVERITY: Final = {"error": "bold red", "warning": "yellow", "note": "cyan"}


def progress(one: Progress) -> Text:
    """``books  ━━━━────  51 %  510,000 of 1,000,000 rows, 62,000 rows/s, 8 s left``."""
    text = Text(f"{one.subject}  ")
    if one.total:
        share = min(1.0, one.done / one.total)
        cells = round(share * BAR)
        text.append("━" * cells, style="cyan").append("─" * (BAR - cells), style="dim").append(
            f" {share * 100:3.0f} %  "
        )
        text.append(f"{one.done:,} of {one.total:,} rows")
    else:
        text.append(f"{one.done:,} rows")
    if one.waits:
        return text.append(f", waits: {one.waits}", style="yellow")
    if one.rate:
        text.append(f", {one.rate:,.0f} rows/s")
    if one.eta is not None and one.done < one.total:
        text.append(f", {show_duration(float(round(one.eta)))} left")
    return text


class Display:
    """What a phase tells, while it runs. On a terminal progress is painted over; elsewhere it is a line now and then."""

    def __init__(self, console: Console, *, silent: bool) -> None:
        self._console, self._silent = console, silent
        self._live = Live(console=console, refresh_per_second=8, transient=True) if _paints(console, silent) else None
        self._shown: dict[str, Progress] = {}
        self._said = 0.0
        self._waits = ""

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def tell(self, line: str) -> None:
        """A line that stays."""
        if not self._silent:
            self._console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)

    def progress(self, one: Progress) -> None:
        """Numbers, which replace those before."""
        if self._silent:
            return
        if self._live is not None:
            self._shown = {one.subject: one}
            self._live.update(Group(*(Text("  ").append_text(progress(each)) for each in self._shown.values())))
            return
        now = time.monotonic()
        if now - self._said >= BETWEEN_LINES or one.waits != self._waits:
            self._said, self._waits = now, one.waits
            self.tell(progress(one).plain)


def _paints(console: Console, silent: bool) -> bool:
    return console.is_terminal and not silent


# --- what was applied


def record(one: Record, waits: Sequence[str], sessions: int | None) -> dict[str, Any]:
    """A line of the ledger as data, with what its contract waits for."""
    data = asdict(one)
    data["phase"] = standing(one, waits)
    data["waits_for"] = list(waits)
    data["sessions"] = sessions
    return data


def standing(one: Record, waits: Sequence[str]) -> str:
    """Its phase, as far as it is known where nobody knows the releases."""
    return Phase.CONTRACTABLE.value if one.phase is Phase.VERIFIED and not waits else one.phase.value


def status(found: Mapping[str, Any]) -> RenderableType:
    """A row for each migration that is not contracted, and how many are."""
    rows: list[RenderableType] = [Text(found["database"], style="bold")]
    listed = [one for one in found["migrations"] if one["phase"] not in ("contracted", "aborted")]
    done = sum(one["phase"] == "contracted" for one in found["migrations"])
    if done:
        newest = [one["version"] for one in found["migrations"] if one["phase"] == "contracted"][-1]
        rows.append(Text(f"  {done} contracted, up to {newest}", style="dim"))
    if not listed and not found["planned"]:
        rows.append(Text("  No migration is open." if found["migrations"] else "  No migration was applied yet."))
        return Group(*rows)
    table = Table(box=None, padding=(0, 2, 0, 2), header_style="dim")
    for name in ("version", "phase", "sessions", "its contract waits for"):
        table.add_column(name, no_wrap=name in ("version", "phase"), overflow="fold")
    for one in listed:
        phase = "paused" if one["paused"] else one["phase"]
        nothing = "that no client uses the tables themselves" if one["older_unknown"] else "nothing"
        waits = Text("\n".join(one["waits_for"]) or nothing)
        if one["trouble"]:
            waits = Text(one["trouble"], style="red").append("".join(f"\n  {row}" for row in one["samples"][:5]))
        sessions = "-" if one["sessions"] is None else str(one["sessions"])
        table.add_row(one["version"], Text(phase, style=_STYLE.get(phase, "cyan")), sessions, waits)
    for version in found["planned"]:
        table.add_row(version, Text("planned", style="dim"), "-", Text("its expand", style="dim"))
    rows.append(table)
    for one in listed:
        if one["phase"] in (Phase.EXPANDED, Phase.BACKFILLING):
            rows += [Text(f"  {one['version']}  ").append_text(progress(Progress(**each))) for each in one["progress"]]
    return Group(*rows)


def ledger(rows: Sequence[Mapping[str, Any]]) -> Table:
    """All that was applied, in its order."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("", "version", "phase", "checksum", "expanded", "contracted"):
        table.add_column(name, justify="right" if not name else "left", no_wrap=name != "version", overflow="fold")
    for one in rows:
        phase = Text(one["phase"], style=_STYLE.get(one["phase"], "cyan"))
        times = [_time(one[name]) for name in ("expanded", "contracted")]
        digest = one["checksum"].removeprefix("sha256:")[:12]
        table.add_row(str(one["position"]), one["version"], phase, digest, *times)
    return table


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).astimezone().strftime("%Y-%m-%d %H:%M") if at else "-"


# --- before anything is changed


def plan(one: plans.Plan) -> RenderableType:
    """Its phases with their SQL, and what to know before."""
    rows: list[RenderableType] = [Text(one.version, style="bold")]
    for hazard in one.hazards:
        word = "refused" if hazard.blocks else "hazard"
        line = Text(f"  {word} ({hazard.code}): ", style="bold red" if hazard.blocks else "yellow")
        rows.append(line.append(f"{hazard.place}: {hazard.sentence}", style="default"))
        rows += [Text(f"    {hazard.hint}", style="dim")] if hazard.hint else []
    rows += _groups("expand", one.expand)
    if one.fills:
        rows.append(Text("  backfill and verify", style="cyan"))
    for fill in one.fills:
        by = ", ".join(name for name, _ in fill.key) or "place in the file, for it has no primary key"
        rows.append(Text(f"    {fill.table}, by {by}"))
        rows += [Text(f"      {plans.quoted(name)} = {_flat(sql)}") for name, sql in fill.ups]
    rows += _groups("settle", one.settle)
    rows += _groups("contract", one.contract)
    rows += _groups("abort", one.abort)
    return Group(*rows)


def _groups(phase: str, groups: Sequence[plans.Group]) -> list[RenderableType]:
    if not groups:
        return []
    how = {plans.How.TOGETHER: "one transaction", plans.How.INDEX: "concurrently", plans.How.ALONE: "one by one"}
    rows: list[RenderableType] = [Text(f"  {phase}", style="cyan")]
    for group in groups:
        rows.append(Text(f"    -- {group.title} ({how[group.how]})", style="dim"))
        rows += [
            Text(f"    {line}") for sql in group.statements for line in f"{sql.rstrip().rstrip(';')};".splitlines()
        ]
    return rows


def _flat(sql: str) -> str:
    return " ".join(sql.split())


def finding(one: Finding) -> Text:
    """``02_add.sql:3: warning: adding-not-nullable-field: …``."""
    place = f"{one.file}:{one.line}" if one.line else one.file
    text = Text(f"{place}: ").append(one.severity, style=_SEVERITY.get(one.severity, ""))
    text.append(f": {one.rule}: {one.sentence}")
    return text.append(f" {one.hint}", style="dim") if one.hint else text
