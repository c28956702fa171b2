"""`crossfade run`, `crossfade runs` and `crossfade stream`: commits on their way to production."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Group
from rich.live import Live

from crossfade.cli import run_show
from crossfade.cli.client import Client, Problem
from crossfade.cli.context import FAILED, Context, Fix, Json, telling, who
from crossfade.domain.errors import Invalid, NotFound, Unavailable

POLL: Final = 0.3
SHOWN: Final = 15
AWAY: Final = 60.0
"""Seconds for which a server that does not answer is waited for."""

runs = typer.Typer(help="The runs of pipelines.", invoke_without_command=True)

Number = Annotated[int, typer.Argument(help="The run's number.", min=1, show_default=False)]
OfService = Annotated[str | None, typer.Option("--service", help="Of this service only.", show_default=False)]


def run(
    context: typer.Context,
    ref: Annotated[str | None, typer.Argument(help="A branch, tag or commit.", show_default="the branch here")] = None,
    service: Annotated[
        str | None, typer.Option(help="The service.", show_default="that of the crossfade.yaml here")
    ] = None,
    branch: Annotated[str, typer.Option(help="The branch whose rules count.", show_default="the ref")] = "",
    stage: Annotated[
        str, typer.Option(help="Begin here; the commit must have passed what comes before.", show_default=False)
    ] = "",
    fix: Fix = "",
    local: Annotated[
        bool, typer.Option("--local", help="Run the folder as it is, here and without a server; nothing is deployed.")
    ] = False,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Stay until its end.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be run, and run nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Run the pipeline on a commit. 1 when it does not pass."""
    with telling(context, as_json) as ctx:
        here = Path.cwd()
        if dry_run:
            from crossfade.bootstrap.local import outline

            planned = outline(here)
            ctx.say(planned, lambda: _outline(planned))
            return
        if local:
            _local(ctx, here, stage)
            return
        client = ctx.client()
        name = service or _service(here)
        wanted = ref or _branch(here)
        body = {"service": name, "ref": wanted, "branch": branch, "stage": stage, "trigger": "command", "by": who()}
        body["fix"] = fix
        try:
            begun = client.start_run(body)
        except Problem as error:
            if error.code != "not-found" or service is not None or "where the commits" not in error.what:
                raise
            top = _top(here)
            ctx.errors.print(f"The commits of {name} come from {top} from now on (`crossfade sources`).", markup=False)
            place = (here / "crossfade.yaml").resolve().relative_to(top).as_posix()
            client.put_source(name, {"repository": str(top), "config": place})
            begun = client.start_run(body)
        if not follow:
            ctx.say(begun, lambda: f"Run #{begun['id']} of {name} {begun['short']} is queued. See `crossfade runs`.")
            return
        _end(ctx, _follow(ctx, client, begun["id"]))


def _local(ctx: Context, folder: Path, stage: str) -> None:
    from crossfade.bootstrap.local import run_local

    if ctx.json:
        data = run_local(folder, [stage] if stage else [], lambda _: None)
    else:
        with Live(console=ctx.console, refresh_per_second=8, transient=True) as screen:
            data = run_local(folder, [stage] if stage else [], lambda found: screen.update(run_show.run(found)))
    if not ctx.json:
        ctx.console.print(run_show.run(data))
        for row in run_show.failures(data):
            ctx.console.print(row)
        ctx.console.print(f"Logs: {data['logs']}", markup=False)
    else:
        ctx.say(data, lambda: None)
    if data["status"] != "passed":
        raise typer.Exit(FAILED)


def _outline(planned: Any) -> Group:
    from rich.text import Text

    rows = [Text(f"{planned['service']}: branches {', '.join(planned['branches'])} go on to the deploying stages")]
    for stage in planned["stages"]:
        where = f"  in {stage['environment']}" if stage["environment"] else ""
        rows.append(Text(f"  {stage['name']}{where}", style="bold"))
        rows += [Text(f"    {name}: starts {kind}") for name, kind in stage["services"].items()]
        for node in stage["nodes"]:
            after = f"  after {', '.join(node['needs'])}" if node["needs"] else ""
            rows.append(Text(f"    {node['name']:<18}{node['kind']:<10}{after}"))
    return Group(*rows)


def _service(here: Path) -> str:
    from crossfade.bootstrap.project import config_path
    from crossfade.spec.loader import load

    return load(config_path(here)).service


def _git(here: Path, *words: str) -> str:
    try:
        done = subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _branch(here: Path) -> str:
    found = _git(here, "symbolic-ref", "--short", "-q", "HEAD") or _git(here, "rev-parse", "-q", "--verify", "HEAD")
    if not found:
        raise Invalid("REF", "", "a branch, tag or commit: this folder has no commit yet")
    return found


def _top(here: Path) -> Path:
    found = _git(here, "rev-parse", "--show-toplevel")
    if not found:
        raise NotFound(f"{here} is in no git repository.", hint="`crossfade sources add` names one that is elsewhere.")
    return Path(found).resolve()


# --- following


