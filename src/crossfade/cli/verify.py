"""`crossfade verify`: whether a release's artifact is the one that a pipeline has built and signed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from crossfade import bootstrap
from crossfade.cli.context import FAILED, Context, Json, telling, which
from crossfade.domain.errors import Invalid, StorageFailed


def verify(
    context: typer.Context,
    release: Annotated[str | None, typer.Argument(help="A release, for example r12.", show_default=False)] = None,
    environment: Annotated[
        str | None,
        typer.Option("--env", "-e", help="SERVICE/ENVIRONMENT; not needed when there is only one.", show_default=False),
    ] = None,
    key: Annotated[
        Path | None, typer.Option(help="Without a server: the public key, signing.pub.", show_default=False)
    ] = None,
    envelope: Annotated[
        Path | None, typer.Option(help="Without a server: the signed statement.", show_default=False)
    ] = None,
    artifact: Annotated[
        Path | None, typer.Option(help="Without a server: the artifact's tarball or folder.", show_default=False)
    ] = None,
    service: Annotated[
        str | None, typer.Option(help="Without a server: the service it must be of.", show_default=False)
    ] = None,
    save: Annotated[
        Path | None, typer.Option(help="Write the signed statement to this file.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Check that a release's artifact is what a pipeline has built and signed. 1 when it is not."""
    with telling(context, as_json) as ctx:
        found = _found(ctx, release, environment, key, envelope, artifact, service)
        if save is not None:
            _save(save, found)
        ctx.say(found, lambda: _shown(found))
        if not found["ok"]:
            raise typer.Exit(FAILED)


def _found(
    ctx: Context,
    release: str | None,
    environment: str | None,
    key: Path | None,
    envelope: Path | None,
    artifact: Path | None,
    service: str | None,
) -> Mapping[str, Any]:
    alone = (key, envelope, artifact)
    if any(path is not None for path in alone) or service is not None:
        if release is not None or environment is not None:
            raise Invalid("verify", release or environment, "either a release, or --key, --envelope and --artifact")
        if key is None or envelope is None or artifact is None:
            raise Invalid("verify", "some of them", "--key, --envelope and --artifact together")
        return bootstrap.verify_offline(key, envelope, artifact, service)
    if release is None:
        raise Invalid("release", "", "a release such as r12, or --key, --envelope and --artifact")
    client = ctx.client()
    return client.statement(which(client, environment), release)


def _save(path: Path, found: Mapping[str, Any]) -> None:
    if found["envelope"] is None:
        raise Invalid("--save", str(path), "only with a signed statement: there is none about this artifact")
    try:
        path.write_text(found["envelope"] + "\n", encoding="utf-8")
    except OSError as error:
        raise StorageFailed.because(f"write {path}", error) from error


def _shown(found: Mapping[str, Any]) -> Group:
    """The verdict, and what the statement says."""
    verdict = Text("verified: " if found["ok"] else "not verified: ", style="bold green" if found["ok"] else "bold red")
    lines: list[Any] = [
        verdict.append(found["sentence"].partition(" not verified: ")[2] or found["sentence"], style="default")
    ]
    if found["statement"] is not None and found["ok"]:
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        for name, value in _facts(found).items():
            table.add_row(Text(name, style="dim"), Text(value))
        lines.append(table)
    return Group(*lines)


def _facts(found: Mapping[str, Any]) -> dict[str, str]:
    """Of a statement that has been checked; what it need not have is left out."""
    predicate = found["statement"]["predicate"]
    given, details = predicate["buildDefinition"]["externalParameters"], predicate.get("runDetails", {})
    metadata = details.get("metadata", {})
    facts = {
        "artifact": found["artifact"],
        "commit": given.get("commit"),
        "branch": given.get("ref"),
        "repository": given.get("repository"),
        "builder": details.get("builder", {}).get("id"),
        "run": metadata.get("invocationId"),
        "built": metadata.get("finishedOn"),
        "key": found["key"],
    }
    shown = {name: "".join(c if c.isprintable() else "?" for c in str(value)) for name, value in facts.items() if value}
    for passed in details.get("byproducts", []):
        shown[str(passed.get("name"))] = str(passed.get("annotations", {}).get("sentence", ""))
    return shown
