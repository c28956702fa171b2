"""How flags, ramps and requests look in a terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from crossfade.cli.show import weight

Data = Mapping[str, Any]
BAR = 24
_RAMP_STYLE = {"finished": "green", "failed": "red", "returned": "yellow", "aborted": "yellow", "left": "yellow"}


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in columns:
        table.add_column(column)
    return table


def _when(at: float | None) -> str:
    return "" if at is None else f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S}"


def state(one: Data) -> Text:
    """In a word: killed, off, ramping, on."""
    if one["killed"]:
        return Text("killed", style="bold red")
    if not one["enabled"]:
        return Text("off", style="dim")
    if one.get("ramp"):
        return Text(f"ramp #{one['ramp']}", style="cyan")
    return Text("on", style="green")


def serves(one: Data) -> str:
    """What is given to whom, in short."""
    if one["killed"]:
        return f"{one['off']} to everybody"
    parts = []
    for rule in one["rules"]:
        shares = ", ".join(f"{name} {weight(bp)}" for name, bp in rule["shares"].items()) or rule["serves"]
        parts.append(f"{rule['name']}: {shares}{' (paused)' if rule['paused'] else ''}")
    if one["targeting"]:
        parts.append("targeting")
    rest = one["default"] if one["default"] is not None else "the code's default"
    return "; ".join([*parts, f"else {rest}"])


def listed(found: Data) -> RenderableType:
    """The flags of an environment."""
    head = Text(f"{found['service']}/{found['environment']}", style="bold")
    head.append(f"   version {found['version']}", style="dim")
    if found["stale_since"]:
        head.append("   the newest cannot be read: these are the last that could be", style="yellow")
    if not found["flags"]:
        return Group(
            head, Text("  No flags. `crossfade flags import FILE` brings some, `crossfade flags set` makes one.")
        )
    table = _table("flag", "state", "gives", "owner", "tags", "note")
    for one in found["flags"]:
        note = Text(one["stale"]["why"], style="yellow") if one["stale"] else Text(one["description"], style="dim")
        table.add_row(one["key"], state(one), serves(one), one["owner"], ", ".join(one["tags"]), note)
    return Group(head, table)


def one(found: Data) -> RenderableType:
    """One flag with its data."""
    flag = found["flag"]
    ours = flag.get("crossfade") or {}
    head = Text(found["key"], style="bold")
    head.append(f"   {found['service']}/{found['environment']}, version {found['version']}", style="dim")
    rows: list[RenderableType] = [head]
    if ours.get("description"):
        rows.append(Text(f"  {ours['description']}"))
    if ours.get("killed"):
        killed = ours["killed"]
        why = f": {killed['why']}" if killed["why"] else ""
        rows.append(Text(f"  killed by {killed['by']} at {_when(killed['at'])} UTC{why}", style="red"))
    if found["changed"]:
        changed = found["changed"]
        note = f": {changed['note']}" if changed["note"] else ""
        rows.append(Text(f"  last changed by {changed['by']} at {_when(changed['at'])} UTC{note}", style="dim"))
    if found["stale"]:
        rows.append(Text(f"  {found['stale']['why']}", style="yellow"))
    known = [("required by", found["required_by"]), ("experiments", found["experiments"])]
    rows += [Text(f"  {what}: {', '.join(names)}") for what, names in known if names]
    if found["requests"]:
        rows.append(Text(f"  waits for approval: request {', '.join(map(str, found['requests']))}", style="cyan"))
    if found["usage"]:
        table = _table("  variant", "release", "evaluations", "last (UTC)")
        for used in found["usage"][:20]:
            table.add_row(f"  {used['variant']}", used["release"], str(used["n"]), _when(used["last"]))
        rows.append(table)
    rows.append(Text(json.dumps(flag, indent=2, ensure_ascii=False)))
    return Group(*rows)


def trace(found: Data) -> RenderableType:
    """What somebody gets, and why."""
    got = found["evaluation"]
    value = json.dumps(got.get("value"), ensure_ascii=False)
    head = Text(found["flag"], style="bold").append(f" gives {got.get('variant') or 'no variant'} = {value}")
    head.append(f"   {got['reason']}", style="dim")
    if got.get("error"):
        head.append(f"   {got['error']}: {got.get('details', '')}", style="red")
    table = Table(box=None, padding=(0, 2), show_header=False)
    for number, step in enumerate(found["steps"], 1):
        found_ = step["found"]
        shown = found_ if isinstance(found_, str) else json.dumps(found_, ensure_ascii=False)
        table.add_row(Text(f"{number}", style="dim"), step["what"], shown, Text(str(step["outcome"]), style="cyan"))
    return Group(head, table)


def preview(found: Data) -> RenderableType:
    """Who would get what."""
    rows: list[RenderableType] = [changes(found["changes"])]
    for name, what in (("seen", "of those seen lately"), ("made_up", "of made-up people")):
        audience = found[name]
        if not audience["contexts"]:
            continue
        table = _table(f"  {what}", "now", "then")
        for variant in dict.fromkeys((*audience["before"], *audience["after"])):
            shares = [audience[side].get(variant, 0) / audience["contexts"] for side in ("before", "after")]
            table.add_row(f"  {variant}", *(f"{share:.1%}" for share in shares))
        rows.append(table)
    return Group(*rows, Text("Nothing was changed: a dry run.", style="dim"))


def changes(found: Sequence[Data]) -> RenderableType:
    """What differs, in words."""
    if not found:
        return Text("Nothing differs.")
    return Group(*(Text(f"  {one['sentence']}") for one in found))


def done(made: Data, what: str) -> RenderableType:
    """What came of a change."""
    if made.get("request"):
        request = made["request"]
        return Text(
            f"{what}: request {request['request']} waits for somebody else with the role {request['role']} "
            f"(`crossfade flags approve {request['request']}`, or the dashboard)."
        )
    return Text(f"{what}: version {made['version']} is served.")


def brought(made: Data, key: str, dry_run: bool) -> RenderableType:
    """What a file, or another environment, has brought."""
    last = Text("Nothing was changed: a dry run.", style="dim") if dry_run else done(made, f"the flags of {key}")
    return Group(changes(made["changes"]), last)


def versions(found: Sequence[Data]) -> RenderableType:
    """Newest first."""
    table = _table("version", "when (UTC)", "by", "flags", "note")
    for version in found:
        names = ", ".join(version["flags"][:5]) + (" …" if len(version["flags"]) > 5 else "")
        table.add_row(str(version["version"]), _when(version["at"]), version["by"], names, version["note"])
    return table


def requests(found: Sequence[Data]) -> RenderableType:
    """Those that wait."""
    if not found:
        return Text("Nothing waits.")
    table = _table("request", "environment", "what", "flags", "asked by", "wants", "note")
    for asked in found:
        key = f"{asked['service']}/{asked['environment']}"
        names = ", ".join(asked["flags"])
        table.add_row(str(asked["request"]), key, asked["what"], names, asked["by"], asked["role"], asked["note"])
    return table


# --- ramps


def ramp(found: Data, journal: bool = True) -> RenderableType:
    """One ramp, with what clients of each variant saw, and the verdict."""
    head = Text(f"ramp #{found['id']} ").append(f"{found['flag']} = {found['variant']}", style="bold")
    head.append(f"   {found['service']}/{found['environment']}   ", style="dim")
    phase = "paused" if found["paused"] else found["phase"]
    head.append(phase, style=_RAMP_STYLE.get(phase, "cyan"))
    cells = round(found["weight"] / 10_000 * BAR)
    line = Text(f"  {weight(found['weight']):>7} ").append("█" * cells, style="green").append("·" * (BAR - cells))
    steps = " → ".join(weight(step["weight"]) for step in found["steps"])
    rows: list[RenderableType] = [head, line.append(f"  step {min(found['step'] + 1, len(found['steps']))} of {steps}")]
    rows += [Text(f"  {_arm(name, arm)}", style="dim") for name, arm in found["arms"].items()]
    if found["waiting"] and not found["ended"]:
        rows.append(Text(f"  {found['waiting']}"))
    if found["reason"]:
        rows.append(Text(f"  {found['reason']}", style="yellow"))
    elif found["verdict"]:
        rows.append(Text(f"  {found['verdict']['finding']}: {found['verdict']['sentence']}", style="dim"))
    if journal:
        rows += [Text(journal_line(found, line)) for line in found.get("journal", [])]
    return Group(*rows)


def _arm(name: str, arm: Data) -> str:
    latency = f", p99 {arm['p99_ms']:.3g} ms" if arm["p99_ms"] is not None else ""
    return f"{name:<12} {arm['requests']} requests, {arm['failed']} failed{latency}"


def journal_line(found: Data, line: Data) -> str:
    """A line of a ramp's journal, with the seconds since it began."""
    return f"  {line['at'] - found['began']:7.2f} s  {line['text']}"


def ramps(found: Sequence[Data]) -> RenderableType:
    """Newest first."""
    if not found:
        return Text("No flag was ramped yet. `crossfade flags ramp FLAG` begins one.")
    table = _table("ramp", "flag", "variant", "share", "phase", "why")
    for one_ in found:
        phase = "paused" if one_["paused"] else one_["phase"]
        table.add_row(
            str(one_["id"]),
            one_["flag"],
            one_["variant"],
            weight(one_["weight"]),
            Text(phase, style=_RAMP_STYLE.get(phase, "cyan")),
            one_["reason"] or one_["waiting"],
        )
    return table
