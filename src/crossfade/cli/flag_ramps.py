"""`crossfade flags ramp` and `ramps`: from 0 to 100 % under the judge, and back by itself."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer
from rich.live import Live

from crossfade.cli import flag_show as show
from crossfade.cli.client import Client, Data
from crossfade.cli.context import FAILED, Context, Json, telling, which
from crossfade.domain.errors import Invalid
from crossfade.domain.values import Weight, parse_duration

POLL = 0.5

Environment = Annotated[
    str | None, typer.Option("--env", "-e", help="The environment, if there are several.", show_default=False)
]


def ramp(
    context: typer.Context,
    flag: Annotated[str, typer.Argument(help="The flag's key.", show_default=False)],
    variant: Annotated[
        str | None, typer.Option(help="The variant to give; the only one beside the rest.", show_default=False)
    ] = None,
    steps: Annotated[
        str,
        typer.Option(
            help="Shares and how long each is judged: 1%:5m,25%:5m,100%:5m.", show_default="1, 5, 25, 50, 100 %"
        ),
    ] = "",
    rule: Annotated[str | None, typer.Option(help="The rule whose split is moved.", show_default=False)] = None,
    env: Environment = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return when it has begun.")] = False,
    pause: Annotated[bool, typer.Option("--pause", help="Let the ramp that there is wait.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Let it go on.")] = False,
    finish: Annotated[bool, typer.Option("--finish", help="Give it to everybody now.")] = False,
    abort: Annotated[bool, typer.Option("--abort", help="Take it back to 0 %.")] = False,
    as_json: Json = False,
) -> None:
    """Give a variant to more and more by steps, judged as a canary is; goes back by itself. 1 when it did."""
    with telling(context, as_json) as ctx:
        client = ctx.client()
        key = which(client, env)
        orders = {"pause": pause, "resume": resume, "finish": finish, "abort": abort}
        given = [name for name, wanted in orders.items() if wanted]
        if len(given) > 1:
            raise Invalid("ramp", ", ".join(f"--{name}" for name in given), "one order at a time")
        if given:
            state = client.flags.order_ramp(_open(client, key, flag), given[0])
        else:
            given_variant = variant or _only(client.flags.flag(key, flag)["flag"], flag)
            body: dict[str, Any] = {"variant": given_variant, "rule": rule, "steps": _steps(steps)}
            state = client.flags.begin_ramp(key, flag, {k: v for k, v in body.items() if v is not None})
        followed = not detach and given != ["pause"]
        if followed:
            state = _follow(ctx, client, state)
        ended = state
        ctx.say(ended, lambda: show.ramp(ended, journal=not followed))
        if ended["ended"] and ended["phase"] not in ("finished", "aborted"):
            raise typer.Exit(FAILED)


def _open(client: Client, key: str, flag: str) -> int:
    for one in client.flags.ramps(key, 200):
        if one["flag"] == flag and not one["ended"]:
            return int(one["id"])
    raise Invalid("flag", flag, "a flag that is being ramped (`crossfade flags ramps` lists them)")


def _only(flag: Data, name: str) -> str:
    """The variant beside the one that is off. Raises Invalid when it is not clear which is meant."""
    off = (flag.get("crossfade") or {}).get("off") or flag.get("defaultVariant")
    others = [variant for variant in flag["variants"] if variant != off]
    if len(others) != 1:
        raise Invalid("--variant", "nothing", f"one of {name}'s variants: {', '.join(flag['variants'])}")
    return str(others[0])


def _steps(text: str) -> list[dict[str, Any]] | None:
    """From ``1%:5m,25%:5m``. Raises Invalid."""
    if not text:
        return None
    found = []
    for part in text.split(","):
        share, colon, lasts = part.strip().partition(":")
        if not colon:
            raise Invalid("--steps", part.strip(), "a share and how long it is judged, for example 25%:5m")
        found.append({"weight": Weight.parse(share, "--steps").bp, "duration": parse_duration("--steps", lasts)})
    return found


def _follow(ctx: Context, client: Client, state: Data) -> Data:
    """Until it has ended; what happens meanwhile is shown."""
    id = int(state["id"])
    if ctx.json or not ctx.console.is_terminal:
        said = 0
        while True:
            if not ctx.json:
                for line in state["journal"][said:]:
                    ctx.console.print(show.journal_line(state, line), markup=False, highlight=False)
                said = len(state["journal"])
            if state["ended"]:
                return state
            time.sleep(POLL)
            state = client.flags.ramp(id)
    with Live(show.ramp(state), console=ctx.console, refresh_per_second=4) as live:
        while not state["ended"]:
            time.sleep(POLL)
            state = client.flags.ramp(id)
            live.update(show.ramp(state))
    return state


def ramps(
    context: typer.Context,
    env: Environment = None,
    limit: Annotated[int, typer.Option(help="How many.", min=1, max=500)] = 20,
    as_json: Json = False,
) -> None:
    """The ramps of an environment's flags, newest first."""
    with telling(context, as_json) as ctx:
        client = ctx.client()
        found = client.flags.ramps(which(client, env), limit)
        ctx.say(found, lambda: show.ramps(found))
