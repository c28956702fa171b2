"""The commands. Exit codes: 0 done, 1 failed (the thing said no), 2 usage or bad configuration."""

from __future__ import annotations

import getpass
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console, Group
from rich.live import Live

from crossfade import __version__, bootstrap
from crossfade.cli import follow, show
from crossfade.cli.client import Client, Data, Problem
from crossfade.domain.errors import CrossfadeError, Invalid, NotFound

DONE, FAILED, USAGE = 0, 1, 2

app = typer.Typer(
    name="crossfade",
    help="Ship every change with zero downtime, and take any of them back at once.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Where = Annotated[
    str | None, typer.Argument(help="SERVICE/ENVIRONMENT; may be left out when there is only one.", show_default=False)
]


@dataclass
class Context:
    """What every command needs."""

    state: Path
    console: Console
    errors: Console
    json: bool = False

    def client(self) -> Client:
        return Client.of(self.state)

    def say(self, data: Any, shown: Callable[[], Any]) -> None:
        """Print ``data`` as JSON, or what ``shown`` gives as text."""
        if self.json:
            sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=False) + "\n")
        else:
            self.console.print(shown())


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    state: Annotated[
        Path | None,
        typer.Option(envvar="CROSSFADE_STATE", help="The state folder.", show_default="~/.local/state/crossfade"),
    ] = None,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Ship every change with zero downtime, and take any of them back at once."""
    if version:
        print(f"crossfade {__version__}")
        raise typer.Exit
    context.obj = Context(
        (state or bootstrap.default_state()).expanduser().absolute(), Console(highlight=False), Console(stderr=True)
    )


@contextmanager
def _telling(context: typer.Context, as_json: bool = False) -> Iterator[Context]:
    """Turns errors into a message and an exit code."""
    ctx: Context = context.obj
    ctx.json = as_json
    try:
        yield ctx
    except CrossfadeError as error:
        _fail(ctx, error)
    except BrokenPipeError:
        os._exit(FAILED)


def _fail(ctx: Context, error: CrossfadeError) -> NoReturn:
    bad_input = isinstance(error, Invalid) or (isinstance(error, Problem) and error.status == 422)
    if ctx.json:
        document = {"error": error.code, "what": error.what, "hint": error.hint, "fields": dict(error.fields)}
        sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False, default=str) + "\n")
    else:
        show.error(ctx.errors, error.what, error.hint)
    raise typer.Exit(USAGE if bad_input else FAILED)


def _who() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"[:200]


def _which(client: Client, where: str | None) -> str:
    """The environment that is meant. Raises Invalid when several could be."""
    keys = [f"{e['service']}/{e['environment']}" for e in client.environments()]
    if where is None:
        if len(keys) == 1:
            return keys[0]
        if not keys:
            raise NotFound("Nothing has been deployed yet.", hint="`crossfade deploy` makes the first release.")
        raise Invalid("environment", "", "one of " + ", ".join(keys))
    matching = [key for key in keys if where in (key, key.split("/")[0], key.split("/")[1])]
    if len(matching) == 1:
        return matching[0]
    if not matching:
        raise NotFound(f"There is no environment {where}.", hint=f"Known: {', '.join(keys) or 'none yet'}.")
    raise Invalid("environment", where, "one of " + ", ".join(matching))


# --- the installation


@app.command()
def up(
    context: typer.Context,
    host: Annotated[str, typer.Option(help="Where the API listens. Only loopback until it has TLS.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The API's port.", min=1, max=65535)] = bootstrap.DEFAULT_PORT,
    as_json: Json = False,
) -> None:
    """Start the edge and the server. What runs already is left as it is."""
    with _telling(context, as_json) as ctx:
        with _progress(ctx) as progress:
            result = bootstrap.up(ctx.state, host, port, progress)
        ctx.say(result, lambda: f"Crossfade is up: API on {result['url']}, state in {ctx.state}.")


@app.command()
def down(
    context: typer.Context,
    keep_traffic: Annotated[
        bool, typer.Option("--keep-traffic", help="Stop the server only; edge and replicas go on serving.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Stop everything: server, edge and all replicas. Services are unreachable until `up`."""
    with _telling(context, as_json) as ctx:
        serving = [] if keep_traffic else bootstrap.serving(ctx.state)
        if serving and not yes:
            if as_json or not sys.stdin.isatty():
                raise Invalid("down", "no --yes", f"--yes, since these are live: {', '.join(serving)}")
            typer.confirm(f"This stops {', '.join(serving)}. Go on?", abort=True)
        with _progress(ctx) as progress:
            stopped = bootstrap.down(ctx.state, keep_traffic, progress)
        words = "The server is down; traffic goes on." if keep_traffic else "Everything is down."
        ctx.say({"stopped": stopped}, lambda: words if stopped else "Nothing was running.")


