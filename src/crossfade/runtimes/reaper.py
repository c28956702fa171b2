"""Runs inside supervisord, as one of its RPC interfaces: notices at once that a program ended, and remembers how.

supervisord by itself looks once a second, forgets the exit status of a program that ended within its first second,
and leaves the children of a crashed program behind, holding its port. This adds:

- a SIGCHLD, or an ended program, wakes supervisord's loop, so a killed program is back in milliseconds;
- how each program last ended and how often it did so unasked, in `states`;
- the process group of a program that ended unasked is killed;
- one program is added without reading the files of all the others;
- processes that lose their parent become supervisord's, so that none stays a zombie where process 1 reaps nobody.
"""

from __future__ import annotations

import ctypes
import os
import signal
from typing import Any

from supervisor.options import UnhosedConfigParser  # type: ignore[import-untyped]  # it has no types

_PR_SET_CHILD_SUBREAPER = 36


def how_it_ended(status: int) -> str:
    """The wait status for people: ``exited with status 3`` or ``was killed by SIGKILL``."""
    if os.WIFEXITED(status):
        return f"exited with status {os.WEXITSTATUS(status)}"
    number = os.WTERMSIG(status)
    try:
        return f"was killed by {signal.Signals(number).name}"
    except ValueError:
        return f"was killed by signal {number}"


class Wake:
    """A pipe that supervisord's loop reads. Has the face of the dispatchers in its socket map."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)

    def install(self, socket_map: dict[int, Any]) -> None:
        socket_map[self._read] = self
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)

    def ring(self) -> None:
        try:
            os.write(self._write, b"\0")
        except BlockingIOError:
            pass  # Full of earlier rings: it wakes anyway.

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def handle_read_event(self) -> None:
        try:
            os.read(self._read, 4096)
        except BlockingIOError:
            pass

    def handle_error(self) -> None: ...

    def close(self) -> None: ...


class Reaper:
    """The RPC namespace ``crossfade``."""

    def __init__(self, supervisord: Any) -> None:
        self._supervisord = supervisord
        self._ends: dict[str, tuple[int, str]] = {}
        self._wake = Wake()
        self._wake.install(supervisord.options.get_socket_map())
        self._wait = supervisord.options.waitpid
        self._adopting = False
        supervisord.options.waitpid = self._waitpid

    def states(self) -> dict[str, dict[str, Any]]:
        """Each program's supervisord state, pid, unasked ends, how it last ended, spawn error and stop time-out (s)."""
        found = {}
        for group in self._supervisord.process_groups.values():
            for process in group.processes.values():
                restarts, ended = self._ends.get(process.config.name, (0, ""))
                found[process.config.name] = {
                    "state": int(process.get_state()),
                    "pid": int(process.pid),
                    "restarts": restarts,
                    "ended": ended,
                    "error": str(process.spawnerr or ""),
                    "stop_timeout": int(process.config.stopwaitsecs),
                }
        return found

    def add(self, name: str) -> bool:
        """Take up one program from its file, as reloadConfig and addProcessGroup do after reading all of them."""
        options = self._supervisord.options
        parser = UnhosedConfigParser()
        parser.expansions = options.environ_expansions
        parser.read(os.path.join("programs", f"{name}.conf"))
        groups = options.process_groups_from_parser(parser)
        for group in groups:
            self._supervisord.add_process_group(group)
        return bool(groups)

    def forget(self, name: str) -> bool:
        """Begin to count anew."""
        self._ends.pop(name, None)
        return True

    def _waitpid(self) -> tuple[int | None, int | None]:
        if not self._adopting:  # Not earlier: it is lost when supervisord forks itself into the background.
            self._adopting = True
            self._adopt()
        pid, status = self._wait()
        if pid:
            process = self._supervisord.options.pidhistory.get(pid)
            if process is not None:
                self._note(process, pid, status)
            self._wake.ring()  # One more turn of the loop, which starts it again.
        return pid, status

    def _note(self, process: Any, pid: int, status: int) -> None:
        name = process.config.name
        restarts, _ = self._ends.get(name, (0, ""))
        asked = bool(process.killing)
        self._ends[name] = (restarts if asked else restarts + 1, how_it_ended(status))
        if not asked and process.config.killasgroup:
            try:
                os.killpg(pid, signal.SIGKILL)
            except OSError:
                pass  # It left nothing behind.

    def _adopt(self) -> None:
        try:
            ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        except (OSError, AttributeError):
            pass  # Not Linux.


def reaper(supervisord: Any, **_: str) -> Reaper:
    """What supervisord's configuration names."""
    return Reaper(supervisord)
