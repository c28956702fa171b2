"""supervisord, which owns every long-lived process of a state folder: the edge, the server, the replicas.

A program is three files in ``programs/``: ``NAME.conf`` for supervisord, ``NAME.launch`` with command, folder and
environment (see `launch`), and ``NAME.pid``, written by the running program. They are enough to bring it back after a
reboot; whoever adds or removes a program may be killed at any moment.
"""

from __future__ import annotations

import contextlib
import http.client
import math
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from crossfade.domain.errors import Invalid, Refused, StorageFailed, Unavailable
from crossfade.runtimes import launch
from crossfade.runtimes.disk import ensure_folder, lock, read_file, remove_file, write_file

STOPPED, STARTING, RUNNING, BACKOFF, STOPPING, EXITED, FATAL = 0, 10, 20, 30, 40, 100, 200
"""supervisord's program states."""

LOG_BYTES: Final = 10 * 1024 * 1024
LOG_BACKUPS: Final = 3
LONGEST_SOCKET_PATH: Final = 107
LONGEST_LINE: Final = 2000

_BASE = ("PATH", "HOME", "LANG", "TMPDIR")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,180}")
_SHUTTING_DOWN, _BAD_NAME, _SPAWN_ERROR, _STILL_RUNNING = 6, 10, 50, 91
_HINT = "Start it with `crossfade up`."
_ANSWER_TIMEOUT = 15.0
_START_TIMEOUT = 20.0


@dataclass(frozen=True, slots=True)
class Program:
    """What supervisord is to keep running. ``env`` is complete apart from PATH, HOME, LANG and TMPDIR.

    ``stop_timeout`` (seconds, rounded up) lies between ``stop_signal`` (TERM, INT, USR1, …) and SIGKILL.
    """

    name: str
    command: tuple[str, ...]
    cwd: Path
    env: Mapping[str, str] = field(default_factory=dict)
    stop_timeout: float = 10.0
    stop_signal: str = "TERM"
    umask: int = 0o022


@dataclass(frozen=True, slots=True)
class ProgramState:
    """``state`` is one of supervisord's; ``restarts`` counts unasked ends; ``ended`` says how it ended last."""

    name: str
    state: int
    pid: int
    restarts: int
    ended: str
    error: str
    stop_timeout: int

    @property
    def alive(self) -> bool:
        return self.state in (STARTING, RUNNING, STOPPING)


