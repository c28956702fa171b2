"""The peers' three ways of ``bench.year``: their proxy, their replicas, and the deployer that is started for each release.

They have the same supervisor, application and proxy as Crossfade's way. The proxy is a plain HAProxy with the retries,
limits and intervals of Crossfade's edge, and with active checks that ask for the service's health, where Crossfade's
only connect.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Final

from bench.processes import BenchFailed, free_ports, until
from bench.year_deployer import REPLICAS, Fleet, Place
from bench.year_schedule import Release
from crossfade.routers.haproxy import binary
from crossfade.runtimes.supervisor import Supervisor

CONFIG: Final = """\
global
  nbthread 1
  stats socket 'unix@{socket}' mode 600 level admin
defaults
  mode http
  timeout connect 1s
  timeout client 75s
  timeout http-request 30s
  timeout http-keep-alive 30s
  timeout check 2s
  timeout server 60s
  retries 6
  retry-on conn-failure empty-response
  option redispatch 1
  option abortonclose
  option idle-close-on-response
  http-reuse safe
frontend web
  bind 127.0.0.1:{port}
  http-request disable-l7-retry unless {{ method GET HEAD OPTIONS PUT DELETE TRACE }}
  use_backend green if {{ str(active),map_str({map}) -m str green }}
  default_backend blue
"""
SERVER: Final = (
    "  server {name} 127.0.0.1:{port} check inter 1s fastinter 200ms downinter 200ms rise 1 fall 2"
    " observe layer4 error-limit 3 on-error mark-down pool-purge-delay 1s\n"
)


def build(folder: Path, start: float, within: float) -> Fleet:
    """A new one, with a proxy and without replicas."""
    folder.mkdir()
    port, *ports = free_ports(1 + 2 * REPLICAS)
    replicas = {"blue": ports[:REPLICAS], "green": ports[REPLICAS:]}
    fleet = Fleet(Place(str(folder), port, replicas, str(folder / "books.db"), start, within))
    (folder / "place.json").write_text(json.dumps(asdict(fleet.place)))
    fleet.activate("blue", tell=False)
    text = CONFIG.format(socket=fleet.socket, port=port, map=fleet.map)
    for slot, numbers in replicas.items():
        text += f"backend {slot}\n  option httpchk GET /health\n  http-check expect status 200\n"
        text += "".join(SERVER.format(name=f"{slot}-{k}", port=one) for k, one in enumerate(numbers, 1))
    (folder / "haproxy.cfg").write_text(text)
    fleet.supervisor.start()
    fleet.supervisor.ensure_program("edge", (binary(), "-f", str(folder / "haproxy.cfg")), cwd=folder)
    until(lambda: bool(fleet.rows()), f"the proxy of {folder.name}")
    return fleet


class Peer:
    """One of these ways, for `bench.year_run`."""

    heals = False
    """Whether it takes bad releases back by itself."""

    def __init__(self, name: str, folder: Path, start: float, within: float) -> None:
        self.name = name
        try:
            self._fleet = build(folder, start, within)
        except BaseException:
            Supervisor(folder).shutdown()
            raise
        self.port = self._fleet.place.port
        self._log = folder / "deployer.log"
        self._deployer: subprocess.Popen[bytes] | None = None

    def deploy(self, release: Release, kill_after: float | None = None) -> bool | None:
        """Whether it was deployed; None when the deployer was killed, ``kill_after`` seconds from its start."""
        command = [sys.executable, "-m", "bench.year_deployer", self._fleet.place.folder, self.name]
        command.append(json.dumps(asdict(release)))
        with self._log.open("ab") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._deployer = process
        try:
            code = process.wait(kill_after if kill_after is not None else 90)
        except subprocess.TimeoutExpired:
            if kill_after is None:
                raise BenchFailed(f"the deployer of {self.name} does not end: {self._log.read_text()[-600:]}") from None
            process.send_signal(signal.SIGKILL)
            process.wait()
            return None
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        if code not in (0, 1):
            raise BenchFailed(f"the deployer of {self.name} ended with {code}: {self._log.read_text()[-600:]}")
        return code == 0

    def healed(self, bad: Release) -> bool:
        """Nobody but the operator takes anything back."""
        return False

    def repair(self, good: Release) -> None:
        """What the operator does: deploy the release before in the same way."""
        self.deploy(good)

    def kill_replica(self) -> None:
        """SIGKILL for one that has traffic."""
        state = self._fleet.supervisor.states().get(f"{self._fleet.active}-1")
        if state is not None and state.pid:
            os.kill(state.pid, signal.SIGKILL)

    def end(self) -> None:
        """Stop all of it."""
        if self._deployer is not None and self._deployer.poll() is None:
            self._deployer.kill()
        self._fleet.supervisor.shutdown()
