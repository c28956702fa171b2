"""`crossfade alerts`: what wants a person, until it is over."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from crossfade.cli import slo_show as show
from crossfade.cli.context import Json, telling, which, who
from crossfade.cli.usual import with_usual

alerts = typer.Typer(cls=with_usual("list"), help="Alerts: what wants a person. Without a word: list.")

SomeWhere = Annotated[
    str | None, typer.Argument(help="SERVICE/ENVIRONMENT; all of them when left out.", show_default=False)
]


@alerts.command("list")
def list_(
    context: typer.Context,
    where: SomeWhere = None,
    all_: Annotated[bool, typer.Option("--all", "-a", help="Also those that are over.")] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=500, help="How many.")] = 50,
    as_json: Json = False,
) -> None:
    """The open alerts, newest first."""
    with telling(context, as_json) as ctx:
        client = ctx.client()
        key = which(client, where) if where is not None else None
        found = client.slo.alerts(key, not all_, limit)
        if not found and not as_json:
            ctx.console.print("There was no alert yet." if all_ else "Nothing wants a person.")
            return
        ctx.say({"alerts": found}, lambda: show.alerts(found, time.time()))


@alerts.command()
def ack(
    context: typer.Context,
    number: Annotated[int, typer.Argument(help="The alert's number.", min=1, show_default=False)],
    as_json: Json = False,
) -> None:
    """Say that one has seen it and looks after it. It stays open until what it is about is over."""
    with telling(context, as_json) as ctx:
        found = ctx.client().slo.acknowledge(number, who())
        over = found["ended"] is not None
        words = f"Alert #{number} is over already: {found['resolution'] or found['sentence']}"
        ctx.say(found, lambda: words if over else f"Alert #{number} is yours ({found['acknowledged']}).")