class Supervisor:
    """The supervisord of one state folder. Safe to use from several threads and processes at once."""

    def __init__(self, state: Path) -> None:
        self.state = state.absolute()
        self.socket = self.state / "run" / "supervisor.sock"
        self._programs = self.state / "programs"
        self.logs = self.state / "logs"

    # -- supervisord itself

    def start(self) -> None:
        """Start supervisord in the background, with all its programs, unless it runs already.

        Raises Invalid for a state folder that cannot hold its socket, StorageFailed, Unavailable.
        """
        self._check_place()
        for folder in (self.state, self.socket.parent, self._programs, self.logs):
            ensure_folder(folder)
        with self._lock():
            if self.running():
                return
            self._stop_orphans()
            with contextlib.suppress(OSError):
                self.socket.unlink()  # supervisord would wait 0.3 s for nobody.
            write_file(self.state / "supervisord.conf", self._configuration().encode())
            self._spawn()

    def running(self) -> bool:
        """Whether supervisord answers."""
        try:
            self._call("supervisor", "getState")
        except Unavailable:
            return False
        return True

    def pid(self) -> int:
        """The process id of supervisord itself. Raises Unavailable."""
        return int(self._call("supervisor", "getPID"))

    def shutdown(self) -> None:
        """Stop all programs, all at once, then supervisord; all are gone when this returns. Raises Unavailable."""
        with self._lock():
            if not self.running():
                return
            states = self.states()
            who = launch.identity(self.pid())
            self._stop(states)
            with contextlib.suppress(Unavailable):
                self._call("supervisor", "shutdown")
            patience = 10.0 + max((s.stop_timeout for s in states.values()), default=0)
            # Asking also wakes supervisord, which else looks once a second.
            if not _until(lambda: not self.running() and not _is_still(who), patience):
                raise Unavailable(
                    f"supervisord (process {who.split(' ', 1)[0]}) did not end within {patience:.0f} s.",
                    hint=f"See {self.logs / 'supervisord.log'}.",
                )

    # -- programs

    def ensure_program(
        self,
        name: str,
        command: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str] | None = None,
        stop_timeout: float = 10.0,
        stop_signal: str = "TERM",
    ) -> None:
        """See `ensure`, for one program."""
        self.ensure([Program(name, tuple(command), cwd, dict(env or {}), stop_timeout, stop_signal)])

    def ensure(self, programs: Sequence[Program]) -> None:
        """Have these programs run as described, now and after a reboot. One that runs so already is not touched.

        A program that runs otherwise is stopped and started anew. When anything fails, the programs that this call
        added are gone again. Returns at once: whether a program stays up is in `states`.
        Raises Invalid, StorageFailed, Unavailable.
        """
        wanted = [(program, *self._files(program)) for program in programs]
        with self._lock():
            states = self.states()
            fresh = [item for item in wanted if not self._is_on_disk(*item) or item[0].name not in states]
            names = {program.name for program, _, _ in fresh}
            added = [name for name in names if name not in states]
            self._remove([name for name in names if name in states])
            try:
                for program, conf, data in fresh:
                    write_file(self._programs / f"{program.name}.launch", data)
                    write_file(self._programs / f"{program.name}.conf", conf)
                self._begin(sorted(names), programs)
            except BaseException:
                with contextlib.suppress(Unavailable, StorageFailed):
                    self._remove(added)
                raise

    def start_program(self, name: str) -> None:
        """Start a program that was stopped. Raises Refused when there is no such program, Unavailable."""
        self._start([name])

    def stop_program(self, name: str) -> None:
        """Stop one until it is started again, or supervisord is. Raises Unavailable."""
        self.stop([name])

    def stop(self, names: Iterable[str]) -> None:
        """Stop these at the same time; they and their children are gone when this returns. Raises Unavailable."""
        states = self.states()
        self._stop({name: states[name] for name in names if name in states})

    def remove_program(self, name: str) -> None:
        """See `remove`, for one program."""
        self.remove([name])

    def remove(self, names: Iterable[str]) -> None:
        """Stop these at the same time and forget them; their logs stay. Unknown names are ignored.

        Raises Unavailable, StorageFailed.
        """
        wanted = list(names)
        states = self.states()
        # Stopping takes seconds; others may add and remove programs meanwhile.
        self._forget_files(wanted, (".conf",))
        self._stop({name: states[name] for name in wanted if name in states})
        with self._lock():
            self._remove(wanted)

    def states(self) -> dict[str, ProgramState]:
        """All programs by name. Raises Unavailable."""
        found: Mapping[str, Mapping[str, Any]] = self._call("crossfade", "states")
        return {name: ProgramState(name=name, **facts) for name, facts in sorted(found.items())}

    def log(self, name: str, lines: int = 50) -> tuple[str, ...]:
        """The last lines of a program's output, safe to print; empty when there is none. Raises StorageFailed."""
        _check_name(name)
        found: list[str] = []
        for suffix in ("", *(f".{i}" for i in range(1, LOG_BACKUPS + 1))):
            if len(found) >= lines:
                break
            found = _last_lines(self.logs / f"{name}.log{suffix}", lines - len(found)) + found
        return tuple(found[-lines:]) if lines > 0 else ()

    def remove_log(self, name: str) -> None:
        """Remove a program's log and its older parts. Raises StorageFailed."""
        _check_name(name)
        for suffix in ("", *(f".{i}" for i in range(1, LOG_BACKUPS + 1))):
            remove_file(self.logs / f"{name}.log{suffix}")

    # -- inside

    def _lock(self) -> contextlib.AbstractContextManager[None]:
        if not self.socket.parent.is_dir():
            raise Unavailable("The supervisor is not running.", hint=_HINT)
        return lock(self.socket.parent / "supervisor.lock")

    def _check_place(self) -> None:
        # supervisord binds SOCKET.PID first.
        room = LONGEST_SOCKET_PATH - len("/run/supervisor.sock.4194304")
        text = str(self.state)
        if len(os.fsencode(text)) > room:
            raise Invalid("state folder", text, f"a path of at most {room} bytes, as sockets are in it")
        if not text.isprintable() or re.search(r"[*?\[\]]|\s[;#]", text):
            raise Invalid("state folder", text, "a path without control characters, '*', '?', '[', ']', ' ;' and ' #'")

    def _configuration(self) -> str:
        # All paths are relative: supervisord's own folder is the state folder, and stays so.
        lines = [
            "[supervisord]",
            "logfile = logs/supervisord.log",
            "logfile_maxbytes = 5MB",
            "logfile_backups = 2",
            "loglevel = info",
            "pidfile = run/supervisord.pid",
            "childlogdir = logs",
            "nocleanup = true",
            "umask = 077",
            "",
            "[unix_http_server]",
            "file = run/supervisor.sock",
            "chmod = 0600",
            "",
            "[rpcinterface:supervisor]",
            "supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface",
            "",
            "[rpcinterface:crossfade]",
            "supervisor.rpcinterface_factory = crossfade.runtimes.reaper:reaper",
            "",
            "[include]",
            "files = programs/*.conf",
            "",
        ]
        if os.geteuid() == 0:
            lines.insert(1, "user = root")  # Said so, it does not warn of it.
        return "\n".join(lines)

    def _spawn(self) -> None:
        inherited = [str(Path(p).absolute()) for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
        here = str(Path(__file__).absolute().parents[2])  # supervisord imports the reaper.
        env = {**base_environment(), "PYTHONPATH": os.pathsep.join(dict.fromkeys([here, *inherited]))}
        command = [sys.executable, "-P", "-W", "ignore", "-m", "supervisor.supervisord", "-c", "supervisord.conf"]
        try:
            done = subprocess.run(
                command,
                cwd=self.state,
                env=env,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_START_TIMEOUT,
                check=False,
            )
        except OSError as error:
            raise Unavailable(f"supervisord cannot be started: {error}.") from error
        except subprocess.TimeoutExpired as error:
            raise Unavailable(f"supervisord did not start within {_START_TIMEOUT:.0f} s.") from error
        said = (done.stderr + done.stdout).decode("utf-8", "replace").strip()
        if done.returncode or not _until(self.running, _START_TIMEOUT):
            lines = said.splitlines() or ["it said nothing"]
            last = next((line for line in lines if line.startswith("Error:")), lines[-1])
            raise Unavailable(
                f"supervisord did not start: {last}", hint=f"See {self.logs / 'supervisord.log'}.", output=said
            )

    def _stop_orphans(self) -> None:
        """A supervisord that was killed leaves programs behind, on the ports that their successors need."""
        found = []
        for path in sorted(self._programs.glob("*.pid")):
            who = (read_file(path) or b"").decode("ascii", "replace")
            if who and _is_still(who):
                found.append(int(who.split(" ", 1)[0]))
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in found:
                _signal_group(pid, number)
            if _until(lambda: not any(_group_lives(pid) for pid in found), 5.0):
                return

    def _files(self, program: Program) -> tuple[bytes, bytes]:
        """The configuration for supervisord and the launch file. Raises Invalid."""
        _check_name(program.name)
        if not program.command or not program.command[0]:
            raise Invalid("command", list(program.command), "at least the program to run")
        env = {**base_environment(), **program.env}
        for key, value in env.items():
            if not key or "=" in key or "\0" in key:
                raise Invalid("environment variable", key, "a name without '=' and NUL")
            if "\0" in value:
                raise Invalid(f"environment variable {key}", "(a value with a NUL character)", "a value without NUL")
        for text in (*program.command, str(program.cwd)):
            if "\0" in text:
                raise Invalid("command", text, "arguments without NUL characters")
        if not re.fullmatch(r"[A-Z0-9]{2,8}", program.stop_signal):
            raise Invalid("stop_signal", program.stop_signal, "the name of a signal, for example TERM")
        data = launch.encode(program.umask, str(program.cwd), program.command, env)
        command = [sys.executable, "-S", "-I", str(Path(launch.__file__).absolute())]
        lines = [
            f"[program:{program.name}]",
            f"command = {_quoted([*command, f'programs/{program.name}.launch'])}",
            "autostart = true",
            "autorestart = true",
            "startsecs = 1",
            "startretries = 1000000",
            f"stopsignal = {program.stop_signal}",
            f"stopwaitsecs = {max(0, math.ceil(program.stop_timeout))}",
            "stopasgroup = true",
            "killasgroup = true",
            "redirect_stderr = true",
            f"stdout_logfile = logs/{program.name}.log",
            f"stdout_logfile_maxbytes = {LOG_BYTES}",
            f"stdout_logfile_backups = {LOG_BACKUPS}",
            "",
        ]
        return "\n".join(lines).encode(), data

    def _is_on_disk(self, program: Program, conf: bytes, data: bytes) -> bool:
        there = self._programs / program.name
        return read_file(Path(f"{there}.conf")) == conf and read_file(Path(f"{there}.launch")) == data

    def _begin(self, added: Sequence[str], programs: Sequence[Program]) -> None:
        """Make supervisord know the added ones, and start those of all that do not run."""
        for name, result in self._batch([("crossfade.add", name) for name in added]):
            if result is not True:
                why = result["faultString"] if _fault(result) else "its file names none"
                raise Unavailable(f"supervisord does not take {name}: {why}")
        self._start([program.name for program in programs])

    def _start(self, names: Sequence[str]) -> None:
        for name, result in self._batch([("supervisor.startProcess", name, False) for name in names]):
            if _fault(result) == _BAD_NAME:
                raise Refused(f"There is no program {name}.", hint=_HINT)
            if _fault(result) == _SPAWN_ERROR:
                error = self.states()[name].error
                if "ENOSPC" in error or "EACCES" in error or "EROFS" in error:
                    raise StorageFailed(f"Cannot open the log of {name}: {error}.", hint="Free some space there.")
            # Already started, or started and ended at once: both are in `states`.

    def _stop(self, states: Mapping[str, ProgramState]) -> None:
        groups = {s.pid: s.stop_timeout for s in states.values() if s.pid}
        began = time.monotonic()
        patience = 15.0 + max((s.stop_timeout for s in states.values()), default=0)
        waiting = set(states)
        while waiting:
            # Asked anew while it is not stopped: supervisord refuses in the moment between an end and a restart.
            now = self.states()
            waiting = {n for n in waiting if n in now and now[n].state not in (STOPPED, FATAL)}
            groups |= {now[n].pid: now[n].stop_timeout for n in waiting if now[n].pid}
            ask = [n for n in waiting if now[n].state in (STARTING, RUNNING, BACKOFF)]
            self._batch([("supervisor.stopProcess", name, False) for name in ask])
            if waiting:
                if time.monotonic() - began > patience:
                    raise Unavailable(f"{', '.join(sorted(waiting))} did not stop within {patience:.0f} s.")
                time.sleep(0.01 if time.monotonic() - began < 0.5 else 0.05)
        # Children that outlive the first of their group get the same time, then SIGKILL.
        for pid, timeout in groups.items():
            if not _until(lambda pid=pid: not _group_lives(pid), timeout - (time.monotonic() - began)):
                _signal_group(pid, signal.SIGKILL)
                _until(lambda pid=pid: not _group_lives(pid), 2.0)

    def _remove(self, names: Sequence[str]) -> None:
        """Under the lock. Files first: a supervisord that starts in between must not bring it back."""
        if not names:
            return
        self._forget_files(names, (".conf",))
        states = self.states()
        known = [name for name in names if name in states]
        for _ in range(5):
            self._stop({name: states[name] for name in known})
            results = self._batch([("supervisor.removeProcessGroup", name) for name in known])
            known = [name for name, result in results if _fault(result) == _STILL_RUNNING]
            if not known:
                break
            states = self.states()
            known = [name for name in known if name in states]
        self._batch([("crossfade.forget", name) for name in names])
        self._forget_files(names, (".launch", ".pid"))

    def _forget_files(self, names: Iterable[str], suffixes: Sequence[str]) -> None:
        for name in names:
            _check_name(name)
            for suffix in suffixes:
                remove_file(self._programs / f"{name}{suffix}")

    def _batch(self, calls: Sequence[tuple[Any, ...]]) -> list[tuple[str, Any]]:
        """One round trip; each call's first argument beside its result or fault."""
        if not calls:
            return []
        packed = [{"methodName": method, "params": list(params)} for method, *params in calls]
        results = self._call("system", "multicall", packed)
        for result in results:
            if _fault(result) == _SHUTTING_DOWN:
                raise Unavailable("The supervisor is shutting down.", hint=_HINT)
        return [(str(call[1]), result) for call, result in zip(calls, results, strict=True)]

    def _call(self, namespace: str, method: str, *params: Any) -> Any:
        transport = _Transport(self.socket)
        proxy = xmlrpc.client.ServerProxy("http://localhost/RPC2", transport=transport)
        try:
            return getattr(getattr(proxy, namespace), method)(*params)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode == _SHUTTING_DOWN:
                raise Unavailable("The supervisor is shutting down.", hint=_HINT) from fault
            raise
        except (FileNotFoundError, ConnectionError) as error:
            raise Unavailable("The supervisor is not running.", hint=_HINT, socket=str(self.socket)) from error
        except TimeoutError as error:
            raise Unavailable(
                f"The supervisor did not answer within {_ANSWER_TIMEOUT:.0f} s.",
                hint=f"See {self.logs / 'supervisord.log'}.",
            ) from error
        except (OSError, http.client.HTTPException, xmlrpc.client.Error) as error:
            raise Unavailable(f"The supervisor does not answer as it should: {error}.", hint=_HINT) from error
        finally:
            transport.close()


def base_environment() -> dict[str, str]:
    """What every program gets of our own environment, and nothing more: ours may hold secrets."""
    return {"PATH": os.defpath, **{name: os.environ[name] for name in _BASE if name in os.environ}}


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_ANSWER_TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_ANSWER_TIMEOUT)
        self.sock.connect(str(self._path))


