"""`crossfade slo`: what was promised, what was kept, and what is left of it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import RenderableType
from rich.live import Live

from crossfade.cli import slo_show as show
from crossfade.cli.context import Context, Json, Where, telling, which
from crossfade.cli.usual import with_usual
from crossfade.domain.errors import Invalid, Refused
from crossfade.domain.values import parse_duration

POLL: Final = 1.0
STEPS: Final = (1.0, 10.0, 60.0, 600.0, 3600.0, 6 * 3600.0, 86_400.0)
LINES: Final = 60
"""Of a history, when nobody says how long each is."""

slo = typer.Typer(
    cls=with_usual("show"), help="Objectives: what was promised, what was kept, what is left. Without a word: show."
)

Environment = Annotated[
    str | None, typer.Option("--env", "-e", help="The environment, if there are several.", show_default=False)
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="The file; standard output when absent.", show_default=False)
]


@slo.command("show")
def show_(
    context: typer.Context,
    where: Where = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Stay and show changes until Ctrl-C.")] = False,
    as_json: Json = False,
) -> None:
    """All environments as a table, or one in whole: budgets, how fast they burn, what fires, the freeze, the watch."""
    with telling(context, as_json) as ctx:
        client = ctx.client()
        key = which(client, where) if where is not None else None

        def look() -> Any:
            if key is not None:
                return client.slo.view(key)
            keys = [f"{each['service']}/{each['environment']}" for each in client.environments()]
            return {"environments": [client.slo.view(each) for each in keys]}

        found = look()
        if as_json or not watch or not ctx.console.is_terminal:
            ctx.say(found, lambda: _shown(found))
            return
        _stay(ctx, look)


def _shown(found: Any) -> RenderableType:
    views = found.get("environments", [found])
    if not views:
        return "Nothing has been deployed yet. `crossfade deploy` makes the first release."
    return show.one(views[0]) if len(views) == 1 else show.overview(views)


def _stay(ctx: Context, look: Callable[[], Any]) -> None:
    with Live(_shown(look()), console=ctx.console, refresh_per_second=2) as screen:
        try:
            while True:
                time.sleep(POLL)
                screen.update(_shown(look()))
        except KeyboardInterrupt:
            return


@slo.command()
def history(
    context: typer.Context,
    objective: Annotated[
        str,
        typer.Argument(help="An objective; @edge is all requests, @probe what the prober saw.", show_default=False),
    ],
    since: Annotated[str, typer.Option("--from", help="How long ago (6h, 2d), or a time (2026-01-31T12:00).")] = "1h",
    until: Annotated[str, typer.Option("--to", help="The same.", show_default="now")] = "",
    step: Annotated[
        str, typer.Option(help="How long each line is: 10s, 1h.", show_default="by the time that is shown")
    ] = "",
    env: Environment = None,
    as_json: Json = False,
) -> None:
    """What was counted of an objective, oldest first. A gap is a gap."""
    with telling(context, as_json) as ctx:
        now = time.time()
        begins, ends = moment("--from", since, now), moment("--to", until, now) if until else now
        if begins >= ends:
            raise Invalid("--from", since, "a time before --to")
        seconds = parse_duration("--step", step) if step else _step(ends - begins)
        if seconds < STEPS[0]:
            raise Invalid("--step", step, "1s or more")
        client = ctx.client()
        key = which(client, env)
        rows = client.slo.history(key, objective, begins, ends, seconds)
        service, environment = key.split("/")
        data = {"service": service, "environment": environment, "objective": objective, "from": begins, "to": ends,
                "bins": rows}  # fmt: skip
        ctx.say(data, lambda: show.history(objective, rows, begins, ends))


def _step(span: float) -> float:
    return next((step for step in STEPS if span <= LINES * step), STEPS[-1])


def moment(place: str, text: str, now: float) -> float:
    """Epoch seconds from how long ago, or from a time on this machine's clock. Raises Invalid."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        pass
    try:
        return now - parse_duration(place, text)
    except Invalid:
        raise Invalid(place, text, "how long ago (30m, 6h, 2d), or a time (2026-01-31T12:00)") from None


@slo.command("import")
def import_(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="OpenSLO v1, YAML; - is standard input.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Turn a file of OpenSLO into the `slo` block of a crossfade.yaml, on standard output."""
    with telling(context, as_json) as ctx:
        from crossfade.spec.openslo import convert

        text = convert(_read(file), str(file))
        _out(ctx, {"file": str(file), "text": text}, text)


def _read(file: Path) -> str:
    try:
        data = file.read_bytes() if str(file) != "-" else sys.stdin.buffer.read()
        return data.decode()
    except OSError as error:
        raise Invalid("FILE", str(file), f"a file that can be read ({error.strerror})") from error
    except UnicodeDecodeError:
        raise Invalid("FILE", str(file), "YAML in UTF-8") from None


@slo.command()
def rules(context: typer.Context, output: Output = None, as_json: Json = False) -> None:
    """Rules for Prometheus that alert as Crossfade does, from the objectives of all environments."""
    with telling(context, as_json) as ctx:
        _written(ctx, ctx.client().text("/export/prometheus-rules"), output)


@slo.command()
def grafana(context: typer.Context, output: Output = None, as_json: Json = False) -> None:
    """A dashboard for Grafana, to be imported there."""
    with telling(context, as_json) as ctx:
        _written(ctx, ctx.client().text("/export/grafana-dashboard"), output)


def _written(ctx: Context, text: str, output: Path | None) -> None:
    if output is None:
        _out(ctx, {"text": text}, text)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Refused(f"{output} cannot be written: {error.strerror}.") from error
    ctx.say({"file": str(output)}, lambda: f"Wrote {output}.")


def _out(ctx: Context, data: dict[str, str], text: str) -> None:
    """To the letter, for it goes into a file."""
    if ctx.json:
        ctx.say(data, lambda: None)
    else:
        sys.stdout.write(text if text.endswith("\n") else f"{text}\n")
