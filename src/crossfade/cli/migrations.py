"""`crossfade migrations`: those of an environment, as the server sees them: with the releases that need each shape."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Any, Final

import typer
from rich.console import RenderableType
from rich.text import Text

from crossfade.cli import show
from crossfade.cli.context import FAILED, Json, telling, which, who

migrations = typer.Typer(
    help="The migrations of an environment, and what each contract waits for.", invoke_without_command=True
)

Environment = Annotated[
    str | None, typer.Option("--env", "-e", help="The environment, if there are several.", show_default=False)
]
Version = Annotated[str, typer.Argument(help="A migration, for example 01_isbn.")]
PATIENCE: Final = 600.0


@migrations.callback()
def listed(context: typer.Context, env: Environment = None, as_json: Json = False) -> None:
    """All of them, with phase, progress, and what each contract waits for."""
    if context.invoked_subcommand is not None:
        return
    with telling(context, as_json) as ctx:
        client = ctx.client()
        found = client.migrations(which(client, env))
        ctx.say(found, lambda: shown(found))


@migrations.command("pause")
def pause(context: typer.Context, version: Version, env: Environment = None, as_json: Json = False) -> None:
    """Let a backfill wait."""
    _ordered(context, version, env, as_json, "pause")


@migrations.command("resume")
def resume(context: typer.Context, version: Version, env: Environment = None, as_json: Json = False) -> None:
    """Let a paused backfill go on."""
    _ordered(context, version, env, as_json, "resume")


@migrations.command("abort")
def abort(context: typer.Context, version: Version, env: Environment = None, as_json: Json = False) -> None:
    """Take a new shape away that no release needs."""
    _ordered(context, version, env, as_json, "abort")


@migrations.command("contract")
def contract(
    context: typer.Context,
    version: Version,
    env: Environment = None,
    override: Annotated[
        str,
        typer.Option(
            help="Why, although something needs the old shape: the rollback window shrinks.", show_default=False
        ),
    ] = "",
    detach: Annotated[bool, typer.Option("--detach", help="Return when it has begun.")] = False,
    as_json: Json = False,
) -> None:
    """Take an old shape away now, rather than when the server does it by itself."""
    with telling(context, as_json) as ctx:
        client = ctx.client()
        key = which(client, env)
        found = client.order_migration(key, version, "contract", who(), override)
        deadline = time.monotonic() + PATIENCE
        while not detach and (one := _one(found, version))["phase"] != "contracted":
            if one["trouble"] or time.monotonic() > deadline:
                break
            time.sleep(0.3)
            found = client.migrations(key)
        ended = found
        ctx.say(ended, lambda: shown(ended))
        if not detach and _one(found, version)["phase"] != "contracted":
            raise typer.Exit(FAILED)


def _ordered(context: typer.Context, version: str, env: str | None, as_json: bool, command: str) -> None:
    with telling(context, as_json) as ctx:
        client = ctx.client()
        found = client.order_migration(which(client, env), version, command, who())
        ctx.say(found, lambda: shown(found))


def _one(found: Mapping[str, Any], version: str) -> Mapping[str, Any]:
    return next(one for one in reversed(found["items"]) if one["version"] == version)


def shown(found: Mapping[str, Any]) -> RenderableType:
    """The list for people."""
    if found["database"] is None:
        return Text("No database: `database` in crossfade.yaml names one.")
    if not found["answers"]:
        return Text("The database does not answer.", style="red")
    if not found["items"]:
        return Text("No migration was applied yet.")
    return show.migrations(found["items"])
