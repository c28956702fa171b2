"""`crossfade hook`: a run for every push into a repository on this machine."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, cast

import typer

from crossfade.cli.client import Client
from crossfade.cli.context import Context, Json, telling
from crossfade.domain.errors import CrossfadeError, NotFound, Refused, StorageFailed
from crossfade.domain.values import parse_name

hook = typer.Typer(help="Begin a run with every push into a repository on this machine.", no_args_is_help=True)

MARK: Final = "# Written by `crossfade hook install`."
LIMIT: Final = 10.0
"""Seconds that a push waits for the server at most."""
MOST_LINES: Final = 100
_KEPT: Final = "post-receive.before-crossfade"
_LINE: Final = re.compile(r"([0-9a-f]{40,64}) ([0-9a-f]{40,64}) refs/heads/(\S{1,250})")

Repository = Annotated[Path, typer.Argument(help="The repository that is pushed into, most often a bare one.")]


@hook.command("install")
def install(
    context: typer.Context,
    repository: Repository,
    service: Annotated[
        str | None, typer.Option(help="The service's name.", show_default="the folder's, without .git")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Keep a post-receive hook that is there, and run it first.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write hooks/post-receive: each pushed branch begins a run."""
    with telling(context, as_json) as ctx:
        path = _hooks(repository) / "post-receive"
        name = service or _named(repository)
        parse_name("--service", name)
        kept = path.with_name(_KEPT)
        try:
            if os.path.lexists(path) and not _ours(path):
                if not force:
                    raise Refused(
                        f"{path} is there already, and not by Crossfade.",
                        hint="--force keeps it, runs it first, and `crossfade hook remove` puts it back.",
                    )
                path.rename(kept)
            _write(path, _script(ctx.state, name, kept))
        except OSError as error:
            raise StorageFailed.because(f"write {path}", error) from error
        ctx.say(
            {"hook": str(path), "service": name, "before": str(kept) if kept.exists() else None},
            lambda: f"Every push into {repository} now begins a run of {name}.",
        )


@hook.command("remove")
def remove(context: typer.Context, repository: Repository, as_json: Json = False) -> None:
    """Take the hook away, and put the one that was there before back."""
    with telling(context, as_json) as ctx:
        path = _hooks(repository) / "post-receive"
        kept = path.with_name(_KEPT)
        if not os.path.lexists(path) or not _ours(path):
            raise NotFound(f"There is no hook of Crossfade in {repository}.")
        try:
            if os.path.lexists(kept):
                kept.rename(path)
            else:
                path.unlink()
        except OSError as error:
            raise StorageFailed.because(f"remove {path}", error) from error
        ctx.say({"hook": str(path)}, lambda: f"Pushes into {repository} begin no runs any more.")


@hook.command("receive", hidden=True)
def receive(context: typer.Context, service: Annotated[str, typer.Option(help="The service's name.")]) -> None:
    """What the hook calls: lines of ``old new ref`` come in. A push is never refused or held up by it."""
    ctx = cast(Context, context.obj)
    branches = list(_branches(sys.stdin))
    if not branches:
        return
    done = threading.Event()

    def ask() -> None:
        try:
            client: Client | None = None
            for branch, commit in branches:
                try:
                    client = client or Client.of(ctx.state)
                    client.introduce(_pusher())
                    _say(_began(client, service, branch, commit))
                except CrossfadeError as error:
                    _say(f"no run of {service} {commit[:7]} ({branch}): {error.what}")
                    _say(f"  by hand: crossfade run {shlex.quote(branch)} --service {service}")
        except Exception as error:  # noqa: BLE001 - the push has been taken: nothing here may look like its failure
            _say(f"no run of {service}: {type(error).__name__}")
        finally:
            done.set()

    threading.Thread(target=ask, daemon=True).start()
    if not done.wait(LIMIT):
        _say(f"the server has not answered within {LIMIT:g} s. By hand: crossfade run --service {service}")
    sys.stdout.flush()
    os._exit(0)  # a thread that still waits for the server must not hold up the push


def _began(client: Client, service: str, branch: str, commit: str) -> str:
    body = {"service": service, "ref": commit, "branch": branch, "trigger": "hook"}
    run = cast("dict[str, Any]", client.call("POST", "/runs", json=body))
    where = f"{client.url}/runs/{run['id']}"
    return f"run #{run['id']} of {service} {run['short']} {run['status']}: {where}"


def _branches(lines: Iterator[str] | Any) -> Iterator[tuple[str, str]]:
    """Branches that stand on another commit now. Deletions, tags and everything else begin nothing."""
    for number, line in enumerate(lines):
        if number >= MOST_LINES:
            return
        found = _LINE.fullmatch(line.rstrip("\n"))
        if found and found[2].strip("0"):
            yield found[3], found[2]


def _say(text: str) -> None:
    print("Crossfade: " + "".join(sign if sign.isprintable() else "?" for sign in text), flush=True)


def _pusher() -> str:
    return os.environ.get("GL_USERNAME") or os.environ.get("REMOTE_USER") or os.environ.get("USER") or "git"


def _hooks(repository: Path) -> Path:
    """The folder of a repository's hooks. Raises NotFound."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    words = ["git", "-c", "safe.directory=*", "-C", str(repository.absolute()), "rev-parse", "--absolute-git-dir"]
    try:
        done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=LIMIT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotFound(f"git cannot be asked: {error}.") from error
    if done.returncode != 0:
        raise NotFound(f"There is no repository in {repository}.")
    return Path(done.stdout.rstrip("\n")) / "hooks"


def _named(repository: Path) -> str:
    path = repository.absolute()
    return (path.parent if path.name == ".git" else path).name.removesuffix(".git").lower()


def _ours(path: Path) -> bool:
    try:
        return not path.is_symlink() and path.read_bytes()[:200].decode("utf-8", "replace").find(MARK) >= 0
    except OSError:
        return False


def _script(state: Path, service: str, kept: Path) -> str:
    before, program = shlex.quote(str(kept)), shlex.quote(sys.executable)
    call = f"{program} -P -m crossfade.cli.main --state {shlex.quote(str(state))} hook receive --service {shlex.quote(service)}"
    return f"""#!/bin/sh
{MARK} `crossfade hook remove` takes it away.
lines=$(cat)
if [ -x {before} ]; then printf '%s\\n' "$lines" | {before} "$@"; fi
unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE GIT_QUARANTINE_PATH GIT_OBJECT_DIRECTORY
printf '%s\\n' "$lines" | {call} || :
exit 0
"""


def _write(path: Path, text: str) -> None:
    """All of it or nothing: a push may come at any moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    number, name = tempfile.mkstemp(dir=path.parent, prefix=".post-receive-")
    try:
        with os.fdopen(number, "w") as file:
            file.write(text)
        os.chmod(name, 0o755)  # noqa: S103 - whoever pushes runs it; nothing in it is secret
        os.replace(name, path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
