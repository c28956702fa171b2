"""`crossfade experiments`: two or more variants compared by what their units do, at any moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from crossfade.cli.context import Json, telling, which
from crossfade.domain.errors import Invalid
from crossfade.domain.values import Weight, parse_duration

experiments = typer.Typer(
    help="Experiments: variants of a flag compared by what their units do, at any moment.", no_args_is_help=True
)

Name = Annotated[str, typer.Argument(help="The experiment's name.", show_default=False)]
Environment = Annotated[
    str | None, typer.Option("--env", "-e", help="The environment, if there are several.", show_default=False)
]
Data = Mapping[str, Any]
KINDS = ("conversion", "mean", "count")
BAR = 31


@experiments.command("list")
def list_(context: typer.Context, env: Environment = None, as_json: Json = False) -> None:
    """The experiments of an environment, newest first."""
    with telling(context, as_json) as ctx:
        client = ctx.client()
        found = client.flags.experiments(which(client, env))
        ctx.say(found, lambda: _listed(found))


@experiments.command()
def create(
    context: typer.Context,
    name: Name,
    flag: Annotated[str, typer.Option(help="The flag whose variants are compared.", show_default=False)],
    metric: Annotated[
        list[str],
        typer.Option(
            help="NAME=KIND:EVENT with KIND conversion, mean or count, and then, if wanted, ,down (less is better), "
            ",margin=2%, ,window=1d, ,cuped. The first one decides.",
            show_default=False,
        ),
    ],
    control: Annotated[
        str | None, typer.Option(help="What the others are compared with; the flag's default.", show_default=False)
    ] = None,
    treatment: Annotated[
        list[str] | None, typer.Option(help="A variant to compare; all others of the flag.", show_default=False)
    ] = None,
    segment: Annotated[
        list[str] | None, typer.Option(help="An attribute by whose values it is shown too.", show_default=False)
    ] = None,
    units: Annotated[
        int | None,
        typer.Option(help="How many are expected: intervals are narrowest there.", min=100, show_default=False),
    ] = None,
    env: Environment = None,
    start: Annotated[bool, typer.Option("--start", help="Begin to count at once.")] = False,
    as_json: Json = False,
) -> None:
    """Decide what is compared, by what. Nothing counts before it is started."""
    with telling(context, as_json) as ctx:
        client = ctx.client()
        key = which(client, env)
        metrics = [_metric(text) for text in metric]
        metrics[0]["primary"] = True
        known = client.flags.flag(key, flag)["flag"]
        control = control or known.get("defaultVariant")
        if control is None:
            raise Invalid("--control", "nothing", f"one of {flag}'s variants: {', '.join(known['variants'])}")
        body: dict[str, Any] = {
            "name": name,
            "flag": flag,
            "control": control,
            "treatments": treatment or [variant for variant in known["variants"] if variant != control],
            "metrics": metrics,
            "segments": segment,
            "units": units,
        }
        found = client.flags.add_experiment(key, {k: v for k, v in body.items() if v is not None})
        if start:
            found = client.flags.order_experiment(key, name, "start")
        words = (
            f"{name} counts from now on."
            if start
            else f"{name} is made. `crossfade experiments start {name}` begins it."
        )
        ctx.say(found, lambda: words)


def _metric(text: str) -> dict[str, Any]:
    """From ``bought=conversion:purchase,margin=2%``. Raises Invalid."""
    first, *more = text.split(",")
    name, equals, rest = first.partition("=")
    kind, colon, event = rest.partition(":")
    if not (equals and colon and name and event) or kind not in KINDS:
        raise Invalid("--metric", text, f"NAME=KIND:EVENT with KIND one of {', '.join(KINDS)}")
    made: dict[str, Any] = {"name": name, "kind": kind, "event": event}
    for option in more:
        word, _, value = option.strip().partition("=")
        match word:
            case "down" | "up" if not value:
                made["direction"] = word
            case "cuped" if not value:
                made["cuped"] = True
            case "margin":
                made["margin"] = Weight.parse(value, "--metric margin").bp / 10_000
            case "window":
                made["window"] = parse_duration("--metric window", value)
            case _:
                raise Invalid("--metric", option, "down, margin=2%, window=1d or cuped")
    return made


@experiments.command()
def start(context: typer.Context, name: Name, env: Environment = None, as_json: Json = False) -> None:
    """Begin to count."""
    _ordered(context, name, env, as_json, "start", "counts from now on")


@experiments.command()
def stop(context: typer.Context, name: Name, env: Environment = None, as_json: Json = False) -> None:
    """Count no new units; the flag stays as it is."""
    _ordered(context, name, env, as_json, "stop", "has stopped; its flag is as it was")


@experiments.command()
def conclude(
    context: typer.Context,
    name: Name,
    variant: Annotated[
        str | None, typer.Option(help="What everybody gets; the winner, if there is one.", show_default=False)
    ] = None,
    env: Environment = None,
    as_json: Json = False,
) -> None:
    """Stop, and give everybody the winner."""
    with telling(context, as_json) as ctx:
        client = ctx.client()
        key = which(client, env)
        ship = variant or (client.flags.results(key, name)["results"] or {}).get("winner")
        if ship is None:
            raise Invalid("--variant", "nothing", "a variant to give everybody, for nobody has won yet; or `stop`")
        found = client.flags.order_experiment(key, name, "conclude", ship=ship)
        request = (found["change"] or {}).get("request")
        words = f"everybody gets {ship}" if request is None else f"request {request['request']} waits for approval"
        ctx.say(found, lambda: f"{name} is concluded: {words}.")


def _ordered(context: typer.Context, name: str, env: str | None, as_json: bool, command: str, words: str) -> None:
    with telling(context, as_json) as ctx:
        client = ctx.client()
        found = client.flags.order_experiment(which(client, env), name, command)
        ctx.say(found, lambda: f"{name} {words}.")


@experiments.command()
def remove(context: typer.Context, name: Name, env: Environment = None, as_json: Json = False) -> None:
    """Forget an experiment with all that was counted for it."""
    with telling(context, as_json) as ctx:
        client = ctx.client()
        client.flags.remove_experiment(which(client, env), name)
        ctx.say({"removed": name}, lambda: f"{name} is gone.")


@experiments.command()
def show(
    context: typer.Context,
    name: Name,
    env: Environment = None,
    plots: Annotated[Path | None, typer.Option(help="A folder for the plots, as SVG.", show_default=False)] = None,
    as_json: Json = False,
) -> None:
    """What is known now: the winner or none, each metric with its interval, the split, and what was left out."""
    with telling(context, as_json) as ctx:
        client = ctx.client()
        key = which(client, env)
        found = client.flags.results(key, name)
        if plots is not None:
            plots.mkdir(parents=True, exist_ok=True)
            for plot in ("course", "forest", "posterior", "segments"):
                (plots / f"{name}-{plot}.svg").write_text(
                    client.flags.experiment_plot(key, name, plot), encoding="utf-8"
                )
        ctx.say(found, lambda: results(found))


def _listed(found: Sequence[Data]) -> RenderableType:
    if not found:
        return Text("No experiments. `crossfade experiments create` makes one.")
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("experiment", "flag", "state", "variants", "units"):
        table.add_column(column)
    for one in found:
        variants = ", ".join([one["plan"]["control"], *one["plan"]["treatments"]])
        table.add_row(one["name"], one["flag"], one["state"], variants, f"{one['units']:,}")
    return table


def results(found: Data) -> RenderableType:
    """The winner first, then what stands against it, then every metric."""
    about, known = found["experiment"], found["results"]
    place = f"{about['flag']} in {about['service']}/{about['environment']}"
    head = Text(about["name"], style="bold").append(f"   {place}, {about['state']}")
    if known is None:
        return Group(head, Text(f"  Nothing counts yet. `crossfade experiments start {about['name']}` begins it."))
    rows: list[RenderableType] = [head]
    rows.append(Text(f"  winner: {known['why']}", style="green" if known["winner"] else ""))
    rows += [Text(f"  warning: {warning}", style="bold yellow") for warning in known["warnings"]]
    counted = known["counted"]
    ratio = known["sample_ratio"]
    rows.append(Text(f"  {counted['units']:,} units; {ratio['sentence']}", style="dim"))
    for metric in known["metrics"]:
        rows.append(Text(f"\n  {metric['name']}", style="bold").append(f"   {metric['kind']} of {metric['event']}"))
        for each in metric["estimates"]:
            rows.append(Text(f"    {each['treatment']:<16} ").append_text(_bar(each)).append(f"  {each['decision']}"))
            rows.append(Text(f"      {each['sentence']}", style="dim"))
    if known["releases"].get("sentence"):
        rows.append(Text(f"\n  by release: {known['releases']['sentence']}", style="dim"))
    return Group(*rows)


def _bar(each: Data) -> Text:
    """The relative interval on a line around 0; its scale is what the interval needs, at least ±5 %."""
    low, high, middle = each["relative_low"], each["relative_high"], each["relative"]
    if None in (low, high, middle):
        return Text("·" * BAR, style="dim")
    reach: float = max(0.05, abs(low), abs(high))

    def place(share: float) -> int:
        return min(BAR - 1, max(0, round((share / reach + 1) / 2 * (BAR - 1))))

    cells = ["·"] * BAR
    cells[place(0.0)] = "┼"
    for cell in range(place(low), place(high) + 1):
        cells[cell] = "━" if cell != place(0.0) else "┿"
    cells[place(middle)] = "●"
    return Text("".join(cells), style="cyan").append(f" {middle:+.1%} [{low:+.1%}, {high:+.1%}]")