class _Transport(xmlrpc.client.Transport):
    """XML-RPC over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: object) -> http.client.HTTPConnection:
        # The parent keeps what it is to close in this attribute.
        connection = _Connection(self._path)
        self._connection = (str(host), connection)
        return connection

    def request(self, *args: Any, **options: Any) -> Any:
        # The inherited one tries again when the connection breaks; a call may have been carried out by then.
        return self.single_request(*args, **options)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise Invalid("program name", name, "letters, digits, '.', '_' and '-', beginning with a letter or digit")


def _quoted(command: Sequence[str]) -> str:
    text = shlex.join(command)
    if not text.isprintable() or re.search(r"\s[;#]", text):
        raise Invalid("path of Python", text, "a path without control characters, ' ;' and ' #'")
    return text.replace("%", "%%")


def _fault(result: Any) -> int:
    return int(result["faultCode"]) if isinstance(result, dict) and "faultCode" in result else 0


def _is_still(who: str) -> bool:
    return launch.identity(who.split(" ", 1)[0]) == who


def _group_lives(pid: int) -> bool:
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _signal_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(OSError):
        os.killpg(pid, number)


def _until(holds: Any, seconds: float) -> bool:
    """Look every few milliseconds until it holds; False when it still does not after ``seconds``."""
    end = time.monotonic() + seconds
    pause = 0.002
    while not holds():
        if time.monotonic() >= end:
            return False
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)
    return True


def _last_lines(path: Path, count: int) -> list[str]:
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            start = max(0, size - min(count * LONGEST_LINE, 4 * 1024 * 1024))
            file.seek(start)
            data = file.read(size - start)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorageFailed.because(f"read {path}", error) from error
    # Only newlines end a line: a binary log has every other separator in it.
    lines = data.decode("utf-8", "replace").removesuffix("\n").split("\n") if data else []
    return [_printable(line) for line in lines[-count:]]


def _printable(line: str) -> str:
    """Without the control characters that would drive the reader's terminal, and not endless."""
    line = line.rstrip("\r")
    if len(line) > LONGEST_LINE:
        line = line[: LONGEST_LINE - 1] + "…"
    return "".join(c if c.isprintable() or c == "\t" else "\ufffd" for c in line)
