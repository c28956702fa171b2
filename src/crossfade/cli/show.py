"""How things look in a terminal. Colour only underlines what the words say already."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from crossfade.cli.slo_show import ago
from crossfade.cli.slo_show import brief as slo_brief
from crossfade.domain.values import show_duration

Data = Mapping[str, Any]
BAR = 40
EVIDENCE = 12
"""Cells of a bar of evidence; it is full where it decides."""

_PHASE_STYLE = {
    "promoted": "green",
    "rolled-back": "yellow",
    "rolling-back": "yellow",
    "paused": "magenta",
}


_MIGRATION_STYLE = {
    "contracted": "dim",
    "aborted": "dim",
    "contractable": "green",
    "backfilling": "cyan",
    "verified": "cyan",
}


def weight(bp: int) -> str:
    """Basis points for people: ``12.5 %``."""
    return f"{bp / 100:g} %"


def bar(blue: int, width: int = BAR) -> Text:
    """The split as one bar: blue (its share in basis points) from the left, green has the rest; neither share is hidden."""
    cells = round(blue / 10_000 * width)
    if 0 < blue < 10_000:
        cells = min(width - 1, max(1, cells))
    text = Text()
    text.append("█" * cells, style="blue")
    text.append("▒" * (width - cells), style="green")
    return text


def environment(status: Data) -> RenderableType:
    """One environment: split, slots, replicas, and its rollout."""
    title = Text()
    title.append(f"{status['service']}/{status['environment']}", style="bold")
    title.append(f"   live {status['live'] or 'nothing'}")
    if status.get("label"):
        title.append(f" ({status['label']})")
    if status.get("url"):
        title.append(f"   {status['url']}", style="dim")
    rows: list[RenderableType] = [title]
    edge = status["edge"]
    if edge["reachable"]:
        line = Text("  blue  ").append(f"{weight(edge['blue']):>7} ").append_text(bar(edge["blue"]))
        rows.append(line.append(f" {weight(edge['green']):<7} green"))
        if edge.get("control"):
            share = f"  {weight(edge['control'])} of all requests go to fresh replicas of the baseline, to compare with"
            rows.append(Text(share, style="dim"))
        if edge.get("lapsed"):
            rows.append(Text("  the lease lapsed: the edge has returned the traffic by itself", style="yellow"))
    else:
        rows.append(Text(f"  the edge does not answer: {edge['why']}", style="red"))
    table = Table(box=None, padding=(0, 2), show_header=True, header_style="dim")
    for column in ("slot", "release", "replicas", "in flight", ""):
        table.add_column(column)
    for slot, held in status["slots"].items():
        table.add_row(*_slot_row(status, slot, held))
    rows.append(table)
    if status.get("rollout"):
        rows.append(rollout(status["rollout"]))
    if status.get("migrations"):
        rows.append(migrations(status["migrations"]))
    if status.get("slo"):
        rows += slo_brief(status["slo"])
    return Group(*rows)


def _slot_row(status: Data, slot: str, held: Data | None) -> Sequence[str | Text]:
    if held is None:
        return slot, "-", "-", "-", Text("empty", style="dim")
    running = sum(r["state"] == "running" for r in held["replicas"])
    servers = (status["edge"].get("servers") or {}).get(slot, [])
    names = {r["name"] for r in held["replicas"]}
    flying = sum(s["sessions"] for s in servers if s["name"] in names)
    up = sum(s["status"] == "up" for s in servers if s["name"] in names)
    note = Text(f"{up} up at the edge", style="dim")
    if held.get("warm_until"):
        left = max(0.0, held["warm_until"] - time.time())
        note = Text(f"warm for another {show_duration(left)}", style="dim")
    counted = Text(f"{running} of {len(held['replicas'])}", style="" if running == len(held["replicas"]) else "red")
    return slot, held["release"], counted, str(flying), note


def rollout(state: Data) -> RenderableType:
    """A rollout under way, or how it ended."""
    phase = "paused" if state["paused"] else state["phase"]
    head = Text("  ")
    head.append(f"#{state['id']} {state['kind']} {state['strategy']} ")
    head.append(f"{state['baseline'] or 'nothing'} → {state['candidate']}", style="bold")
    head.append("  ").append(phase, style=_PHASE_STYLE.get(phase, "cyan"))
    rows: list[RenderableType] = [head]
    if state["phase"] in ("shifting", "watching") and state["steps"]:
        rows.append(_steps(state))
    if state["waiting"] and not state["ended"]:
        rows.append(Text(f"    {state['waiting']}"))
    if state.get("verdict"):
        rows.append(Text(f"    {state['verdict']['finding']}: {state['verdict']['sentence']}", style="dim"))
    if state.get("metrics") and not state["ended"]:
        rows.append(metrics(state["metrics"]))
    if state["reason"]:
        rows.append(Text(f"    {state['reason']}", style="yellow"))
    rows += [Text(f"    {line}", style="dim") for line in state["detail"][:30]]
    return Group(*rows)


def metrics(rows: Sequence[Data]) -> Table:
    """How far the evidence on each metric is on its way to a fail and to a pass."""
    table = Table(box=None, padding=(0, 1), show_header=False)
    for row in rows:
        note = "dry run" if row["dry_run"] else "" if row["required"] else "not required"
        table.add_row(
            f"   {row['name']}",
            *_way("fail", row["fail"], row["fail_line"], "red"),
            *_way("pass", row["passing"], row["pass_line"], "green"),
            Text(row.get("course", ""), style="cyan"),
            Text(note, style="dim"),
        )
    return table


def _way(to: str, evidence: float, line: float, style: str) -> tuple[Text, Text]:
    done = min(1.0, max(0.0, evidence / line))
    cells = round(done * EVIDENCE)
    bar_ = Text("━" * cells, style=style if done >= 1 else "cyan").append("─" * (EVIDENCE - cells), style="dim")
    return Text(f"to {to}", style="dim"), bar_.append(f" {done * 100:3.0f} %")


def _steps(state: Data) -> Text:
    line = Text("    ")
    spent = max(0.0, state["now"] - state["entered"])
    for i, step in enumerate(state["steps"]):
        if i:
            line.append(" → ", style="dim")
        if i < state["step"]:
            line.append(f"{weight(step['weight'])} ✓", style="green")
        elif i == state["step"]:
            gone = min(spent, step["duration"])
            line.append(
                f"{weight(step['weight'])} {show_duration(gone)} of {show_duration(step['duration'])}", style="bold"
            )
        else:
            line.append(weight(step["weight"]), style="dim")
    return line


def receipt(data: Data) -> RenderableType:
    """What clients saw of one rollout."""
    good = data["outcome"] == "promoted"
    head = Text()
    head.append(f"Receipt #{data['rollout']}  ", style="bold")
    head.append(f"{data['service']}/{data['environment']}  {data['kind']} ({data['strategy']})  ")
    head.append(f"{data['baseline'] or 'nothing'} → {data['candidate']}  ")
    head.append(data["outcome"], style="green" if good else "yellow")
    if data.get("duration") is not None:
        head.append(f" after {show_duration(data['duration'])}", style="dim")
    rows: list[RenderableType] = [head]
    if data["reason"]:
        rows.append(Text(f"  why      {data['reason']}"))
    if data.get("verdict") and data["verdict"]["reasons"] and not data["reason"]:
        rows.append(Text(f"  judged   {data['verdict']['finding']}: {'; '.join(data['verdict']['reasons'])}"))
    rows += [Text(f"           {line}", style="dim") for line in data["detail"][:25]]
    if "requests" in data:
        rows.append(_clients(data))
    if data["traffic"]:
        rows.append(_spans(data))
    for remedy in data.get("remedies") or ():
        rows += _remedy(remedy)
    steps = Table.grid(padding=(0, 2))
    for step in data["steps"]:
        steps.add_row(f"{step['after']:8.2f} s", step["what"])
    rows.append(steps)
    if data.get("counts_lost_at"):
        rows.append(Text("  The edge restarted on the way: what it counted just before is lost.", style="yellow"))
    return Group(*rows)


def _remedy(data: Data) -> list[RenderableType]:
    """What was considered, what was done of it, and what clients saw before and after."""
    rows: list[RenderableType] = [Text(f"  remedy   {data['what']} {data['target']}: {data['why']}")]
    rows += [
        _choice(one, one["target"] == data["target"] and one["what"] == data["what"]) for one in data["considered"]
    ]
    for name in ("before", "after"):
        if seen := data.get(name):
            parts = [f"{word} it {seen[word]['failed']} of {seen[word]['requests']} failed" for word in ("with", "without")
                     if word in seen]  # fmt: skip
            rows.append(Text(f"           {name:<6} {', '.join(parts)}", style="dim"))
    return rows


def _choice(remedy: Data, chosen: bool) -> Text:
    mark = "→" if chosen else " "
    can = "" if remedy["applies"] else "not: "
    return Text(f"         {mark} {remedy['text']}: {can}{remedy['why']}", style="" if chosen else "dim")


def rollback_plan(data: Data) -> RenderableType:
    """What it would take to go back now, the cheapest that applies first."""
    chosen = data["chosen"]
    rows = [Text(f"would: {data['reason']}" if chosen is not None else data["reason"], style="bold")]
    for place, remedy in enumerate(data["remedies"]):
        rows.append(_choice(remedy, place == chosen))
        if remedy["applies"]:
            takes = f"about {show_duration(remedy['seconds'])}"
            rows.append(Text(f"             {takes}; {remedy['notices']}", style="dim"))
    return Group(*rows)


def _clients(data: Data) -> Text:
    causes = ", ".join(f"{count} {cause}" for cause, count in data["failed_by_cause"].items())
    line = Text("  clients  ")
    line.append(f"{data['requests']} requests, {data['failed']} failed")
    line.append(f" ({causes})" if causes else "")
    line.append(f", {data['retries']} retried, ")
    dropped = data["dropped_by_switch"]
    line.append(f"{dropped} dropped by the switch", style="green" if dropped == 0 else "red")
    exposed = data["exposed"]
    line.append(f"; {data['candidate']} served {exposed['requests']}, {exposed['failed']} of them failed")
    return line


def _spans(data: Data) -> RenderableType:
    table = Table(box=None, padding=(0, 1), header_style="dim")
    for name in ("", "for", "requests", "failed", "p50", "p99", "blue", "green"):
        table.add_column(name, justify="left" if not name else "right", no_wrap=True)
    for name in ("before", "during", "after"):
        span = data["traffic"].get(name)
        if span is None:
            continue
        total = span["total"]
        arms = [span.get(slot, {"requests": 0, "failed": 0}) for slot in ("blue", "green")]
        table.add_row(
            f"  {name}",
            show_duration(span["seconds"]),
            str(total["requests"]),
            str(total["failed"]),
            _ms(total["p50_ms"]),
            _ms(total["p99_ms"]),
            *(f"{arm['requests']}" + (f" ({arm['failed']} failed)" if arm["failed"] else "") for arm in arms),
        )
    return table


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g} ms" if value < 1000 else f"{value / 1000:.2f} s"


def plan(data: Data) -> RenderableType:
    """What each step can tell."""
    head = Text(data["environment"], style="bold")
    head.append(f"   {data['requests_per_second']:g} requests/s")
    if data["error_rate"] is not None:
        head.append(f", {data['error_rate'] * 100:.3g} % errors")
    table = Table(box=None, padding=(0, 1), header_style="dim")
    steps = data["steps"]
    worse = list(steps[0]["seconds_to_find_errors"]) if steps else []
    slower = list(steps[0]["seconds_to_find_slower"]) if steps else []
    for name in ("weight", "takes", *(f"{w} errors" for w in worse), *(f"{s} as slow" for s in slower), "passes in"):
        table.add_column(name, justify="right", no_wrap=True)
    rows: list[RenderableType] = [head, table]
    for step in steps:
        table.add_row(
            f"{step['weight'] * 100:g} %",
            show_duration(step["duration"]),
            *(_after(step["seconds_to_find_errors"].get(w)) for w in worse),
            *(_after(step["seconds_to_find_slower"].get(s)) for s in slower),
            _after(step["seconds_to_pass"]),
        )
        rows += [Text(f"  at {step['weight'] * 100:g} %: {w}", style="yellow") for w in step["warnings"]]
    rows.append(Text("Times until it is found with the stated false-alarm rate, about; half of all cases are sooner.",
                     style="dim"))  # fmt: skip
    return Group(*rows)


def _after(seconds: float | None) -> str:
    if seconds is None:
        return "never"
    return show_duration(float(round(seconds)) if seconds >= 10 else round(seconds, 1))


def migrations(items: Sequence[Data]) -> RenderableType:
    """A table of migrations, with a line below each for what its contract waits for, or what stopped it."""
    table = Table(box=None, padding=(0, 2), show_header=True, header_style="dim")
    for column in ("migration", "phase", "rows", "waits for"):
        table.add_column(column, overflow="fold")
    for one in items:
        rows = ", ".join(_rows(each) for each in one["progress"])
        phase = Text("paused" if one["paused"] else one["phase"], style=_MIGRATION_STYLE.get(one["phase"], ""))
        waits = Text(
            "; ".join(one["waits"][:2]) + (f"; and {len(one['waits']) - 2} more" if len(one["waits"]) > 2 else "")
        )
        table.add_row(one["version"], phase, rows, waits)
    troubles = [Text(f"  {one['version']}: {one['trouble']}", style="red") for one in items if one["trouble"]]
    samples = [Text(f"    {line}", style="dim") for one in items if one["trouble"] for line in one["samples"][:5]]
    return Group(table, *troubles, *samples)


def _rows(one: Data) -> str:
    return f"{one['done']:,} of {one['total']:,}" if one["total"] else f"{one['done']:,}"


def releases(rows: Sequence[Data]) -> Table:
    """The releases of an environment, whether each can be brought back, and when that was last proven."""
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    for name in ("release", "label", "standing", "restorable", "proven, took", "artifact", "created"):
        folds = name in ("restorable", "proven, took")
        table.add_column(name, no_wrap=not folds, min_width=12 if folds else None)
    for row in rows:
        if row["restorable"]:
            can = Text("yes", style="green")
        elif row["in_window"]:
            can = Text(f"NO: {row['why_not'][0]}", style="red")
        else:
            can = Text(f"no: {row['why_not'][0]}", style="dim")
        style = {"live": "bold green", "warm": "green", "failed": "dim"}.get(row["standing"], "")
        created = time.strftime("%Y-%m-%d %H:%M", time.localtime(row["created"]))
        digest = row["digest"].removeprefix("sha256:")[:12]
        standing = Text(row["standing"], style=style)
        table.add_row(row["release"], row["label"], standing, can, _proven(row), digest, created)
    return table


def _proven(row: Data) -> Text:
    """When it was last proven that a release can be brought back, and how long the newest try took."""
    proof = row["proof"]
    if proof is None:
        return Text("not yet" if row["in_window"] else "", style="yellow")
    took = f", {show_duration(proof['took'])}" if proof["took"] is not None else ""
    if not proof["ok"]:
        return Text(f"NO{took}", style="red" if row["in_window"] else "dim")
    return Text(f"{ago(row['proven'], time.time())} ago{took}", style="" if row["in_window"] else "dim")


def findings(rows: Sequence[Data]) -> Table:
    """What `doctor` found."""
    table = Table.grid(padding=(0, 2))
    for row in rows:
        mark = Text("ok", style="green") if row["ok"] else Text("NO", style="bold red")
        if row.get("warning"):
            mark = Text("!", style="bold yellow")
        table.add_row(mark, row["check"], Text(row["found"], style="" if row["ok"] else "red"))
        if row.get("hint"):
            table.add_row("", "", Text(row["hint"]))
    return table


def error(console: Console, what: str, hint: str) -> None:
    """An error and what to do next, on stderr."""
    text = Text("error: ", style="bold red").append(what, style="not bold default")
    console.print(text, soft_wrap=True)
    if hint:
        console.print(Text(hint), soft_wrap=True)
