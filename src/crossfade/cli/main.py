"""The commands. Exit codes: 0 done, 1 failed (the thing said no), 2 usage or bad configuration."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group
from rich.live import Live
from rich.text import Text

from crossfade import __version__, bootstrap
from crossfade.cli import approvals, follow, show
from crossfade.cli.accounts import accounts, tokens
from crossfade.cli.alerts import alerts
from crossfade.cli.audit import audit
from crossfade.cli.client import Client, Data, Problem
from crossfade.cli.context import FAILED, Context, Fix, Json, Where, progressing, telling, which, who
from crossfade.cli.dashboard import dashboard
from crossfade.cli.drill import drill
from crossfade.cli.experiments import experiments
from crossfade.cli.flags import flags
from crossfade.cli.gates import gate
from crossfade.cli.hook import hook
from crossfade.cli.migrate import migrate
from crossfade.cli.migrations import migrations
from crossfade.cli.notices import notices
from crossfade.cli.proofs import COMMANDS as PROOFS
from crossfade.cli.report import COMMANDS as REPORTS
from crossfade.cli.runs import COMMANDS as PIPELINES
from crossfade.cli.runs import runs
from crossfade.cli.slo import slo
from crossfade.cli.slo_client import Lately
from crossfade.cli.sources import sources
from crossfade.cli.terminal import Terminal
from crossfade.cli.verify import verify
from crossfade.cli.watches import watches
from crossfade.domain.errors import Invalid, NotFound

app = typer.Typer(
    name="crossfade",
    help="Ship every change with zero downtime, and take any of them back at once.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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
        (state or bootstrap.default_state()).expanduser().absolute(), Terminal(), Terminal(stderr=True)
    )


# --- the installation


Host = Annotated[
    str | None,
    typer.Option(help="Where the API listens; beyond loopback it wants TLS.", show_default="127.0.0.1"),
]
Port = Annotated[
    int | None, typer.Option(help="The API's port.", min=1, max=65535, show_default=str(bootstrap.DEFAULT_PORT))
]
Certificate = Annotated[
    Path | None, typer.Option("--tls-cert", help="The server's certificate, PEM.", show_default=False)
]
Key = Annotated[Path | None, typer.Option("--tls-key", help="The key of the certificate, PEM.", show_default=False)]
Plain = Annotated[
    bool, typer.Option("--allow-plain-http", help="Listen beyond loopback without TLS, on a network that you trust.")
]


@app.command()
def up(
    context: typer.Context,
    host: Host = None,
    port: Port = None,
    tls_cert: Certificate = None,
    tls_key: Key = None,
    allow_plain_http: Plain = False,
    as_json: Json = False,
) -> None:
    """Start the edge and the server. What runs already is left as it is."""
    with telling(context, as_json) as ctx:
        given = _given(host, port, tls_cert, tls_key, allow_plain_http)
        with progressing(ctx) as progress:
            result = bootstrap.start(ctx.state, given, progress)
        if result["plain"]:
            warning = Text("warning: ", style="bold yellow").append(bootstrap.PLAIN, style="not bold default")
            ctx.errors.print(warning, soft_wrap=True)
        words = f"Crossfade is up: API and dashboard on {result['url']}, state in {ctx.state}."
        ctx.say(result, lambda: f"{words}\n`crossfade dashboard` prints a link that logs in.")


def _given(
    host: str | None, port: int | None, certificate: Path | None, key: Path | None, plain: bool
) -> bootstrap.Given:
    paths = [path and path.expanduser().absolute() for path in (certificate, key)]
    return bootstrap.Given(host, port, paths[0], paths[1], plain or None)


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
    with telling(context, as_json) as ctx:
        serving = [] if keep_traffic else bootstrap.serving(ctx.state)
        if serving and not yes:
            if as_json or not sys.stdin.isatty():
                raise Invalid("down", "no --yes", f"--yes, since these are live: {', '.join(serving)}")
            typer.confirm(f"This stops {', '.join(serving)}. Go on?", abort=True)
        with progressing(ctx) as progress:
            stopped = bootstrap.down(ctx.state, keep_traffic, progress)
        words = "The server is down; traffic goes on." if keep_traffic else "Everything is down."
        ctx.say({"stopped": stopped}, lambda: words if stopped else "Nothing was running.")


@app.command(hidden=True)
def serve(
    context: typer.Context,
    host: Host = None,
    port: Port = None,
    tls_cert: Certificate = None,
    tls_key: Key = None,
    allow_plain_http: Plain = False,
) -> None:
    """Run the server in the foreground; `up` does it under supervision."""
    with telling(context) as ctx:
        bootstrap.serve(ctx.state, _given(host, port, tls_cert, tls_key, allow_plain_http))


@app.command()
def doctor(context: typer.Context, as_json: Json = False) -> None:
    """Check the installation, part by part."""
    with telling(context, as_json) as ctx:
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

    with telling(context, as_json) as ctx:
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
    with telling(context, as_json) as ctx:
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
    with telling(context, as_json) as ctx:
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
    with telling(context, as_json) as ctx:

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

    with telling(context, as_json) as ctx:
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
    fix: Fix = "",
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for an approval, and while another rollout is under way.")
    ] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Return when the rollout has begun.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Build and pack; say what would be deployed.")] = False,
    as_json: Json = False,
) -> None:
    """Build, upload and roll out the project in FOLDER, and follow it to its end."""
    with telling(context, as_json) as ctx:
        with progressing(ctx) as progress:
            package = bootstrap.package(folder, environment, strategy, progress)
        with package:
            summary = package.summary()
            if dry_run:
                ctx.say(summary, lambda: "\n".join(f"{name:12} {value}" for name, value in summary.items()))
                return
            client = ctx.client()
            with progressing(ctx) as progress:
                progress(f"uploads {package.digest[:19]} ({package.size / 1e6:.1f} MB)")
                client.upload(package.file, package.digest)
            body = {**package.request(label, who()), "fix": fix}
            state = _begin(ctx, lambda: client.deploy(body), wait)
        _see_through(ctx, client, state, wait, detach)


@app.command()
def redeploy(
    context: typer.Context,
    release: Annotated[str, typer.Argument(help="A release of the environment, for example r3.")],
    where: Where = None,
    fix: Fix = "",
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for an approval, and while another rollout is under way.")
    ] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Return when the rollout has begun.")] = False,
    as_json: Json = False,
) -> None:
    """Roll out a release that the environment has had before, by its own strategy, as if it were new."""
    with telling(context, as_json) as ctx:
        client = ctx.client()
        key = which(client, where)
        state = _begin(ctx, lambda: client.deploy_again(key, release, who(), fix), wait)
        _see_through(ctx, client, state, wait, detach)


def _see_through(ctx: Context, client: Client, state: Data, wait: bool, detach: bool) -> None:
    """Wait for the approval that a deployment may want, and follow its rollout."""
    if approvals.is_approval(state):
        if not wait:
            ctx.say(state, lambda: approvals.describe(state))
            return
        state = approvals.rollout_of(ctx, client, state)
    _follow(ctx, client, state, detach)


@app.command()
def rollback(
    context: typer.Context,
    where: Where = None,
    to: Annotated[str | None, typer.Option(help="A release of the window, for example r3.", show_default=False)] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait while another rollout holds the environment.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Return when it has begun.")] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Say what it would take to end a harm now, cheapest first; change nothing."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Return to the release before, or to any of the window. A rollout under way is aborted."""
    with telling(context, as_json) as ctx:
        client = ctx.client()
        key = which(client, where)
        if dry_run:
            would = client.going_back(key)
            ctx.say(would, lambda: show.rollback_plan(would))
            return
        state = _begin(ctx, lambda: client.rollback(key, to, who()), wait)
        _follow(ctx, client, state, detach, good=("promoted",) if state["kind"] == "rollback" else ("rolled-back",))


