"""How objectives, budgets, watches and alerts look in a terminal."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from crossfade.domain.values import show_duration

Data = Mapping[str, Any]
BAR: Final = 20
NARROW: Final = 8
"""Cells of a bar in a table."""
SPANS: Final = ((86_400.0, "d"), (3600.0, "h"), (60.0, "m"), (1.0, "s"))
STYLES: Final = {"ok": "green", "ticket": "yellow", "page": "bold red", "exhausted": "bold red", "unknown": "dim"}
STATES: Final = {
    "ok": "kept",
    "ticket": "burns slowly",
    "page": "burns fast",
    "exhausted": "used up",
    "unknown": "unknown",
}
SEVERITIES: Final = {"page": "bold red", "ticket": "yellow", "info": "dim"}


def table(*columns: str) -> Table:
    """With a line of names above it. The last column folds, the others stay whole."""
    made = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in columns:
        made.add_column(column, no_wrap=column != columns[-1], overflow="ellipsis" if column != columns[-1] else "fold")
    return made


def indented(text: str | Text, by: int = 2, style: str = "") -> Padding:
    """A line that stays to the right of its margin when it is broken."""
    return Padding(text if isinstance(text, Text) else Text(text, style=style), (0, 0, 0, by))


# --- numbers and times


def span(seconds: float) -> str:
    """A length that somebody chose: ``5 m``, ``30 d``; others as `show_duration` says them."""
    for size, unit in SPANS:
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g} {unit}"
    return show_duration(seconds)


def ago(then: float, now: float) -> str:
    """How long it has been, in one unit: ``12 m``, ``3 d``."""
    passed = max(0.0, now - then)
    size, unit = next(((size, unit) for size, unit in SPANS if passed >= size), SPANS[-1])
    return f"{passed / size:.0f} {unit}"


def when(at: float | None) -> str:
    """On this machine's clock."""
    return "" if at is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(at))


def good(share: float | None) -> str:
    """A share of good requests, never rounded up to all of them: ``99.947 %``."""
    if share is None:
        return "unknown"
    if share >= 1:
        return "100 %"
    digits = 5 if share > 0.9999 else 3 if share > 0.99 else 2
    cut = math.floor(share * 100 * 10**digits + 1e-6) / 10**digits
    return f"{round(min(cut, 100 - 10**-digits), digits):.9g} %"


def target(share: float) -> str:
    """What was promised, as it was written: ``99.9 %``."""
    return f"{round(share * 100, 7):.9g} %"


def burn(times: float | None) -> str:
    """How many times as fast as it may."""
    return "-" if times is None else f"{times:.0f}x" if times >= 100 else f"{times:.1f}x"


def left(budget: Data, width: int = BAR) -> Text:
    """What is left of an error budget, as a bar and in words."""
    share = budget["left"]
    if share is None:
        return Text("░" * width + " unknown", style="dim")
    cells = 0 if share <= 0 else max(1, min(width, math.floor(share * width)))
    style = "red" if share <= 0 else "yellow" if share < 0.25 else "green"
    text = Text().append("█" * cells, style=style).append("░" * (width - cells), style="dim")
    if share <= 0:
        return text.append(" none left" if share > -0.005 else f" used {min(1 - share, 9999):.1f}x", style="bold red")
    return text.append(
        " all left" if share >= 1 else f" {max(0.1, min(share * 100, 99.9)):.{0 if share >= 0.1 else 1}f} % left"
    )


def promise(objective: Data) -> str:
    """What clients are promised."""
    what = "answered without an error"
    if objective["kind"] == "latency":
        what = f"answered within {show_duration(objective['threshold'])}" if objective["threshold"] else "fast"
    counted = f", counted by {objective['signal']}" if objective["signal"] else ""
    return f"{target(objective['target'])} {what} over {span(objective['window'])}{counted}"


# --- objectives


def overview(found: Sequence[Data]) -> RenderableType:
    """All environments: a line for each objective."""
    made = table("environment", "objective", "state", "good", "promised", "budget")
    notes: list[RenderableType] = []
    for view in found:
        key = f"{view['service']}/{view['environment']}"
        for place, one in enumerate(view["objectives"]):
            kept = good(one["share_good"]), target(one["target"])
            made.add_row("" if place else key, one["name"], state(one), *kept, left(one["budget"], NARROW))
        if not view["objectives"]:
            made.add_row(key, Text("none", style="dim"), "", "", "", "")
        notes += [indented(f"{key}: {line}", 0, style) for line, style in _notes(view)]
    return Group(made, *notes)


def state(one: Data) -> Text:
    """How an objective stands, in a word."""
    return Text(str(STATES.get(one["state"], one["state"])), style=STYLES.get(one["state"], ""))


