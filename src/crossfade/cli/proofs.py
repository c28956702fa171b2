"""`crossfade prove` and `crossfade proofs`: that the releases of the window can be restored, found by doing it aside."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final

import typer
from rich.console import RenderableType
from rich.text import Text

from crossfade.cli.client import Client, Data
from crossfade.cli.context import FAILED, Context, Json, Where, progressing, telling, which, who
from crossfade.cli.slo_show import ago, table
from crossfade.domain.errors import Unavailable
from crossfade.domain.values import show_duration

POLL: Final = 0.3
PATIENCE: Final = 600.0
"""Seconds that one release may take, and that a server that does not answer is waited for."""

_RELEASE: Final = re.compile(r"r[0-9]+")


def prove(
    context: typer.Context,
    where: Where = None,
    release: Annotated[
        str | None, typer.Argument(help="A release of the window, for example r3; all of them.", show_default=False)
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return when it is asked for.")] = False,
    as_json: Json = False,
) -> None:
    """Start the releases one can go back to on a standby, and ask their health checks. 1 when one cannot be restored."""
    with telling(context, as_json) as ctx:
        if where is not None and release is None and _RELEASE.fullmatch(where):
            where, release = None, where
        client = ctx.client()
        key = which(client, where)
        asked = client.slo.prove(key, release, who())
        if detach or not asked["asked"]:
            words = f"{_and(asked['asked'])} will be proven. See `crossfade proofs`." if asked["asked"] else NOTHING
            ctx.say({**asked, "proofs": []}, lambda: words)
            return
        rows = _follow(ctx, client, key, asked)
        ctx.say({**asked, "proofs": rows}, lambda: _shown(rows, time.time()))
        if not all(row["ok"] for row in rows):
            raise typer.Exit(FAILED)


NOTHING: Final = "There is no release to go back to yet: the second one that is promoted makes the first."


def _and(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + f" and {names[-1]}" if len(names) > 1 else names[0]


def _follow(ctx: Context, client: Client, key: str, asked: Data) -> list[Any]:
    """The rows of those that were asked for, once each was tried. Raises Unavailable when that takes too long."""
    known: set[str] | None = None
    deadline = 0.0
    with progressing(ctx) as progress:
        while True:
            rows = [row for row in _look(client, key) if row["release"] in asked["asked"]]
            done = {row["release"] for row in rows if _tried(row, asked["at"])}
            waits = [row["release"] for row in rows if row["release"] not in done]
            if not waits:
                return rows
            if done != known:
                known, deadline = done, time.monotonic() + PATIENCE
                progress(f"proves {_and(waits)} of {key}")
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"{_and(waits)} of {key} could not be tried within {show_duration(PATIENCE)}.",
                    hint="A rollout or a drill may have the environment: `crossfade status`. Then `crossfade prove` again.",
                )
            time.sleep(POLL)


def _look(client: Client, key: str) -> Sequence[Data]:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return client.slo.proofs(key)
        except Unavailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def _tried(row: Data, since: float) -> bool:
    return not row["asked"] and row["tried"] is not None and row["tried"] >= since


def proofs(context: typer.Context, where: Where = None, as_json: Json = False) -> None:
    """The releases of the window: when each was last proven, how long it took, what was looked at, what comes next."""
    with telling(context, as_json) as ctx:
        client = ctx.client()
        found = client.slo.proofs(which(client, where))
        if not found and not as_json:
            ctx.console.print(NOTHING)
            return
        ctx.say({"proofs": found}, lambda: _shown(found, time.time()))


def _shown(rows: Sequence[Data], now: float) -> RenderableType:
    made = table("release", "proven", "took", "in", "next", "what was found")
    for row in rows:
        style = "" if row["ok"] else "red" if row["ok"] is False else "dim"
        took = show_duration(row["took"]) if row["took"] is not None else "-"
        found = Text(row["sentence"], style=style)
        made.add_row(row["release"], _proven(row, now), took, row["where"], _next(row, now), found)
    return made


def _proven(row: Data, now: float) -> Text:
    if row["proven"] is None:
        return Text("never, overdue" if row["overdue"] else "never", style="yellow")
    said = Text(f"{ago(row['proven'], now)} ago")
    return said.append(", overdue", style="yellow") if row["overdue"] else said


def _next(row: Data, now: float) -> str:
    if row["asked"]:
        return "asked for"
    if row["next"] is None:
        return "by hand"
    return f"in {ago(now, row['next'])}" if row["next"] > now else "now"


COMMANDS: tuple[Callable[..., None], ...] = (prove, proofs)
