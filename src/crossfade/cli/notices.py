"""`crossfade notices`: what was told to whom, and whether somebody can be told."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from crossfade.cli import slo_show as show
from crossfade.cli.context import FAILED, Json, telling, who
from crossfade.cli.usual import with_usual

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
            nobody = "Nobody was told of anything yet. `notify` in server.yaml says who is to be."
            ctx.console.print(f"{target} was told of nothing." if target else nobody)
            return
        ctx.say({"notices": found}, lambda: _shown(found, time.time()))


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
        ctx.say(found, lambda: _tried(target, found))
        if not told:
            raise typer.Exit(FAILED)


def _tried(target: str, found: Mapping[str, Any]) -> str:
    if found["state"] == "waiting":
        return (
            f"{target} was not told yet: what was there before still waits for its answer. "
            f"`crossfade notices --target {target}` shows what becomes of it."
        )
    words = f"{target} was told." if found["state"] == "sent" else f"{target} was not told."
    return f"{words} {found['answer']}." if found["answer"] else words


def _waits(tries: int) -> str:
    return "waits" if not tries else "waits, tried once" if tries == 1 else f"waits, tried {tries} times"


def _shown(found: Sequence[Mapping[str, Any]], now: float) -> RenderableType:
    """Newest first: two lines each, for what was told and answered is long."""
    rows: list[RenderableType] = []
    for one in found:
        waits = one["state"] not in _STATES
        head = Text(f"#{one['id']}  ").append(f"{one['severity']}  ", style=show.SEVERITIES.get(one["severity"], ""))
        head.append(f"{one['service']}/{one['environment']}  to {one['target']}  {show.ago(one['began'], now)} ago  ")
        failed = one["state"] == "failed"
        state = _waits(one["tries"]) if waits else _STATES[one["state"]]
        head.append(state, style="red" if failed else "yellow" if waits else "green")
        what = Text(_BEFORE.get(one["state_of"], "") + one["title"])
        rows += [head, show.indented(what.append(f"  {one['answer']}" if one["answer"] else "", style="dim"), 4)]
    return Group(*rows)
