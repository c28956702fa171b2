"""What every command needs: where the installation is, how to speak, and errors as exit codes."""

from __future__ import annotations

import getpass
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from crossfade.cli import show, terminal
from crossfade.cli.client import Client, Problem
from crossfade.domain.errors import CrossfadeError, Invalid, NotFound

DONE, FAILED, USAGE = 0, 1, 2

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Fix = Annotated[
    str,
    typer.Option(
        help="Why it fixes what has used the error budget up: then it goes out all the same.", show_default=False
    ),
]
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
        found = Client.of(self.state)
        found.introduce(who())
        return found

    def say(self, data: Any, shown: Callable[[], Any]) -> None:
        """Print ``data`` as JSON, or what ``shown`` gives as text."""
        if self.json:
            sys.stdout.write(terminal.as_json(data) + "\n")
        else:
            self.console.print(shown())

    def say_whole(self, data: Any, text: str) -> None:
        """As `say`, for text that is to be copied: never broken into lines."""
        if self.json:
            self.say(data, lambda: None)
        else:
            self.console.print(text, soft_wrap=True)


@contextmanager
def telling(context: typer.Context, as_json: bool = False) -> Iterator[Context]:
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
        sys.stdout.write(terminal.as_json(document) + "\n")
    else:
        show.error(ctx.errors, error.what, error.hint)
    raise typer.Exit(USAGE if bad_input else FAILED)


def who() -> str:
    """What the person at the terminal is called: ``ada@laptop``."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"[:200]


def which(client: Client, where: str | None) -> str:
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


@contextmanager
def progressing(ctx: Context) -> Iterator[Callable[[str], None]]:
    """Says what is being done; on a terminal in a line that goes away."""
    if ctx.json or not ctx.errors.is_terminal:
        yield lambda text: None if ctx.json else ctx.errors.print(text, markup=False, highlight=False)
        return
    with ctx.errors.status("") as spinner:
        yield spinner.update
