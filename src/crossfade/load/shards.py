"""One plan over several processes, for rates beyond what one can send in time: each takes every n-th arrival."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from crossfade.domain.errors import Invalid, Unavailable
from crossfade.load.plan import LoadPlan
from crossfade.load.progress import Progress
from crossfade.load.records import Records

MOST_PROCESSES: Final = 64
HEAD_START: Final = 1.0
"""Seconds for all processes to be there before the first arrival."""


def run_sharded(
    plan: LoadPlan,
    processes: int,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    every: float = 1.0,
    stop_on_signals: bool = False,
) -> Records:
    """Run a plan in ``processes`` processes and join what they recorded.

    ``stop_on_signals`` works in the main thread only. Raises Invalid, and Unavailable when a process did not end well.
    """
    if not 1 <= processes <= MOST_PROCESSES:
        raise Invalid("processes", processes, f"a whole number from 1 to {MOST_PROCESSES}")
    with tempfile.TemporaryDirectory(prefix="crossfade-load-") as name:
        folder = Path(name)
        (folder / "plan.json").write_text(json.dumps(plan.to_data()))
        begin = time.time() + HEAD_START
        together = _Together(processes, on_progress)
        children: list[subprocess.Popen[str]] = []
        readers: list[threading.Thread] = []
        try:
            for shard in range(processes):
                child = _child(folder, shard, processes, begin, every if on_progress else 0.0)
                children.append(child)
                readers.append(threading.Thread(target=together.listen, args=(shard, child.stdout), daemon=True))
                readers[-1].start()
            with _passing_on_signals(children, stop_on_signals):
                codes = [child.wait() for child in children]
        finally:
            for child in children:
                if child.poll() is None:
                    child.kill()
                    child.wait()
        for child, reader in zip(children, readers, strict=True):
            reader.join(5)
            if child.stdout is not None and not reader.is_alive():
                child.stdout.close()
        if any(codes):
            said = (folder / f"{next(n for n, code in enumerate(codes) if code)}.err").read_text(errors="replace")
            lines = said.strip().splitlines()
            raise Unavailable(
                f"A process of the load generator ended with {codes}: {lines[-1] if lines else 'no word'}"
            )
        return Records.joined(Records.load(folder / f"{shard}.records") for shard in range(processes))


def _child(folder: Path, shard: int, shards: int, begin: float, every: float) -> subprocess.Popen[str]:
    package = str(Path(__file__).resolve().parents[2])
    paths = [package, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    command = [sys.executable, "-m", "crossfade.load", "--plan", str(folder / "plan.json")]
    command += ["--shard", f"{shard}/{shards}", "--begin-at", repr(begin), "--progress", repr(every)]
    command += ["--records", str(folder / f"{shard}.records")]
    with (folder / f"{shard}.err").open("wb") as errors:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            # A Ctrl-C at the terminal would reach the children twice: directly, and as passed on.
            start_new_session=True,
        )


class _Together:
    """Adds up the shards' progress: the n-th report of each is one."""

    def __init__(self, shards: int, tell: Callable[[Progress], None] | None) -> None:
        self._tell = tell
        self._lock = threading.Lock()
        self._reports: list[list[Progress]] = [[] for _ in range(shards)]

    def listen(self, shard: int, lines: IO[str] | None) -> None:
        for line in lines or ():
            try:
                progress = Progress.from_data(json.loads(line))
            except (ValueError, KeyError, TypeError):
                continue
            with self._lock:
                self._reports[shard].append(progress)
                if not all(self._reports):
                    continue
                whole, *others = [reports.pop(0) for reports in self._reports]
                for other in others:
                    whole = whole.plus(other)
                if self._tell is not None:
                    self._tell(whole)


@contextmanager
def _passing_on_signals(children: list[subprocess.Popen[str]], wanted: bool) -> Iterator[None]:
    if not wanted:
        yield
        return

    def pass_on(_number: int, _frame: object) -> None:
        for child in children:
            child.send_signal(signal.SIGTERM)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
