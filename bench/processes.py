"""Processes of a bench: started on chosen cores, watched for their CPU time, and ended whatever happens."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

TICKS: Final = os.sysconf("SC_CLK_TCK")
PAGE: Final = os.sysconf("SC_PAGE_SIZE")
PATIENCE: Final = 20.0
"""Seconds for a program to listen."""


class BenchFailed(Exception):
    """What kept a bench from measuring, and what to do about it, in words for the user."""


class Cores:
    """Which cores the proxy has, and which everything else. Both are empty (no pinning) with one core only."""

    def __init__(self) -> None:
        allowed = sorted(os.sched_getaffinity(0))
        self.all = frozenset(allowed)
        self.proxy = frozenset(allowed[:1]) if len(allowed) > 1 else frozenset[int]()
        self.rest = frozenset(allowed[1:]) if len(allowed) > 1 else frozenset[int]()

    def __str__(self) -> str:
        if not self.proxy:
            return "one core for all"
        return f"proxy on core {_listed(self.proxy)}, load and backend on {_listed(self.rest)}"


def _listed(cores: frozenset[int]) -> str:
    return ", ".join(str(core) for core in sorted(cores))


@contextlib.contextmanager
def running_on(cores: frozenset[int]) -> Iterator[None]:
    """What is started inside inherits these cores; empty changes nothing."""
    before = os.sched_getaffinity(0)
    if cores:
        os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Processes:
    """Starts programs, each as a group of its own, in a short temporary folder; ends all of them on leaving."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="cf-", dir="/tmp"))
        self._started: list[subprocess.Popen[bytes]] = []
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        # A polite end of the bench must reach the `finally`s.
        for number in (signal.SIGTERM, signal.SIGHUP):
            self._before[number] = signal.signal(number, lambda number, _: sys.exit(128 + number))
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._started):
            self.end(process)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(
        self,
        command: Sequence[str],
        *,
        cores: frozenset[int] = frozenset(),
        env: Mapping[str, str] | None = None,
        log: str = "",
    ) -> subprocess.Popen[bytes]:
        """Run it in the background; what it says goes to ``log`` in the folder."""
        with running_on(cores), (self.folder / f"{log or Path(command[0]).name}.log").open("ab") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.folder,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )
        self._started.append(process)
        return process

    def end(self, process: subprocess.Popen[bytes], grace: float = 3.0) -> None:
        """SIGTERM, then SIGKILL to whatever is left of its group. Again does nothing."""
        if process not in self._started:
            return
        self._started.remove(process)
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def listening(self, process: subprocess.Popen[bytes], port: int, log: str = "") -> None:
        """Wait until the program accepts connections. Raises BenchFailed with its last words if it does not."""
        deadline = time.monotonic() + PATIENCE
        while not accepts(port):
            if process.poll() is not None or time.monotonic() > deadline:
                name = log or Path(str(process.args[0] if isinstance(process.args, list) else process.args)).name
                path = self.folder / f"{name}.log"
                said = path.read_text(errors="replace").strip()[-600:] if path.exists() else ""
                raise BenchFailed(f"{name} does not listen on port {port} (exit {process.poll()}). It said:\n{said}")
            time.sleep(0.02)


def free_ports(count: int) -> list[int]:
    """So many different ports of 127.0.0.1 that nobody uses now, below those that outgoing connections get."""
    found: list[int] = []
    for port in random.sample(range(10_000, 20_000), k=500):
        with socket.socket() as trial, contextlib.suppress(OSError):
            trial.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise BenchFailed("no free ports on 127.0.0.1 from 10000 to 19999")


def accepts(port: int) -> bool:
    """Whether something on this machine accepts connections there."""
    with socket.socket() as trial:
        trial.settimeout(1)
        return trial.connect_ex(("127.0.0.1", port)) == 0


def until(holds: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
    """Raises BenchFailed when ``holds`` does not come to hold."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise BenchFailed(f"waited {seconds:.0f} s in vain for {what}")
        time.sleep(0.01)


def cpu_seconds(groups: Sequence[int]) -> float:
    """CPU time that the processes of these groups have used so far, and the children that they waited for."""
    total = 0
    wanted = {str(group) for group in groups}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        # The second field, the program's name, may hold spaces and brackets itself.
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(") ")[2].split()
            if fields[2] in wanted:
                total += sum(int(field) for field in fields[11:15])
    return total / TICKS


def cpu_seconds_of(pid: int) -> float:
    """CPU time of one process, without its children. Raises FileNotFoundError when it is gone."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def resident_bytes(pid: int) -> int:
    """Resident memory of one process. Raises FileNotFoundError when it is gone."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


def group_resident_bytes(group: int) -> int:
    """Resident memory of a group of processes; pages that they share count for each."""
    total = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if stat.read_text().rpartition(") ")[2].split()[2] == str(group):
                total += resident_bytes(int(stat.parent.name))
    return total


def say(text: str) -> None:
    """Progress, for whoever waits."""
    print(text, file=sys.stderr, flush=True)
