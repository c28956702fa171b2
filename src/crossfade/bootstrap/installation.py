"""Starting and stopping an installation: supervisor, edge and server."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from crossfade.bootstrap.server import listen
from crossfade.bootstrap.settings import Given, settle
from crossfade.bootstrap.state import SERVER, prepare, running_server
from crossfade.bootstrap.tls import examine
from crossfade.domain.errors import Unavailable

Progress = Callable[[str], None]


def up(state: Path, host: str, port: int, progress: Progress) -> dict[str, Any]:
    """`start` at a place of its own."""
    return start(state, Given(host, port), progress)


def start(state: Path, given: Given, progress: Progress) -> dict[str, Any]:
    """Start what does not run yet: supervisor, edge, server. What is not given is as `server.yaml` says.

    Raises Invalid, InvalidConfig, Refused, Unavailable, StorageFailed.
    """
    from crossfade.routers.haproxy import edge_command
    from crossfade.routers.haproxy import prepare as prepare_edge
    from crossfade.runtimes.supervisor import Supervisor

    settings = settle(state, given)
    if settings.certificate is not None and settings.key is not None:
        examine(settings.certificate, settings.key, time.time())
    prepare(state)
    supervisor = Supervisor(state)
    known = running_server(state)
    if known is not None and supervisor.running():
        return {"url": known["url"], "started": False, "state": str(state), "plain": False}
    progress("prepares the edge")
    prepare_edge(state / "edge", state / "run")
    listen(settings.host, settings.port).close()
    progress("starts the supervisor")
    supervisor.start()
    supervisor.ensure_program("edge", edge_command(state / "edge", state / "run"), cwd=state, stop_signal="USR1")
    command = (sys.executable, "-m", "crossfade.cli.main", "--state", str(state), "serve", *given.arguments())
    (state / SERVER).unlink(missing_ok=True)
    supervisor.ensure_program("server", command, cwd=state, env=_python_path())
    supervisor.start_program("server")
    progress("waits for the server")
    deadline = time.monotonic() + 30
    while (known := running_server(state)) is None:
        if time.monotonic() > deadline:
            lines = "\n".join(f"  {line}" for line in supervisor.log("server", 10))
            raise Unavailable(f"The server did not come up within 30 s. Its last lines:\n{lines}")
        time.sleep(0.05)
    return {"url": known["url"], "started": True, "state": str(state), "plain": settings.plain_beyond_loopback}


def _python_path() -> dict[str, str]:
    """What a child needs to import what this process has imported, wherever it runs."""
    inherited = [str(Path(p).absolute()) for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    return {"PYTHONPATH": os.pathsep.join(inherited)} if inherited else {}


def serving(state: Path) -> list[str]:
    """The environments that would be cut off by `down`; empty when nothing runs."""
    from crossfade.runtimes.supervisor import Supervisor

    if not Supervisor(state).running() or not (state / "crossfade.db").exists():
        return []
    from crossfade.store.sql import SqlStore

    store = SqlStore(f"sqlite:///{state / 'crossfade.db'}")
    try:
        return [str(environment.key) for environment in store.environments() if environment.live is not None]
    finally:
        store.dispose()


def down(state: Path, keep_traffic: bool, progress: Progress) -> bool:
    """Stop the server, or everything. False when nothing ran."""
    from crossfade.runtimes.supervisor import Supervisor

    supervisor = Supervisor(state)
    if not supervisor.running():
        return False
    progress("stops the server" if keep_traffic else "stops everything")
    if keep_traffic:
        supervisor.stop_program("server")
    else:
        supervisor.shutdown()
    return True
