"""`crossfade watches`: what becomes of releases in the time after their promotion."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from crossfade.cli import slo_show as show
from crossfade.cli.context import Json, Where, telling, which, who
from crossfade.cli.usual import with_usual

watches = typer.Typer(cls=with_usual("list"), help="The watches after promotions. Without a word: list.")

Number = Annotated[int, typer.Argument(help="The watch's number.", min=1, show_default=False)]


@watches.command("list")
def list_(
    context: typer.Context,
    where: Where = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=500, help="How many.")] = 20,
    as_json: Json = False,
) -> None:
    """The watches of an environment, newest first: what each has found, and done."""
    with telling(context, as_json) as ctx:
        client = ctx.client()
        found = client.slo.watches(which(client, where), limit)
        ctx.say({"watches": found}, lambda: show.watches(found, time.time()))


@watches.command("show")
def show_(context: typer.Context, number: Number, as_json: Json = False) -> None:
    """One watch: its journal, and what came of it."""
    with telling(context, as_json) as ctx:
        found = ctx.client().slo.watch(number)
        ctx.say(found, lambda: show.one_watch(found))


@watches.command()
def end(context: typer.Context, number: Number, as_json: Json = False) -> None:
    """End a watch: from now on nothing is taken back by itself. Alerts come as before."""
    with telling(context, as_json) as ctx:
        found = ctx.client().slo.end_watch(number, who())
        ctx.say(found, lambda: f"Watch #{number} is over: {found['sentence']}.")
