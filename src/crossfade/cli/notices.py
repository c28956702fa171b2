"""`crossfade notices`: what was told to whom, and whether somebody can be told."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import typer
from rich.table import Table

from crossfade.cli.context import FAILED, Json, telling, who
from crossfade.cli.usual import with_usual
from crossfade.domain.values import show_duration

notices = typer.Typer(cls=with_usual("list"), help="What was told to whom. Without a word: list.")

_STATES: Final = {"sent": "told", "failed": "not told", "held": "held for a summary", "summed": "told in a summary"}
_BEFORE: Final = {"resolved": "Resolved: ", "reminder": "Still open: "}


@notices.command("list")
def list_(
    context: typer.Context,
    target: Annotated[str, typer.Option(help="Only what goes to this target.")] = "",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=500, help="How many.")] = 20,
    as_json: Json = False,
) -> None:
    """What was sent to whom, what waits and what failed, newest first."""
    with telling(context, as_json) as ctx:
        found = ctx.client().notices(target, limit)
        if not found and not as_json:
            ctx.console.print("Nobody was told of anything yet. `notify` in server.yaml says who is to be.")
            return
        ctx.say({"notices": found}, lambda: _table(found, time.time()))


@notices.command("test")
def try_(
    context: typer.Context,
    target: Annotated[str, typer.Argument(help="A target of server.yaml.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Tell a target that this is a test, once. 1 when it could not be told."""
    with telling(context, as_json) as ctx:
        found = ctx.client().test_notice(target, who())
        told = found["state"] == "sent"
        words = f"{target} was told." if told else f"{target} was not told."
        answer = f" {found['answer']}." if found["answer"] else ""
        ctx.say(found, lambda: words + answer)
        if not told:
            raise typer.Exit(FAILED)


def _table(found: Sequence[Mapping[str, Any]], now: float) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("notice", "to", "ago", "severity", "of", "what", "state", "answer"):
        table.add_column(column)
    for one in found:
        state = _STATES.get(one["state"], f"waits, {one['tries']} tries" if one["tries"] else "waits")
        what = _BEFORE.get(one["state_of"], "") + one["title"]
        ago = show_duration(float(round(max(0.0, now - one["began"]))))
        place = f"{one['service']}/{one['environment']}"
        table.add_row(str(one["id"]), one["target"], ago, one["severity"], place, what, state, one["answer"])
    return table
