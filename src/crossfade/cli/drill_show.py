"""How drills look in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from crossfade.cli.slo_show import Data, ago, indented, table, when
from crossfade.domain.values import show_duration

STYLES: Final = {"passed": "green", "failed": "bold red", "aborted": "yellow"}
FAULTS: Final = {
    "kill-replica": "a replica is killed",
    "latency": "the edge makes the canary's requests slow",
    "errors": "the edge makes the canary's requests fail",
    "kill-control-plane": "the control plane is killed",
}
SPANS: Final = {"exposed": "canary", "back": "way back", "hold": "hold", "forth": "way home", "after": "after"}
WAYS: Final = {
    "starting": 0,
    "faulty": 0,
    "exposed": 1,
    "going-back": 1,
    "holding": 2,
    "going-forth": 3,
    "checking": 4,
    "ending": 4,
}
"""How many of the stations each phase has behind it."""


def way(found: Data) -> str:
    """From where to where: ``r3 → r2 → r3``."""
    return (
        f"{found['home']} → {found['target']} → {found['home']}" if found["target"] else f"a canary of {found['home']}"
    )


def would(found: Data) -> RenderableType:
    """What a drill would do, step by step."""
    key = f"{found['service']}/{found['environment']}"
    steps = []
    fault = found["fault"]
    if found["target"] is None:
        steps += [
            f"{found['home']} is rolled out once more, as a canary beside itself",
            f"{FAULTS[fault]}; the judge has {show_duration(found['patience'])} to take it back",
        ]
    else:
        first = f"{FAULTS[fault]}; then " if fault == "kill-replica" else ""
        during = f", and {FAULTS[fault]} meanwhile" if fault == "kill-control-plane" else ""
        steps += [
            f"{first}all traffic goes from {found['home']} back to {found['target']}, as in a rollback{during}",
            f"{found['target']} serves for {show_duration(found['hold'])}; harm that the judge sees ends that at once",
            f"all traffic goes home to {found['home']}",
        ]
    head = Text(f"A drill of {key}, under live traffic:", style="bold")
    numbered = Table.grid(padding=(0, 1, 0, 0))
    for number, step in enumerate(steps, 1):
        numbered.add_row(f"  {number}.", Text(step))
    return Group(head, numbered)


def head(found: Data) -> Text:
    """Which drill it is."""
    text = Text(f"Drill #{found['id']}", style="bold")
    name = f" ({found['name']})" if found["name"] else ""
    text.append(f"{name}  {found['service']}/{found['environment']}  {way(found)}", style="not bold")
    if found["fault"]:
        text.append(f"  {FAULTS.get(found['fault'], found['fault'])}", style="not bold yellow")
    return text


def line(found: Data, entry: Data) -> Table:
    """A line of its journal, with the seconds since it began."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_row(f"  {entry['at'] - found['began']:7.2f} s", Text(entry["text"]))
    return grid


def progress(found: Data, now: float) -> RenderableType:
    """Where a drill under way is."""
    names = ["fault" if found["fault"] else "start", "canary" if found["target"] is None else "back"]
    names += ["hold", "home", "health"] if found["target"] is not None else []
    done = WAYS.get(found["phase"], len(names))
    text = Text("  ")
    for place, name in enumerate(names):
        text.append(" → " if place else "", style="dim")
        text.append(
            f"{name} ✓" if place < done else name, style="green" if place < done else "bold" if place == done else "dim"
        )
    text.append(f"   {found['phase']}", style="cyan")
    if found["phase"] == "holding":
        gone = min(max(0.0, now - found["entered"]), found["hold"])
        text.append(f" {show_duration(gone)} of {show_duration(found['hold'])}")
    rows: list[RenderableType] = [text]
    if found["waiting"]:
        rows.append(indented(found["waiting"], 2, "dim"))
    return Group(*rows)