def _notes(view: Data) -> list[tuple[str, str]]:
    """What follows of an environment's state, in a line each."""
    lines = []
    if view["frozen"]:
        lines.append((_frozen(view["frozen"], view["now"]), "yellow"))
    if view["alerts"]:
        pages = sum(alert["severity"] == "page" for alert in view["alerts"])
        many = len(view["alerts"])
        urgent = f", {pages} of them urgent" if pages and many > 1 else ""
        what = f"{many} open alert{'s' if many > 1 else ''}{urgent} (`crossfade alerts`)"
        lines.append((what, "red" if pages else "yellow"))
    return lines


def one(view: Data) -> RenderableType:
    """One environment: what was promised and kept, how fast budgets burn, and what follows of it."""
    rows: list[RenderableType] = [Text(f"{view['service']}/{view['environment']}", style="bold")]
    if not view["objectives"]:
        rows.append(indented("No objectives: `slo` in crossfade.yaml sets them, with the next deployment."))
    for objective in view["objectives"]:
        rows += _objective(objective)
    rows += _aside("prober", _probe(view["probe"]) if view["probe"] else None)
    rows += _aside("watch", watch(view["watch"], view["now"]) if view["watch"] else None)
    rows += _aside("frozen", Text(_frozen(view["frozen"], view["now"]), style="yellow") if view["frozen"] else None)
    if view["alerts"]:
        rows.append(Padding(alerts(view["alerts"], view["now"]), (0, 0, 0, 2)))
    return Group(*rows)


def _aside(name: str, said: Text | None) -> list[RenderableType]:
    if said is None:
        return []
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_row(Text(f"  {name:<8}", style="dim"), said)
    return [grid]


def _objective(one: Data) -> list[RenderableType]:
    head = Text(one["name"], style="bold").append("  ").append_text(state(one))
    kept = Text(f"{good(one['share_good'])} good   budget ").append_text(left(one["budget"]))
    rows: list[RenderableType] = [
        indented(head),
        indented(promise(one), 4),
        indented(kept, 4),
        indented(one["sentence"], 4, "dim"),
    ]
    if one["covered"] < 0.9995:
        known = (
            f"{ago(0, one['covered'] * one['window'])} of the last {span(one['window'])} is known; the rest is a gap"
        )
        rows.append(indented(known, 4, "dim"))
    rules = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("alert", "above", "lately", "and longer", ""):
        rules.add_column(column, no_wrap=True)
    for rule in one["rules"]:
        fires = Text("fires" if rule["fires"] else "", style=SEVERITIES.get(rule["severity"], ""))
        short = f"{burn(rule['burn_short']):>6} in {span(rule['short'])}"
        long = f"{burn(rule['burn_long']):>6} in {span(rule['long'])}"
        rules.add_row(rule["severity"], burn(rule["threshold"]), short, long, fires)
    if one["rules"]:
        rows.append(Padding(rules, (0, 0, 0, 4)))
    return rows


def _frozen(frozen: Data, now: float) -> str:
    lifts = "nobody can say yet when it lifts"
    if frozen["lifts"] is not None:
        lifts = f"lifts about {when(frozen['lifts'])} (in {ago(now, frozen['lifts'])}) if nothing else goes wrong"
    return f"{frozen['sentence']}; {lifts}"


def _probe(probe: Data) -> Text:
    text = Text(str(probe["sentence"]), style="" if probe["ok"] in (True, None) else "red")
    if probe.get("share_good") is not None:
        text.append(f"; {good(probe['share_good'])} good", style="dim")
    return text


def watch(found: Data, now: float) -> Text:
    """A watch after a promotion, in a sentence."""
    text = Text(found["sentence"], style=_style(found))
    if not found["ended"] and found["until"] > now:
        text.append(f"; for another {show_duration(found['until'] - now)}", style="dim")
    return text


def _style(found: Data) -> str:
    if found["phase"] in ("not-helped", "unknown"):
        return "red"
    return "yellow" if found["cause"] is not None else ""


def brief(view: Data) -> list[RenderableType]:
    """What `status` says of it: in as few lines as it takes."""
    made = Table.grid(padding=(0, 2, 0, 0))
    for one in view["objectives"]:
        kept = f"{good(one['share_good'])} good of {target(one['target'])}"
        budget = Text("budget ").append_text(left(one["budget"], NARROW))
        made.add_row(f"  {one['name']}", state(one), kept, budget)
    rows: list[RenderableType] = [made] if view["objectives"] else []
    if view["watch"] and not view["watch"]["ended"]:
        rows += _aside("watch", watch(view["watch"], view["now"]))
    return rows + [indented(line, 2, style) for line, style in _notes(view)]