def _begin(ctx: Context, start: Callable[[], Data], wait: bool) -> Data:
    told = ""
    with progressing(ctx) as progress:
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
    with telling(context, as_json) as ctx:
        client = ctx.client()
        state = client.command(which(client, where), command, who())
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
    with telling(context, as_json) as ctx:
        client = ctx.client()
        keys = None if where is None else [which(client, where)]
        promises = Lately(client.slo.view)

        def look() -> list[Data]:
            found = client.environments() if keys is None else [client.environment(key) for key in keys]
            return [{**entry, "slo": promises.of(f"{entry['service']}/{entry['environment']}")} for entry in found]

        found = look()
        if preview:
            found = [
                {**entry, "preview": client.preview(entry["rollout"]["id"])} if entry["rollout"] else entry
                for entry in found
            ]
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
    with telling(context, as_json) as ctx:
        client = ctx.client()
        rows = client.releases(which(client, where))
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
    with telling(context, as_json) as ctx:
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
    with telling(context, as_json) as ctx:
        client = ctx.client()
        key = which(client, where)
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


# --- promises

app.add_typer(slo, name="slo")
app.add_typer(alerts, name="alerts")
app.add_typer(watches, name="watches")
app.add_typer(notices, name="notices")
app.add_typer(drill, name="drill")
for command in PROOFS:
    app.command()(command)

# --- people

app.add_typer(accounts, name="accounts")
app.add_typer(tokens, name="tokens")
for command in approvals.COMMANDS:
    app.command()(command)
app.add_typer(audit, name="audit")
app.add_typer(experiments, name="experiments")
app.add_typer(flags, name="flags")
app.add_typer(hook, name="hook")
app.add_typer(migrate, name="migrate")
app.add_typer(migrations, name="migrations")
app.add_typer(runs, name="runs")
app.add_typer(sources, name="sources")
for command in PIPELINES:
    app.command()(command)
for command in REPORTS:
    app.command()(command)
app.command()(dashboard)
app.command()(verify)
app.command()(gate)


def main() -> None:
    """The console script."""
    app()


if __name__ == "__main__":
    main()