def receipt(found: Data) -> RenderableType:
    """How it ended: how long each part took, and what clients saw."""
    data = found["receipt"]
    title = Text(f"Receipt of drill #{found['id']}  ", style="bold")
    title.append(f"{found['service']}/{found['environment']}  {way(found)}  ", style="not bold")
    title.append(found["phase"], style=STYLES.get(found["phase"], ""))
    rows: list[RenderableType] = [title]
    if found["reason"]:
        rows.append(_beside("why", Text(found["reason"], style="yellow")))
    if data is None:
        return Group(*rows)
    title.append(f" after {show_duration(data['duration'])}", style="dim")
    times = Table.grid(padding=(0, 2, 0, 0))
    for name, said in (
        ("detection", "from the fault until it was noticed" + (f": {data['noticed']}" if data["noticed"] else "")),
        ("decision", "from there until the return was begun"),
        ("switch", "until all traffic was on the other release"),
        ("recovery", "from the " + ("fault" if data["fault"] else "order") + " until then"),
        ("forth", "of the switch home"),
        ("whole", "from the fault until nothing was left of it"),
    ):
        if data[name] is not None:
            times.add_row(f"  {name:<9}", Text(show_duration(data[name]), justify="right"), Text(said, style="dim"))
    rows.append(times)
    rows.append(_clients(data))
    if data["traffic"]:
        rows.append(_spans(data["traffic"]))
    if data["counts_lost"]:
        rows.append(indented("The edge restarted on the way: what it counted just before is lost.", 2, "yellow"))
    return Group(*rows)


def _beside(name: str, said: Text) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_row(f"  {name:<9}", said)
    return grid


def _clients(data: Data) -> Table:
    if data["requests"] is None:
        return _beside("clients", Text("what they saw is not known: the edge could not be read", style="yellow"))
    text = Text(f"{data['requests']:,} requests, ")
    text.append(f"{data['harmed']:,} harmed", style="green" if not data["harmed"] else "red")
    text.append(f", {data['lost']:,} of them without an answer" if data["lost"] else "")
    if exposed := data.get("exposed"):
        text.append(f"; the canary with the fault served {exposed['requests']:,}, {exposed['failed']:,} of them failed")
    return _beside("clients", text)


def _spans(traffic: Data) -> Table:
    made = Table(box=None, padding=(0, 1), header_style="dim")
    for name in ("", "for", "requests", "failed", "p50", "p99"):
        made.add_column(name, justify="right" if name else "left", no_wrap=True)
    for name, span in traffic.items():
        made.add_row(
            f"  {SPANS.get(name, name)}",
            show_duration(span["seconds"]),
            f"{span['requests']:,}",
            f"{span['failed']:,}",
            *(f"{span[p]:.3g} ms" if span[p] is not None else "-" for p in ("p50_ms", "p99_ms")),
        )
    return made


def whole(found: Data, now: float) -> RenderableType:
    """A drill with its journal, and its receipt or where it is."""
    rows: list[RenderableType] = [head(found)]
    rows.append(Text(f"  began {when(found['began'])}, by {found['by']}", style="dim"))
    rows += [line(found, entry) for entry in found["journal"]]
    rows.append(receipt(found) if found["ended"] else progress(found, now))
    return Group(*rows)


def listed(found: Sequence[Data], now: float) -> RenderableType:
    """Newest first."""
    if not found:
        return Text("No drill yet. `crossfade drill` rehearses a rollback; `drills` in crossfade.yaml plans them.")
    made = table("drill", "name", "when", "way", "outcome", "recovery", "harmed", "fault or why")
    for one in found:
        data = one["receipt"] or {}
        outcome = Text(one["phase"], style=STYLES.get(one["phase"], "cyan"))
        harmed = data.get("harmed")
        made.add_row(
            f"#{one['id']}",
            one["name"] or "-",
            f"{ago(one['began'], now)} ago",
            f"{one['home']} → {one['target'] or 'canary'}",
            outcome,
            show_duration(data["recovery"]) if data.get("recovery") is not None else "-",
            Text("-" if harmed is None else f"{harmed:,}", style="red" if harmed else ""),
            one["reason"] or one["fault"] or "",
        )
    return made


def scheduled(found: Sequence[Data], now: float) -> RenderableType:
    """What is planned."""
    if not found:
        return Text("No drill is planned: `drills` in crossfade.yaml does it, with the next deployment.")
    made = table("drill", "environment", "schedule", "way", "last", "how it stands")
    for one in found:
        last = one["last"]
        said = Text("never", style="yellow") if last is None else Text(f"{ago(last['began'], now)} ago ")
        if last is not None:
            said.append(last["phase"], style=STYLES.get(last["phase"], "cyan"))
        back = one["fault"] if one["fault"] in ("latency", "errors") else f"{one['back']} back"
        how = Text("OVERDUE: " if one["overdue"] else "", style="bold yellow").append(
            one["sentence"], style="not bold default"
        )
        made.add_row(one["name"], one["environment"], one["schedule"] or "-", back, said, how)
    return made
