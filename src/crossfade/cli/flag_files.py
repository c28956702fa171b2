"""`crossfade flags import`, `export`, `promote` and `serve`: flag sets between files, environments and programs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from crossfade import bootstrap
from crossfade.cli import flag_show as show
from crossfade.cli.context import Json, telling, which
from crossfade.domain.errors import Invalid, Refused

Environment = Annotated[
    str | None, typer.Option("--env", "-e", help="The environment, if there are several.", show_default=False)
]
Note = Annotated[str, typer.Option(help="Why, for the versions and the audit log.", show_default=False)]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would change, change nothing.")]


def import_(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A flag set: flagd's or ours, as JSON.", show_default=False)],
    env: Environment = None,
    replace: Annotated[bool, typer.Option("--replace", help="In place of all flags that there are.")] = False,
    note: Note = "",
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Take the flags of a file of flagd's or ours, beside those that there are. Every fault of it is named, with its place."""
    with telling(context, as_json) as ctx:
        document = read_json(file)
        client = ctx.client()
        key = which(client, env)
        done = client.flags.bring(key, document, replace, dry_run, note)
        ctx.say(done, lambda: show.brought(done, key, dry_run))


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file, or from standard input. Raises Invalid."""
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
        found = json.loads(text, object_pairs_hook=_once)
    except OSError as error:
        raise Invalid("file", str(file), f"a file that can be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise Invalid("file", str(file), f"JSON in UTF-8 ({error})") from error
    if not isinstance(found, dict):
        raise Invalid("file", type(found).__name__, "a JSON object")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object in which nothing is said twice: of two flags of one name, JSON would keep the last in silence."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Invalid("file", twice, "each name of an object once")
    return found


def export(
    context: typer.Context,
    env: Environment = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A file, in place of standard output.", show_default=False)
    ] = None,
    plain: Annotated[
        bool, typer.Option("--flagd", help="In flagd's own language only, for any of its evaluators.")
    ] = False,
    as_json: Json = False,
) -> None:
    """The flag set of an environment as a file: ours, or with --flagd one that any evaluator of flagd answers alike."""
    with telling(context, as_json) as ctx:
        client = ctx.client()
        key = which(client, env)
        text = json.dumps(client.flags.export(key, plain), indent=2, ensure_ascii=False) + "\n"
        if output is None:
            sys.stdout.write(text)
            return
        try:
            output.write_text(text, encoding="utf-8")
        except OSError as error:
            raise Refused(f"{output} cannot be written: {error.strerror}.") from error
        ctx.say({"file": str(output)}, lambda: f"Wrote the flags of {key} to {output}.")


def promote(
    context: typer.Context,
    flag: Annotated[str, typer.Argument(help="The flag's key.", show_default=False)],
    to: Annotated[str, typer.Option(help="The environment that is to have it.", show_default=False)],
    env: Annotated[str | None, typer.Option("--env", "-e", help="Where it is.", show_default=False)] = None,
    note: Note = "",
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Make a flag in another environment what it is here, with the segments it uses."""
    with telling(context, as_json) as ctx:
        client = ctx.client()
        key, target = which(client, env), which(client, to)
        done = client.flags.promote(key, flag, target.partition("/")[2], dry_run, note)
        ctx.say(done, lambda: show.brought(done, target, dry_run))


def serve(
    context: typer.Context,
    file: Annotated[Path, typer.Option(help="A flag set: flagd's or ours.", show_default=False)],
    port: Annotated[int, typer.Option(help="Where OFREP is served; 0 takes a free one.", min=0, max=65535)] = 8016,
    host: Annotated[str, typer.Option(help="The address.")] = "127.0.0.1",
    grpc_port: Annotated[
        int | None,
        typer.Option(help="Where flagd's sync service is served too.", min=0, max=65535, show_default=False),
    ] = None,
    token: Annotated[
        str, typer.Option(envvar="CROSSFADE_FLAGS_TOKEN", help="What clients have to show.", show_default=False)
    ] = "",
    as_json: Json = False,
) -> None:
    """Serve a file's flags by OFREP, for development: no server, no project. Changes of the file are taken as they come."""
    with telling(context, as_json) as ctx:

        def listening(url: str) -> None:
            ctx.say_whole({"url": url}, f"The flags of {file} are served by OFREP on {url}. Ctrl-C ends it.")
            sys.stdout.flush()

        bootstrap.serve_flag_file(file, host, port, grpc_port=grpc_port, token=token, on_listen=listening)
