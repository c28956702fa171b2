"""Talks to the edge over its two unix sockets: the worker's (traffic) and the master's (processes)."""

from __future__ import annotations

import csv
import io
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from crossfade.domain.errors import Unavailable
from crossfade.routers.haproxy.config import MASTER_SOCKET, WORKER_SOCKET

PATIENCE: Final = 3.0
"""Seconds for which a starting or restarting edge is waited for."""


@dataclass(frozen=True, slots=True)
class Row:
    """What `show stat` says of one server."""

    status: str
    sessions: int
    check: str
    check_text: str
    host_port: str


class EdgeClient:
    """One connection for each exchange: they cost a tenth of a millisecond, and none can go stale."""

    def __init__(self, run: Path) -> None:
        self._worker = str(run / WORKER_SOCKET)
        self._master = str(run / MASTER_SOCKET)

    def ask(self, *commands: str, patience: float = PATIENCE) -> str:
        """Commands to the serving worker, answered together. Raises Unavailable when it cannot be reached."""
        return _exchange(self._worker, ";".join(commands), patience, timeout=5.0)

    def ask_master(self, command: str, patience: float = PATIENCE, timeout: float = 5.0) -> str:
        """One command to the master. Raises Unavailable."""
        return _exchange(self._master, command, patience, timeout)

    def old_workers(self) -> tuple[int, ...]:
        """The pids of workers that a reload left to finish their requests. Raises Unavailable."""
        pids, old = [], False
        for line in self.ask_master("show proc").splitlines():
            if line.startswith("#"):
                old = line.startswith("# old workers")
            elif old and len(fields := line.split()) >= 2 and fields[1] == "worker":
                pids.append(int(fields[0]))
        return tuple(pids)

    def ask_old(self, pid: int, *commands: str) -> str:
        """Commands to an old worker; empty when it has gone."""
        try:
            return self.ask_master(";".join(f"@!{pid} {command}" for command in commands), patience=0.0, timeout=2.0)
        except Unavailable:
            return ""


def generation_of(info: str) -> int | None:
    """The generation of the configuration that a worker runs, from its `show info`."""
    for line in info.splitlines():
        if line.startswith("description: generation "):
            return int(line.removeprefix("description: generation ").split()[0])
    return None


def tables(stat: str) -> dict[str, dict[str, Row]]:
    """The servers of each backend, by name, from `show stat`."""
    found: dict[str, dict[str, Row]] = {}
    start = stat.find("# pxname")
    if start < 0:
        return found
    lines = csv.reader(io.StringIO(stat[start + 2 :]))
    places = {name: place for place, name in enumerate(next(lines))}
    status, sessions, check, last, address = (
        places[name] for name in ("status", "scur", "check_status", "last_chk", "addr")
    )
    for row in lines:
        if len(row) > address and row[1] not in ("BACKEND", "FRONTEND", "_elsewhere"):
            found.setdefault(row[0], {})[row[1]] = Row(
                row[status], int(row[sessions] or 0), row[check], row[last], row[address]
            )
    return found


def rows(stat: str, backend: str) -> dict[str, Row]:
    """The servers of one backend, by name, from `show stat`."""
    return tables(stat).get(backend, {})


def has_backend(stat: str, backend: str) -> bool:
    """Whether `show stat` knows the backend."""
    return f"\n{backend},BACKEND," in stat


def _exchange(path: str, command: str, patience: float, timeout: float) -> str:
    deadline = time.monotonic() + patience
    while True:
        try:
            return _once(path, command, timeout)
        except (FileNotFoundError, ConnectionError, TimeoutError, BlockingIOError) as error:
            if time.monotonic() >= deadline:
                raise Unavailable(
                    "The edge does not answer.",
                    hint="It is restarted by itself within seconds; if not, see `crossfade doctor` and `crossfade logs`.",
                    reason=str(error),
                ) from error
            time.sleep(0.02)
        except OSError as error:
            raise Unavailable(
                f"The edge cannot be reached: {error.strerror}.", hint="See `crossfade doctor`."
            ) from error


def _once(path: str, command: str, timeout: float) -> str:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        connection.connect(path)
        connection.sendall(command.encode() + b"\n")
        connection.shutdown(socket.SHUT_WR)
        chunks = []
        while chunk := connection.recv(65536):
            chunks.append(chunk)
    if not chunks:
        raise ConnectionResetError("closed without an answer")
    return b"".join(chunks).decode(errors="replace")
