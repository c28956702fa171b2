"""`crossfade sources`: where the commits of services come from, and whom to tell of their runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from crossfade.cli.context import Json, telling
from crossfade.domain.errors import Invalid, NotFound

sources = typer.Typer(help="Where the commits of services come from.", invoke_without_command=True)

Service = Annotated[str, typer.Argument(help="The service.", show_default=False)]


@sources.callback()
def all_sources(context: typer.Context, as_json: Json = False) -> None:
    """Where the commits of services come from."""
    if context.invoked_subcommand is None:
        list_sources(context, as_json)


@sources.command("list")
def list_sources(context: typer.Context, as_json: Json = False) -> None:
    """The repositories, forges and names of secrets; `crossfade sources` does the same."""
    with telling(context, as_json) as ctx:
        found = ctx.client().sources()
        if not found and not as_json:
            ctx.console.print(
                "No sources yet. `crossfade run` in a project makes the first, or `crossfade sources add`."
            )
            return
        ctx.say(found, lambda: _table(found))


@sources.command("add")
def add(
    context: typer.Context,
    service: Service,
    repository: Annotated[str, typer.Argument(help="A path on the server's machine, or a URL.", show_default=False)],
    config: Annotated[str, typer.Option(help="The file there that describes the service.")] = "crossfade.yaml",
    secret_file: Annotated[
        list[str] | None,
        typer.Option(
            help="ENVIRONMENT=FILE: the variables of that environment's env_file; FILE alone: variables for steps. "
            "Repeatable.",
            show_default=False,
        ),
    ] = None,
    webhook_secret_file: Annotated[
        Path | None, typer.Option(help="A file with the secret that the forge signs webhooks with.", show_default=False)
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(help="A file with the forge's token: to fetch, and to post statuses.", show_default=False),
    ] = None,
    forge: Annotated[str, typer.Option(help="github, gitlab or gitea (Forgejo too).", show_default=False)] = "",
    api: Annotated[str, typer.Option(help="The URL of the forge's API.", show_default=False)] = "",
    project: Annotated[str, typer.Option(help="The project there: owner/name.", show_default=False)] = "",
    sink: Annotated[
        list[str] | None, typer.Option(help="A URL that gets CDEvents. Repeatable.", show_default=False)
    ] = None,
    chat: Annotated[
        list[str] | None, typer.Option(help="A URL that gets messages, Slack's way. Repeatable.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Say where a service's commits come from. Who may push there can run commands on the server's machine."""
    with telling(context, as_json) as ctx:
        secrets, files = _variables(secret_file or [])
        for name, path in (("webhook", webhook_secret_file), ("token", token_file)):
            if path is not None:
                secrets[name] = _read(path).strip()
        place = Path(repository)
        body: dict[str, Any] = {
            "repository": str(place.resolve()) if "://" not in repository and place.exists() else repository,
            "config": config,
            "secrets": secrets,
            "files": files,
            "forge": forge,
            "api": api,
            "project": project,
            "sinks": sink or [],
            "chat": chat or [],
        }
        found = ctx.client().put_source(service, body)
        ctx.say(found, lambda: _words(found))


@sources.command("remove")
def remove(context: typer.Context, service: Service, as_json: Json = False) -> None:
    """Forget where a service's commits come from. Its runs and releases stay."""
    with telling(context, as_json) as ctx:
        ctx.client().remove_source(service)
        ctx.say({"removed": service}, lambda: f"Nothing is run for {service} any more.")


def _variables(given: Sequence[str]) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """The variables for steps, and those of environments. Raises Invalid, NotFound."""
    from crossfade.store.secrets import parse_env_file

    steps: dict[str, str] = {}
    files: dict[str, dict[str, str]] = {}
    for one in given:
        environment, equals, path = one.partition("=")
        values = parse_env_file(_read(Path(path if equals else one)), path if equals else one)
        if equals:
            files[environment] = dict(values)
        else:
            steps |= values
    return steps, files


def _read(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise NotFound(f"{path} cannot be read: {error}.") from error
    if len(text) > 100_000:
        raise Invalid(str(path), f"{len(text)} characters", "at most 100000")
    return text


def _words(found: Mapping[str, Any]) -> str:
    said = f"The commits of {found['service']} come from {found['repository']}."
    if found["forge"]:
        said += f"\nWebhooks of {found['forge']} go to {found['hook']} of this server."
    return said + f"\n`crossfade run --service {found['service']} REF` runs one of them."


def _table(found: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("service", "repository", "forge", "secrets", "tells"):
        table.add_column(column, overflow="fold")
    for one in found:
        names = [*one["secrets"], *(f"{name} of {env}" for env, names in one["files"].items() for name in names)]
        tells = ", ".join([*one["sinks"], *one["chat"]])
        table.add_row(one["service"], Text(one["repository"]), one["forge"], ", ".join(names), Text(tells))
    return table
