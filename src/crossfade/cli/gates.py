"""`crossfade gate`: one gate by itself, over reports in a folder. It needs no server, and works in any CI."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.text import Text

from crossfade.cli.context import FAILED, Json, telling
from crossfade.domain.errors import Invalid

FORMATS: Final = ("text", "github")
_PLACE: Final = re.compile(r"(?P<file>[^\s:][^:]*):(?P<line>\d+)(?:-(?P<last>\d+))?(?P<rest>[: ].*)")


def gate(
    context: typer.Context,
    kind: Annotated[
        str,
        typer.Argument(
            help="What it reads: junit, tap, coverage, sarif, audit, openapi, pact, schemathesis, load, benchmark."
        ),
    ],
    reports: Annotated[list[str], typer.Argument(help="Paths or shell patterns, relative to the folder.")],
    minimum: Annotated[
        str | None, typer.Option(help="coverage: the least share of all lines.", show_default="80%")
    ] = None,
    changed: Annotated[
        str | None, typer.Option(help="coverage: the least share of changed lines.", show_default="as --minimum")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(help="coverage, openapi: the commit, branch or tag to compare with.", show_default=False),
    ] = None,
    before: Annotated[
        Path | None, typer.Option(help="openapi, benchmark: the report to compare with.", show_default=False)
    ] = None,
    level: Annotated[
        str | None, typer.Option(help="sarif: the least level that fails.", show_default="warning")
    ] = None,
    baseline: Annotated[str | None, typer.Option(help="sarif: a file of known findings.", show_default=False)] = None,
    write_baseline: Annotated[
        str | None, typer.Option(help="sarif: write what is found to this file as known.", show_default=False)
    ] = None,
    allow: Annotated[
        list[str] | None, typer.Option(help="What is tolerated, by the name the gate tells.", show_default=False)
    ] = None,
    least: Annotated[
        int | None, typer.Option(help="Fewer tests, checks or requests than this are no data.", show_default="1")
    ] = None,
    error_rate: Annotated[
        str | None, typer.Option(help="load: the share of requests that may fail.", show_default="1%")
    ] = None,
    p50: Annotated[
        str | None, typer.Option(help="load: limit of the median, for example 50ms.", show_default=False)
    ] = None,
    p95: Annotated[str | None, typer.Option(help="load: limit of the 95th percentile.", show_default=False)] = None,
    p99: Annotated[str | None, typer.Option(help="load: limit of the 99th percentile.", show_default=False)] = None,
    margin: Annotated[
        str | None, typer.Option(help="benchmark: how much slower it may be.", show_default="10%")
    ] = None,
    provider: Annotated[
        str | None, typer.Option(help="pact: the running service, http://127.0.0.1:PORT.", show_default=False)
    ] = None,
    folder: Annotated[Path, typer.Option(help="The project.", show_default=".")] = Path(),
    form: Annotated[str, typer.Option("--format", help="text, or github for annotations.")] = "text",
    as_json: Json = False,
) -> None:
    """Read reports and say pass (0) or no (1), in words and numbers; 2 when it cannot be asked so."""
    from crossfade.bootstrap import gates

    with telling(context, as_json) as ctx:
        if form not in FORMATS:
            raise Invalid("--format", form, " or ".join(FORMATS))
        if not folder.is_dir():
            raise Invalid("--folder", str(folder), "a folder")
        options: dict[str, Any] = {
            "minimum": minimum,
            "changed": changed,
            "level": level,
            "baseline": baseline,
            "allow": tuple(allow or ()),
            "least": least,
            "error_rate": error_rate,
            "p50": p50,
            "p95": p95,
            "p99": p99,
            "margin": margin,
            "provider": provider,
        }
        if write_baseline is not None:
            written = gates.write_baseline(kind, reports, options, folder=folder, target=write_baseline)
            known = f"{written['findings']} finding{'' if written['findings'] == 1 else 's'}"
            ctx.say_whole(
                written, f"{written['baseline']}: {known} known from now on. Commit it, and name it by --baseline."
            )
            return
        found = gates.judge(kind, reports, options, folder=folder, base=base, before=before)
        if form == "github" and not as_json:
            ctx.say_whole(found, "\n".join(workflow_commands(found, folder)))
        elif as_json:
            ctx.say(found, lambda: None)
        else:
            # Lines stay whole: in a CI they are searched and copied.
            for line in _shown(found):
                ctx.console.print(line, soft_wrap=True)
        if not found["passed"]:
            raise typer.Exit(FAILED)


def _shown(found: dict[str, Any]) -> Iterator[Text]:
    yield Text(
        "pass: " if found["passed"] else f"{found['finding']}: ", "bold green" if found["passed"] else "bold red"
    ).append(_harmless(found["sentence"]), "default")
    # A line that begins with what stands in a report could be a command to the CI that shows it.
    for line in found["details"]:
        yield Text(f"  - {_harmless(line)}")


def workflow_commands(found: dict[str, Any], folder: Path) -> Iterator[str]:
    """Workflow commands of GitHub Actions: the sentence, and a line for each place that a detail names."""
    if found["passed"]:
        yield f"pass: {_harmless(found['sentence'])}"
    else:
        yield f"::error title=crossfade gate {found['kind']}::{_escaped(found['sentence'])}"
    kind = "notice" if found["passed"] else "error"
    top = os.environ.get("GITHUB_WORKSPACE", "")
    for line in found["details"]:
        place = _PLACE.fullmatch(line)
        if place is None or not os.path.isfile(folder / place["file"]):
            yield f"  - {_harmless(line)}"
            continue
        file = place["file"]
        if top:
            # Annotations count from the repository's top.
            file = os.path.relpath(os.path.join(folder.resolve(), file), os.path.realpath(top))
        where = f"file={_escaped(file, name=True)},line={place['line']}"
        where += f",endLine={place['last']}" if place["last"] else ""
        yield f"::{kind} {where}::{_escaped(place['rest'].lstrip(': ') if place['rest'][0] == ':' else line)}"


def _escaped(text: str, name: bool = False) -> str:
    text = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A").replace("##[", "## [")
    return text.replace(":", "%3A").replace(",", "%2C") if name else text


def _harmless(text: str) -> str:
    return text.replace("##[", "## [").replace("##vso[", "## vso[")