@app.command(hidden=True)
def serve(
    context: typer.Context,
    host: Annotated[str, typer.Option()] = "127.0.0.1",
    port: Annotated[int, typer.Option()] = bootstrap.DEFAULT_PORT,
) -> None:
    """Run the server in the foreground; `up` does it under supervision."""
    with _telling(context) as ctx:
        bootstrap.serve(ctx.state, host, port)


@app.command()
def doctor(context: typer.Context, as_json: Json = False) -> None:
    """Check the installation, part by part."""
    with _telling(context, as_json) as ctx:
        rows = bootstrap.doctor(ctx.state)
        ctx.say(rows, lambda: show.findings(rows))
        if not all(row["ok"] for row in rows):
            raise typer.Exit(FAILED)


@app.command()
def demo(
    context: typer.Context,
    rate: Annotated[int, typer.Option(help="Requests per second.", min=10, max=2000)] = 150,
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running at the end.")] = False,
    as_json: Json = False,
) -> None:
    """Deploy a bookshop under load: a good canary, a bad one, a blue-green switch, a rollback."""
    from crossfade.cli.demo import run

    with _telling(context, as_json) as ctx:
        if not run(ctx.console, rate, keep, as_json):
            raise typer.Exit(FAILED)


# --- the configuration


@app.command()
def init(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="The project.", show_default=".")] = Path(),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print it, write nothing.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a crossfade.yaml that is there.")] = False,
    as_json: Json = False,
) -> None:
    """Propose a crossfade.yaml from what is in the folder."""
    with _telling(context, as_json) as ctx:
        text, found = bootstrap.propose(folder)
        target = folder / bootstrap.CONFIG_NAME
        if not dry_run:
            bootstrap.write_config(target, text, force)
        data = {"file": str(target), "written": not dry_run, "found": found, "text": text}
        lines = [*(f"  {line}" for line in found)]
        if dry_run:
            ctx.say(data, lambda: text)
        else:
            ctx.say(data, lambda: "\n".join([f"Wrote {target}:", *lines, "Read it, then: crossfade deploy"]))


@app.command()
def validate(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="The file, or its folder.", show_default="crossfade.yaml")] = Path(),
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema for editors.")] = False,
    as_json: Json = False,
) -> None:
    """Check crossfade.yaml; every problem at once."""
    with _telling(context, as_json) as ctx:
        if schema:
            sys.stdout.write(json.dumps(bootstrap.json_schema(), indent=2) + "\n")
            return
        path = bootstrap.config_path(file)
        names = bootstrap.environments_of(path)
        ctx.say(
            {"file": str(path), "ok": True, "environments": names}, lambda: f"{path} is valid ({', '.join(names)})."
        )


@app.command()
def plan(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="The project.", show_default=".")] = Path(),
    environment: Annotated[str | None, typer.Option("--env", "-e", help="The environment.", show_default=False)] = None,
    rate: Annotated[
        float | None,
        typer.Option(min=0.001, help="Requests/s to count with, in place of the measured ones.", show_default=False),
    ] = None,
    error_rate: Annotated[
        float, typer.Option(min=0, max=100, help="With --rate: the percentage of errors there is now.")
    ] = 0.1,
    as_json: Json = False,
) -> None:
    """How long each step of a canary takes to tell good from bad, at the traffic there is."""
    with _telling(context, as_json) as ctx:

        def traffic(key: str) -> Data:
            if rate is None:
                return ctx.client().traffic(key)
            return {"requests": rate * 3600, "errors": rate * 36 * error_rate, "seconds": 3600.0}

        data = bootstrap.plan(folder, environment, traffic)
        ctx.say(data, lambda: show.plan(data))


@app.command()
def analyze(
    context: typer.Context,
    file: Annotated[str, typer.Argument(help="JSON Lines, one look each; - is standard input.")],
    config: Annotated[
        Path | None, typer.Option(help="A file with the analysis block; its defaults.", show_default=False)
    ] = None,
    plots: Annotated[
        Path | None, typer.Option(help="A folder for three SVG plots of each series.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per series, each on a line.")] = False,
) -> None:
    """Judge recorded looks again: what the judge would have said of each series, and when. 1 unless all pass."""
    from crossfade.cli.analysis import run

    with _telling(context, as_json) as ctx:
        if not run(ctx.console, ctx.errors, file, config, plots, as_json):
            raise typer.Exit(FAILED)