def _look(client: Client, id: int) -> Any:
    deadline = time.monotonic() + AWAY
    while True:
        try:
            return client.run(id)
        except Unavailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def _follow(ctx: Context, client: Client, id: int) -> Any:
    """The run at its end; None when the person leaves with Ctrl-C."""
    if ctx.json:
        while not (data := _look(client, id))["ended"]:
            time.sleep(POLL)
        return data
    told: set[tuple[str, str, int]] = set()
    try:
        with Live(console=ctx.console, refresh_per_second=8, transient=True) as screen:
            while True:
                data = _look(client, id)
                if ctx.console.is_terminal:
                    screen.update(run_show.run(data, whole=False))
                else:
                    _tell_new(ctx, data, told)
                if data["ended"]:
                    return data
                time.sleep(POLL)
    except KeyboardInterrupt:
        ctx.console.print(f"Run #{id} goes on. `crossfade runs show {id}`, `crossfade runs cancel {id}`.")
        return None


def _tell_new(ctx: Context, data: Any, told: set[tuple[str, str, int]]) -> None:
    """Where nothing can be painted over: a line for each node that has ended."""
    for stage in data["stages"]:
        for node in stage["nodes"]:
            mark = (stage["name"], node["name"], stage["attempt"])
            if mark not in told and node["status"] in ("passed", "failed", "cancelled"):
                told.add(mark)
                line = f"  {stage['name']}: {node['name']}: {node['status']}: {node['sentence']}"
                ctx.console.print(line, markup=False, soft_wrap=True)


def _end(ctx: Context, data: Any) -> None:
    if data is None:
        return
    if ctx.json:
        ctx.say(data, lambda: None)
    else:
        ctx.console.print(run_show.run(data))
        for row in run_show.failures(data):
            ctx.console.print(row)
    if data["status"] != "passed":
        raise typer.Exit(FAILED)


# --- runs


def _list(ctx: Context, service: str | None, limit: int) -> None:
    found = ctx.client().runs(limit, service)
    if not found and not ctx.json:
        ctx.console.print("No runs yet. `crossfade run` begins one.")
        return
    ctx.say(found, lambda: run_show.table(found))


@runs.callback()
def all_runs(context: typer.Context, as_json: Json = False) -> None:
    """The runs of pipelines."""
    if context.invoked_subcommand is None:
        with telling(context, as_json) as ctx:
            _list(ctx, None, SHOWN)


@runs.command("list")
def list_runs(
    context: typer.Context,
    service: OfService = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=500, help="How many.")] = SHOWN,
    as_json: Json = False,
) -> None:
    """The last runs, newest first; `crossfade runs` does the same."""
    with telling(context, as_json) as ctx:
        _list(ctx, service, limit)


@runs.command("show")
def show_run(context: typer.Context, number: Number, as_json: Json = False) -> None:
    """One run: its stages and nodes, and what failed."""
    with telling(context, as_json) as ctx:
        data = ctx.client().run(number)
        ctx.say(data, lambda: Group(run_show.run(data), *run_show.failures(data)))


@runs.command("cancel")
def cancel(context: typer.Context, number: Number, as_json: Json = False) -> None:
    """End a run. A deployment in flight is not cancelled: `crossfade abort` takes its rollout back."""
    with telling(context, as_json) as ctx:
        data = ctx.client().order_run(number, "cancel")
        ctx.say(data, lambda: f"Run #{number} ends as soon as what is at work has ended.")


@runs.command("restart")
def restart(context: typer.Context, number: Number, as_json: Json = False) -> None:
    """Go on from the stage that failed, with the same artifact."""
    with telling(context, as_json) as ctx:
        data = ctx.client().order_run(number, "restart")
        ctx.say(data, lambda: f"Run #{number} goes on. See `crossfade runs show {number}`.")


@runs.command("follow")
def follow_run(context: typer.Context, number: Number, as_json: Json = False) -> None:
    """Watch a run until its end. 1 when it does not pass."""
    with telling(context, as_json) as ctx:
        client = ctx.client()
        client.run(number)
        _end(ctx, _follow(ctx, client, number))


@runs.command("log")
def log(
    context: typer.Context,
    number: Number,
    stage: Annotated[str, typer.Argument(help="The stage.", show_default=False)],
    node: Annotated[str, typer.Argument(help="The node, or `services`.", show_default=False)],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Stay and show what comes.")] = False,
    as_json: Json = False,
) -> None:
    """What a node wrote."""
    with telling(context, as_json) as ctx:
        client, offset, parts = ctx.client(), 0, []
        while True:
            part = client.run_log(number, stage, node, offset)
            if as_json:
                parts.append(part["text"])
            elif part["text"]:
                typer.echo(part["text"], nl=False)
            grown, offset = part["next"] > offset, part["next"]
            if part["ended"] or not (grown or follow):
                break
            if not grown:
                time.sleep(POLL)
        if as_json:
            ctx.say({"run": number, "stage": stage, "node": node, "text": "".join(parts)}, lambda: None)


def stream(
    context: typer.Context,
    service: Annotated[str, typer.Argument(help="The service.", show_default=False)],
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=500, help="Over how many runs.")] = 20,
    as_json: Json = False,
) -> None:
    """How long commits take from commit to production, stage by stage, and what they wait for."""
    with telling(context, as_json) as ctx:
        data = ctx.client().value_stream(service, limit)
        ctx.say(data, lambda: run_show.stream(data))


COMMANDS: tuple[Callable[..., None], ...] = (run, stream)
