"""`crossfade dashboard`: a link that logs a browser in once."""

from __future__ import annotations

import webbrowser
from typing import Annotated

import typer

from crossfade.cli.context import Json, telling, who
from crossfade.domain.access import Grant


def dashboard(
    context: typer.Context,
    role: Annotated[str, typer.Option("--role", help="What the browser may do: viewer, operator or admin.")] = "admin",
    open_: Annotated[bool, typer.Option("--open", help="Open it in this machine's browser.")] = False,
    as_json: Json = False,
) -> None:
    """Print a link to the dashboard that logs in once, within ten minutes."""
    with telling(context, as_json) as ctx:
        link = ctx.client().new_link(str(Grant.parse(role)), who())
        if open_:
            webbrowser.open(str(link["url"]))
        ctx.say_whole(link, str(link["url"]))
