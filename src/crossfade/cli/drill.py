"""`crossfade drill`: a rollback is rehearsed under live traffic, before one is needed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Annotated, Any, Final, TypeVar

import typer
from rich.live import Live

from crossfade.cli import drill_show as show
from crossfade.cli.client import Client, Data
from crossfade.cli.context import FAILED, Context, Json, Where, telling, which, who
from crossfade.cli.usual import with_usual
from crossfade.domain.drill import FURTHEST, LONGEST_HOLD, Fault
from crossfade.domain.errors import Invalid, Unavailable
from crossfade.domain.values import parse_duration

POLL: Final = 0.25
AWAY: Final = 90.0
"""Seconds for which a server that does not answer is waited for: a drill may kill it, and it starts again."""

Found = TypeVar("Found")

drill = typer.Typer(
    cls=with_usual("run"), help="Drills: rehearsed rollbacks under live traffic. Without a word: run one."
)

Number = Annotated[int, typer.Argument(help="The drill's number.", min=1, show_default=False)]


@drill.command()
def run(
    context: typer.Context,
    where: Where = None,
    back: Annotated[int, typer.Option(min=1, max=FURTHEST, help="How many releases to go back.")] = 1,
    hold: Annotated[str, typer.Option(help="How long the older release serves.")] = "30s",
    fault: Annotated[
        Fault | None,
        typer.Option(
            help="What is done to it first: a replica or the control plane is killed, or the edge makes the requests of "
            "a canary slow or fail.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        str, typer.Option(help="Which drill of the schedule it stands for, or what to call it.", show_default=False)
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done; do nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Return when it has begun.")] = False,
    as_json: Json = False,
) -> None:
    """Go back to an older release and return, under live traffic, guarded by the judge. 1 when it fails."""
    with telling(context, as_json) as ctx:
        client = ctx.client()
        key = which(client, where)
        seconds = parse_duration("--hold", hold)
        if seconds > LONGEST_HOLD:
            raise Invalid("--hold", hold, f"at most {LONGEST_HOLD / 3600:g}h")
        if dry_run or not yes:
            would = client.slo.plan_drill(key, back, seconds, fault)
            if dry_run:
                ctx.say(would, lambda: show.would(would))
                return
            _confirm(ctx, would)
        body = {"name": name, "back": back, "hold": seconds, "fault": fault, "by": who()}
        begun = _begin(client, key, body)
        if detach:
            ctx.say(begun, lambda: f"Drill #{begun['id']} has begun. See `crossfade drill show {begun['id']}`.")
            return
        _end(ctx, _follow(ctx, client, begun))


def _begin(client: Client, key: str, body: Data) -> Any:
    """The drill that begins; also when the server was killed by it before it could say so."""
    before = max((one["id"] for one in client.slo.drills(key, 1)), default=0)
    try:
        return client.slo.begin_drill(key, body)
    except Unavailable:
        if body["fault"] is not Fault.KILL_CONTROL_PLANE:
            raise
        newest = _answered(lambda: client.slo.drills(key, 1))
        if not newest or newest[0]["id"] <= before:
            raise
        return _look(client, newest[0]["id"])


def _confirm(ctx: Context, would: Data) -> None:
    if ctx.json or not sys.stdin.isatty():
        raise Invalid("drill", "no --yes", "--yes, since it moves live traffic (--dry-run says how)")
    ctx.console.print(show.would(would))
    typer.confirm("Go on?", abort=True)


# --- following


def _answered(ask: Callable[[], Found]) -> Found:
    """What is answered, by the server that starts again if need be. Raises Unavailable when it doesn't."""
    deadline = time.monotonic() + AWAY
    while True:
        try:
            return ask()
        except Unavailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def _look(client: Client, id: int) -> Any:
    return _answered(lambda: client.slo.drill(id))


def _follow(ctx: Context, client: Client, begun: Data) -> Any:
    """The drill at its end; None when the person leaves with Ctrl-C (the drill goes on)."""
    id = int(begun["id"])
    if ctx.json:
        while not (found := _look(client, id))["ended"]:
            time.sleep(POLL)
        return found
    ctx.console.print(show.head(begun))
    told = 0
    try:
        with Live(console=ctx.console, refresh_per_second=8, transient=True) as screen:
            while True:
                found = _look(client, id)
                for line in found["journal"][told:]:
                    screen.console.print(show.line(found, line))
                told = len(found["journal"])
                if found["ended"]:
                    return found
                if ctx.console.is_terminal:
                    screen.update(show.progress(found, found["now"]))
                time.sleep(POLL)
    except KeyboardInterrupt:
        ctx.console.print(f"Drill #{id} goes on. `crossfade drill show {id}`, `crossfade drill abort {id}`.")
        return None


def _end(ctx: Context, found: Any) -> None:
    if found is None:
        raise typer.Exit(FAILED)
    ctx.say(found, lambda: show.receipt(found))
    if not found["ok"]:
        raise typer.Exit(FAILED)


# --- to see, and to end


@drill.command("list")
def list_(
    context: typer.Context,
    where: Where = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=500, help="How many.")] = 20,
    as_json: Json = False,
) -> None:
    """The drills of an environment, newest first, with the seconds that each took."""
    with telling(context, as_json) as ctx:
        client = ctx.client()
        found = client.slo.drills(which(client, where), limit)
        ctx.say({"drills": found}, lambda: show.listed(found, time.time()))


@drill.command()
def schedule(context: typer.Context, where: Where = None, as_json: Json = False) -> None:
    """The drills of the configuration: when each was last, when it comes next, which are overdue. 1 when one is."""
    with telling(context, as_json) as ctx:
        client = ctx.client()
        keys = [f"{one['service']}/{one['environment']}" for one in client.environments()]
        keys = keys if where is None else [which(client, where)]
        found = [{**row, "environment": key} for key in keys for row in client.slo.drill_schedule(key)]
        ctx.say({"scheduled": found}, lambda: show.scheduled(found, time.time()))
        if any(row["overdue"] for row in found):
            raise typer.Exit(FAILED)


@drill.command("show")
def show_(context: typer.Context, number: Number, as_json: Json = False) -> None:
    """One drill: its journal, and its receipt."""
    with telling(context, as_json) as ctx:
        found = ctx.client().slo.drill(number)
        ctx.say(found, lambda: show.whole(found, found["now"]))


@drill.command()
def abort(context: typer.Context, number: Number, as_json: Json = False) -> None:
    """End a drill: what it has injected is lifted, and the release that was live before serves again."""
    with telling(context, as_json) as ctx:
        client = ctx.client()
        found = client.slo.abort_drill(number, who())
        ctx.say(
            found,
            lambda: f"Drill #{number} ends; {found['home']} is brought back. See `crossfade drill show {number}`.",
        )