# --- rollouts


@app.command()
def deploy(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="The project.", show_default=".")] = Path(),
    environment: Annotated[str | None, typer.Option("--env", "-e", help="The environment.", show_default=False)] = None,
    strategy: Annotated[
        str | None, typer.Option(help="blue-green or canary, in place of the file's.", show_default=False)
    ] = None,
    label: Annotated[str, typer.Option(help="What you call this release: a tag, a commit.")] = "",
    wait: Annotated[bool, typer.Option("--wait", help="Wait while another rollout holds the environment.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Return when the rollout has begun.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Build and pack; say what would be deployed.")] = False,
    as_json: Json = False,
) -> None:
    """Build, upload and roll out the project in FOLDER, and follow it to its end."""
    with _telling(context, as_json) as ctx:
        with _progress(ctx) as progress:
            package = bootstrap.package(folder, environment, strategy, progress)
        with package:
            summary = package.summary()
            if dry_run:
                ctx.say(summary, lambda: "\n".join(f"{name:12} {value}" for name, value in summary.items()))
                return
            client = ctx.client()
            with _progress(ctx) as progress:
                progress(f"uploads {package.digest[:19]} ({package.size / 1e6:.1f} MB)")
                client.upload(package.file, package.digest)
            body = package.request(label, _who())
            state = _begin(ctx, lambda: client.deploy(body), wait)
        _follow(ctx, client, state, detach)


@app.command()
def rollback(
    context: typer.Context,
    where: Where = None,
    to: Annotated[str | None, typer.Option(help="A release of the window, for example r3.", show_default=False)] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait while another rollout holds the environment.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Return when it has begun.")] = False,
    as_json: Json = False,
) -> None:
    """Return to the release before, or to any of the window. A rollout under way is aborted."""
    with _telling(context, as_json) as ctx:
        client = ctx.client()
        key = _which(client, where)
        state = _begin(ctx, lambda: client.rollback(key, to, _who()), wait)
        _follow(ctx, client, state, detach, good=("promoted",) if state["kind"] == "rollback" else ("rolled-back",))


def _begin(ctx: Context, start: Callable[[], Data], wait: bool) -> Data:
    told = ""
    with _progress(ctx) as progress:
        while True:
            try:
                return start()
            except Problem as problem:
                if problem.code != "busy" or not wait:
                    raise
                if problem.what != told:
                    progress(f"waits: {problem.what}")
                    told = problem.what
                time.sleep(0.5)


def _follow(ctx: Context, client: Client, state: Data, detach: bool, good: tuple[str, ...] = ("promoted",)) -> None:
    if detach:
        ctx.say(state, lambda: f"Rollout #{state['id']} has begun. See `crossfade status`.")
        return
    end = follow.silently(client, state["id"]) if ctx.json else follow.live(ctx.console, client, state["id"])
    if end is None:
        ctx.console.print(f"Rollout #{state['id']} goes on without you. See `crossfade status`.")
        raise typer.Exit(FAILED)
    receipt = follow.receipt(client, state["id"])
    ctx.say({"rollout": end, "receipt": receipt}, lambda: show.receipt(receipt))
    if end["phase"] not in good:
        raise typer.Exit(FAILED)


def _command(context: typer.Context, where: str | None, command: str, as_json: bool) -> None:
    with _telling(context, as_json) as ctx:
        client = ctx.client()
        state = client.command(_which(client, where), command, _who())
        seen = follow.until(client, state["id"], command)
        ctx.say(seen, lambda: show.rollout(seen))


@app.command()
def promote(context: typer.Context, where: Where = None, as_json: Json = False) -> None:
    """Give the candidate all traffic now, skipping the steps that are left."""
    _command(context, where, "promote", as_json)


@app.command()
def pause(context: typer.Context, where: Where = None, as_json: Json = False) -> None:
    """Stay at the present weight until `resume`. The guards go on watching."""
    _command(context, where, "pause", as_json)


@app.command()
def resume(context: typer.Context, where: Where = None, as_json: Json = False) -> None:
    """Let a paused rollout go on."""
    _command(context, where, "resume", as_json)


@app.command()
def abort(context: typer.Context, where: Where = None, as_json: Json = False) -> None:
    """End the rollout: all traffic back to the baseline at once."""
    _command(context, where, "abort", as_json)