# --- history


def history(name: str, rows: Sequence[Data], begins: float, ends: float) -> RenderableType:
    """What was counted, oldest first. A time of which nothing is known is a line that says so."""
    if not rows:
        return Text(f"Nothing is known of {name} from {when(begins)} to {when(ends)}.")
    made = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("from", "known", "requests", "bad", "good"):
        made.add_column(column, justify="left" if column == "from" else "right", no_wrap=True)
    until = rows[0]["at"]
    for row in rows:
        if row["at"] > until + 0.5:
            made.add_row(_moment(until), Text(f"nothing for {show_duration(row['at'] - until)}", style="yellow"))
        until = row["at"] + row["seconds"]
        share = 1 - row["bad"] / row["total"] if row["total"] > 0 else None
        known = row["covered"] / row["seconds"]
        made.add_row(
            _moment(row["at"]),
            Text(f"{math.floor(known * 100 + 1e-6)} %", style="" if known > 0.99 else "yellow"),
            f"{row['total']:,.0f}",
            Text(f"{row['bad']:,.0f}" if row["bad"] >= 1 or not row["bad"] else f"{row['bad']:.2g}",
                 style="red" if row["bad"] else ""),
            good(share) if share is not None else "no requests",
        )  # fmt: skip
    return made


def _moment(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


# --- alerts


def alerts(found: Sequence[Data], now: float) -> RenderableType:
    """Newest first: two lines each, for a sentence is long."""
    rows: list[RenderableType] = []
    for one in found:
        over = one["ended"] is not None
        head = Text(f"#{one['id']}  ", style="dim" if over else "")
        head.append(f"{one['severity']}  ", style="dim" if over else SEVERITIES.get(one["severity"], ""))
        head.append(f"{one['service']}/{one['environment']}  {one['name']}")
        if over:
            head.append(f"  {when(one['began'])}, over after {show_duration(one['ended'] - one['began'])}")
        else:
            head.append(f"  for {ago(one['began'], now)}")
        seen = f"seen by {one['acknowledged']}" if one["acknowledged"] else "" if over else "nobody looks after it yet"
        head.append(f"  {seen}" if seen else "", style="dim" if one["acknowledged"] else "yellow")
        rows += [head, indented(one["resolution"] if over and one["resolution"] else one["sentence"], 4)]
        proposal = one["facts"].get("proposal") or {}
        if proposal.get("command") and not over:
            rows.append(indented(f"to end it: {proposal['command']}  ({proposal['sentence']})", 4, "cyan"))
    return Group(*rows)


# --- watches


def watches(found: Sequence[Data], now: float) -> RenderableType:
    """Newest first."""
    if not found:
        return Text("No promotion was watched yet: `slo.watch` in crossfade.yaml says for how long one is.")
    made = table("watch", "release", "began", "phase", "recovery", "harmed", "what it has come to")
    for one in found:
        receipt = one["receipt"] or {}
        harmed, recovery = receipt.get("harmed"), receipt.get("recovery")
        made.add_row(
            f"#{one['id']}",
            one["release"],
            f"{ago(one['began'], now)} ago",
            one["phase"],
            show_duration(recovery) if recovery is not None else "-",
            f"{harmed:,}" if harmed is not None else "-",
            watch(one, now),
        )
    return made


def one_watch(found: Data) -> RenderableType:
    """One with its journal, and what came of it."""
    head = Text(f"Watch #{found['id']}", style="bold")
    head.append(
        f"  {found['service']}/{found['environment']}  {found['release']} after {found['previous'] or 'nothing'}  "
    )
    head.append(found["phase"], style=_style(found) or "green")
    rows: list[RenderableType] = [head, indented(watch(found, found["now"]))]
    journal = Table.grid(padding=(0, 2, 0, 0))
    for line in found["journal"]:
        journal.add_row(f"  {line['at'] - found['began']:9.2f} s", Text(line["text"]))
    rows.append(journal)
    if found["profile"]["why_not"]:
        rows.append(indented(f"not compared with the release before: {found['profile']['why_not']}", 2, "dim"))
    if receipt := found["receipt"]:
        times = [(name, receipt[name]) for name in ("detection", "decision", "switch", "recovery")]
        said = ", ".join(f"{name} {show_duration(took)}" for name, took in times if took is not None)
        harmed = f"; {receipt['harmed']:,} requests harmed" if receipt["harmed"] is not None else ""
        rows.append(indented(f"receipt: {said or 'nothing was done'}{harmed}"))
    return Group(*rows)
