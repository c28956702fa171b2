"""`crossfade audit`: who did what, and whether the log still is what was written."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.text import Text

from crossfade import bootstrap
from crossfade.cli.context import FAILED, Context, Json, telling

POLL = 1.0

audit = typer.Typer(help="Who did what.", invoke_without_command=True)

Limit = Annotated[int, typer.Option("--limit", "-n", help="Entries.", min=1, max=500)]
Where = Annotated[
    str | None,
    typer.Option("--environment", "-e", help="Only what was done to this SERVICE/ENVIRONMENT.", show_default=False),
]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Stay and show new entries until Ctrl-C.")]


def line(entry: Mapping[str, Any]) -> Text:
    """One entry: when, who and from where, what, to what, and what is different since."""
    text = Text(f"{entry['seq']:>6}  ", style="dim").append(f"{_when(entry['at'])}  ", style="default")
    text.append(entry["who"], style="bold").append(
        f" ({entry['via']}{' ' if entry['address'] else ''}{entry['address']})"
    )
    text.append(f"  {entry['what']}  ").append(entry["key"], style="bold")
    changes = "; ".join(_changes(entry["before"], entry["after"]))
    return text.append(f"  {changes}", style="dim") if changes else text


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    if not before or not after:
        there = {name: value for name, value in (after or before).items() if value not in (None, "", False)}
        return [f"{name} {_said(name, value)}" for name, value in there.items()]
    names = [name for name in after if after[name] != before.get(name)]
    return [f"{name} {_said(name, before.get(name))} → {_said(name, after[name])}" for name in names]


def _said(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, float) and name in ("expires", "asked", "decided"):
        return _when(value)
    return "none" if value is None or value == "" else str(value)


def _when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _show(ctx: Context, limit: int, environment: str | None, follow: bool) -> None:
    client = ctx.client()
    entries = client.audit(limit, environment)[::-1]
    if ctx.json:
        ctx.say(entries, lambda: None)
        return
    last = 0
    while True:
        for entry in entries:
            ctx.console.print(line(entry), soft_wrap=True)
            last = entry["seq"]
        if not follow:
            return
        try:
            time.sleep(POLL)
        except KeyboardInterrupt:
            return
        entries = [entry for entry in client.audit(500, environment)[::-1] if entry["seq"] > last]


@audit.callback()
def audit_root(
    context: typer.Context,
    limit: Limit = 50,
    environment: Where = None,
    follow: Follow = False,
    as_json: Json = False,
) -> None:
    """Who did what. Without a word more: the last entries."""
    if context.invoked_subcommand is None:
        with telling(context, as_json) as ctx:
            _show(ctx, limit, environment, follow)


@audit.command("list")
def list_entries(
    context: typer.Context,
    limit: Limit = 50,
    environment: Where = None,
    follow: Follow = False,
    as_json: Json = False,
) -> None:
    """The last entries: who did what, from where, to what, and what it changed."""
    with telling(context, as_json) as ctx:
        _show(ctx, limit, environment, follow)


@audit.command("verify")
def verify(context: typer.Context, as_json: Json = False) -> None:
    """Check every entry against the chain. 1 when one was changed or taken out. Works without the server."""
    with telling(context, as_json) as ctx:
        found = bootstrap.verify_audit(ctx.state)
        if found["ok"]:
            ctx.say(
                found, lambda: f"All {found['entries']} entries are as they were written. The last: {found['head']}"
            )
            return
        ctx.say(found, lambda: Text(f"BROKEN at entry {found['broken']}: {found['why']}.", style="bold red"))
        raise typer.Exit(FAILED)