# --- to see something


@app.command()
def status(
    context: typer.Context,
    where: Where = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Stay and show changes until Ctrl-C.")] = False,
    preview: Annotated[bool, typer.Option("--preview", help="Show the header that reaches the candidate.")] = False,
    as_json: Json = False,
) -> None:
    """What is live, how traffic is split, and what a rollout is doing. Live while a rollout is under way."""
    with _telling(context, as_json) as ctx:
        client = ctx.client()
        keys = None if where is None else [_which(client, where)]

        def look() -> list[Data]:
            return client.environments() if keys is None else [client.environment(key) for key in keys]

        found = look()
        if preview:
            for entry in found:
                if entry["rollout"]:
                    entry["preview"] = client.preview(entry["rollout"]["id"])
        if not found and not as_json:
            ctx.console.print("Nothing has been deployed yet. `crossfade deploy` makes the first release.")
            return
        moving = any(entry["rollout"] for entry in found)
        if as_json or preview or not ctx.console.is_terminal or not (watch or moving):
            ctx.say(found, lambda: Group(*(show.environment(entry) for entry in found)))
            for entry in found:
                if "preview" in entry and not as_json:
                    ctx.console.print(f"  preview  {entry['preview']['header']}: {entry['preview']['value']}")
            return
        with Live(console=ctx.console, refresh_per_second=8) as screen:
            try:
                while True:
                    found = look()
                    screen.update(Group(*(show.environment(entry) for entry in found)))
                    if not watch and not any(entry["rollout"] for entry in found):
                        return
                    time.sleep(0.25)
            except KeyboardInterrupt:
                return


@app.command()
def releases(context: typer.Context, where: Where = None, as_json: Json = False) -> None:
    """The releases, and of each whether it can be restored (checked now)."""
    with _telling(context, as_json) as ctx:
        client = ctx.client()
        rows = client.releases(_which(client, where))
        ctx.say(rows, lambda: show.releases(rows))


@app.command()
def receipt(
    context: typer.Context,
    rollout: Annotated[
        int | None, typer.Argument(help="The rollout's number; the last one.", show_default=False)
    ] = None,
    plots: Annotated[
        Path | None, typer.Option(help="A folder for three SVG plots of what the judge saw.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """What clients saw of a rollout, from the edge's own counts."""
    with _telling(context, as_json) as ctx:
        client = ctx.client()
        if rollout is None:
            last = next(iter(client.rollouts(limit=1)), None)
            if last is None:
                raise NotFound("There was no rollout yet.", hint="`crossfade deploy` makes the first one.")
            rollout = int(last["id"])
        data = client.receipt(rollout)
        if plots is not None:
            from crossfade.cli.analysis import write_plot
            from crossfade.domain.analysis.plot import PLOTS

            for kind in PLOTS:
                write_plot(plots, f"rollout-{rollout}-{kind}.svg", client.plot(rollout, kind))
        ctx.say(data, lambda: show.receipt(data))


@app.command()
def logs(
    context: typer.Context,
    where: Where = None,
    release: Annotated[str | None, typer.Option(help="Only this release.", show_default=False)] = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, max=10000, help="Lines per replica.")] = 50,
    follow_: Annotated[bool, typer.Option("--follow", "-f", help="Stay and show new lines until Ctrl-C.")] = False,
    as_json: Json = False,
) -> None:
    """What the replicas wrote."""
    with _telling(context, as_json) as ctx:
        client = ctx.client()
        key = _which(client, where)
        if as_json:
            ctx.say(client.logs(key, release, lines), lambda: None)
            return
        shown: dict[str, list[str]] = {}
        while True:
            for name, found in client.logs(key, release, max(lines, 200) if shown else lines).items():
                for line in follow.new_lines(shown.get(name, []), found):
                    ctx.console.print(f"{name}  {line}", markup=False, soft_wrap=True)
                shown[name] = found
            if not follow_:
                return
            try:
                time.sleep(0.5)
            except KeyboardInterrupt:
                return


@contextmanager
def _progress(ctx: Context) -> Iterator[Callable[[str], None]]:
    """Says what is being done; on a terminal in a line that goes away."""
    if ctx.json or not ctx.errors.is_terminal:
        yield lambda text: None if ctx.json else ctx.errors.print(text, markup=False, highlight=False)
        return
    with ctx.errors.status("") as spinner:
        yield spinner.update


def main() -> None:
    """The console script."""
    app()


if __name__ == "__main__":
    main()
