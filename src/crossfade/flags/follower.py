"""Keeps a set of flags as new as its source has it, in a thread of its own."""

from __future__ import annotations

import logging
import random
import threading
import time
from pathlib import Path
from typing import Final, Protocol

from crossfade.domain.errors import CrossfadeError
from crossfade.flags.holding import Holding, decode, read_answer, read_file, write_file
from crossfade.flags.server import Server, Unreachable

FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 5.0
"""Seconds between two tries while the source is away: twice as many each time."""
CONFIRM_EVERY: Final = 10.0
"""Seconds after which a sign of life is not enough: the set is asked for by its tag, for what the stream missed, and for

whether the server itself still knows what is the newest.
"""

_log = logging.getLogger(__name__)


class Listener(Protocol):
    """Who holds what a follower finds. Called from the follower's thread."""

    def found(self, holding: Holding) -> None:
        """A newer set."""

    def confirmed(self, known_at: float) -> None:
        """What is held was the newest at a time, in epoch seconds."""

    def failed(self, why: str) -> None:
        """It is away, or what it gave is no set; called again with each try."""


class Follower:
    """Follows a server by its stream, by polling where it has none, or a file by its time of change."""

    def __init__(self, source: Server | Path, listener: Listener, *, poll: float, cache: Path | None) -> None:
        self._source = source
        self._listener = listener
        self._poll = poll
        self._cache = cache if isinstance(source, Server) else None
        self._stop = threading.Event()
        self._etag = ""
        self._behind = 0.0
        self._asked = 0.0
        self._well = False
        self._written: tuple[int, int, int] | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Once, and once more after each fork or `stop`."""
        self._stop = threading.Event()
        self._asked = 0.0
        self._thread = threading.Thread(target=self._run, name="crossfade-flags", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Returns when it has ended, within a second or so."""
        self._stop.set()
        if isinstance(self._source, Server):
            self._source.break_off()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(2.0)

    def forget(self) -> None:
        """After a fork: the thread was the parent's, and what it held is left to it."""
        self._thread = None
        if isinstance(self._source, Server):
            self._source.forget()

    def _run(self) -> None:
        pause = FIRST_PAUSE
        while not self._stop.is_set():
            try:
                if isinstance(self._source, Server):
                    self._follow(self._source)
                else:
                    self._look(self._source)
                    self._stop.wait(self._poll)
            except (Unreachable, CrossfadeError, OSError) as error:
                if self._stop.is_set():
                    return
                self._asked = 0.0  # a stream that is open again confirms nothing by itself
                if self._well:
                    pause, self._well = FIRST_PAUSE, False
                self._listener.failed(str(error) or type(error).__name__)
                self._stop.wait(random.uniform(pause / 2, pause))  # noqa: S311 - so that many clients do not come at once
                pause = min(pause * 2, LONGEST_PAUSE)
            except Exception:  # noqa: BLE001 - it must not end what follows the flags for good
                # Whatever it is, the application goes on with what it holds, and the next try is soon.
                _log.exception("The flags cannot be followed.")
                self._listener.failed("an error of the provider itself, see the log")
                self._stop.wait(LONGEST_PAUSE)

    def _follow(self, server: Server) -> None:
        """Until the stream ends, which is an error. Where there is no stream: one look and a pause."""
        try:
            for changed in server.watch():
                if self._stop.is_set():
                    return
                # Only once the stream is open: else what changes in between would be told to nobody.
                if changed or not self._asked or time.monotonic() - self._asked > CONFIRM_EVERY:
                    self._fetch(server)
                else:
                    self._confirm(time.time() - self._behind)
        except Unreachable as error:
            if error.status not in (404, 405, 429, 501):
                raise
            self._fetch(server)
            self._stop.wait(self._poll)
            self._asked = 0.0

    def _fetch(self, server: Server) -> None:
        answer = server.fetch(self._etag)
        self._asked, self._behind = time.monotonic(), answer.age
        known_at = time.time() - answer.age
        if answer.body is None:
            self._confirm(known_at)
            return
        holding = read_answer(decode(answer.body), known_at)
        self._etag = answer.etag
        self._listener.found(holding)
        self._confirm(known_at)
        if self._cache is not None:
            try:
                write_file(self._cache, holding)
            except OSError as error:
                _log.warning("The flags cannot be kept in %s: %s", self._cache, error)

    def _look(self, path: Path) -> None:
        facts = path.stat()
        written = (facts.st_mtime_ns, facts.st_size, facts.st_ino)
        if written != self._written:
            holding = read_file(path)
            self._written = written
            self._listener.found(holding)
        self._confirm(time.time())

    def _confirm(self, known_at: float) -> None:
        self._well = True
        self._listener.confirmed(known_at)
