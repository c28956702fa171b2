"""A table that is changed on a copy while it is written: what both tools do, and how a tool is kept from outliving us."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from crossfade.domain.errors import Unavailable

LAUNCH: Final = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)
if os.getppid() == int(sys.argv[1]):
    os.execvp(sys.argv[2], sys.argv[2:])
"""
"""Becomes the tool, which the kernel then ends with the thread that started it (PR_SET_PDEATHSIG, SIGKILL)."""
KEPT_LINES: Final = 40
GRACE: Final = 10.0


@dataclass(frozen=True, slots=True)
class Change:
    """One table, and what is to change of it. All that belongs to its copy is called by ``stem``, which no other change has."""

    table: str
    clause: str
    stem: str

    @property
    def new(self) -> str:
        return f"{self.stem}_new"

    @property
    def old(self) -> str:
        """The table that was replaced, until it is dropped."""
        return f"{self.stem}_old"

    @property
    def ghost(self) -> str:
        return f"_{self.stem}_gho"

    @property
    def ghost_log(self) -> str:
        return f"_{self.stem}_ghc"

    @property
    def ghost_old(self) -> str:
        return f"_{self.stem}_del"


@dataclass(frozen=True, slots=True)
class Seen:
    """Where a copy stands. ``share``: 0 to 1; ``eta``: seconds or None; ``waits``: why nothing moves, as the tool says it.

    ``copied``: all rows are there and followed, and it can take the table's place. ``failed``: why it ended before.
    """

    share: float = 0.0
    eta: float | None = None
    waits: str = ""
    copied: bool = False
    failed: str = ""


class OnlineChange(Protocol):
    """One copy of one table, made by a tool. A tool that was killed begins anew."""

    verifiable: bool
    """Whether a write is in the table and in the copy at the same moment, so that both can be compared."""

    def start(self) -> None:
        """Begin to copy, after what an earlier one left is gone. Raises Unavailable when the tool is not there."""

    def seen(self) -> Seen:
        """Where it stands; never raises for what the tool does."""

    def throttle(self, wait: bool) -> None:
        """Let it wait, or go on, within a second or so."""

    def followed(self) -> bool:
        """Whether a complete copy still follows its table, after all of us were away."""

    def cut_over(self) -> None:
        """Let the copy take the table's place. Raises Refused when a lock cannot be had: all is as before."""

    def swapped(self) -> bool:
        """Whether it has, and `finish` has not been called yet."""

    def finish(self) -> None:
        """Drop the old table after the swap. Safe to do twice."""

    def abort(self) -> None:
        """End the tool and take away what it made: triggers, tables. Safe to do twice, and for one that was never started."""

    def close(self) -> None:
        """End the tool; what it made stays."""


class Tool:
    """A program with its lines of output. It ends with us, whatever ends us."""

    def __init__(self, command: Sequence[str], folder: Path, secret: int, heard: Callable[[str], None]) -> None:
        """``secret``: what `in_memory` gave; it is the tool's from here on. Raises Unavailable."""
        self._heard = heard
        self.last: deque[str] = deque(maxlen=KEPT_LINES)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", LAUNCH, str(os.getpid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=environment(folder, os.environ),
                start_new_session=True,
                pass_fds=(secret,),
            )
        except OSError as error:
            raise Unavailable(f"{command[0]} cannot be run: {error.strerror or error}.") from error
        finally:
            os.close(secret)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def status(self) -> int | None:
        """Its exit code, below 0 for a signal; None while it runs. All it said was heard then."""
        found = self._process.poll()
        if found is not None:
            self._reader.join(GRACE)
        return found

    def end(self) -> None:
        """At once: what it leaves is taken away by us, whatever it would do itself."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._reader.join(GRACE)

    def _read(self) -> None:
        assert self._process.stdout is not None  # a pipe, as asked for
        with self._process.stdout as stream:
            for line in stream:
                text = line.decode("utf-8", "replace").rstrip()
                if text:
                    self.last.append(text)
                    self._heard(text)


def in_memory(text: str) -> int:
    """A file that is on no disk, so that no kill leaves a password there: its descriptor. See `path_of`."""
    made = os.memfd_create("crossfade")
    os.fchmod(made, 0o600)  # one that others may write would be passed over
    os.write(made, text.encode())
    return made


def path_of(secret: int) -> str:
    """How the tool that it is given to opens it."""
    return f"/proc/self/fd/{secret}"


def environment(folder: Path, own: Mapping[str, str]) -> dict[str, str]:
    """What a tool sees of ours: no secret, no options of its own from a user's home folder."""
    return {"PATH": own.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), "HOME": str(folder), "LC_ALL": "C.UTF-8"}
