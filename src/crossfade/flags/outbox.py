"""What an application tells of its flags: who was shown what, what they did then, and how often each flag was asked.

Nothing here waits for anybody: what is told is put down in memory, and a thread sends it in batches. A batch is sent
again under the same id until the server has it. What there is no room for is dropped, and counted.
"""

from __future__ import annotations

import json
import logging
import random
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any, Final

from crossfade.flags.server import Server, Unreachable

MOST_KEPT: Final = 20_000
"""Exposures and tracking events that wait to be sent."""
MOST_SENT: Final = 1_000
"""Of them in one batch."""
LARGEST_BATCH: Final = 400_000
"""Characters of it, after which the rest waits for the next one."""
MOST_COUNTED: Final = 10_000
"""Pairs of flag and variant that are counted at once."""
PAUSE: Final = 1.0
"""Seconds between two looks at what there is to send."""
COUNT_EVERY: Final = 10.0
"""Seconds that usage is counted for before it is told."""
SAME_WITHIN: Final = 600.0
"""Seconds within which the same exposure of the same unit is told once."""
MOST_SEEN: Final = 50_000
"""Exposures that are remembered for that, twice."""
LONGEST_PAUSE: Final = 30.0
LONGEST_NAME: Final = 100
LONGEST_UNIT: Final = 4_000
LARGEST_VALUE: Final = 1e12
"""What the server takes. It refuses a batch whole, so what it would not take is dropped here."""

_log = logging.getLogger(__name__)


class Outbox:
    """Of one process. ``add`` methods may be called from any thread; `dropped` tells what was not kept."""

    def __init__(self, server: Server, *, release: str, slot: str, every: float = COUNT_EVERY) -> None:
        self._server = server
        self._release, self._slot, self._every = release, slot, every
        self._dropped = 0
        self._waiting: deque[tuple[str, dict[str, Any]]] = deque()
        self._counts: dict[tuple[str, str], Iterator[int]] = {}
        self._seen: set[tuple[str, str, str]] = set()
        self._seen_before: set[tuple[str, str, str]] = set()
        self._seen_since = 0.0
        self._batch: bytes | None = None
        self._in_batch = 0
        self._told_counts = time.monotonic()
        self._refused = False
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def dropped(self) -> int:
        """Exposures and events that there was no room for, or that the server would not have."""
        return self._dropped

    @property
    def waiting(self) -> int:
        """Exposures and events that are still to be sent, without those of a batch that is under way."""
        return len(self._waiting)

    def count(self, flag: str, variant: str) -> None:
        """One more evaluation."""
        counter = self._counts.get((flag, variant))
        if counter is None:
            if len(self._counts) >= MOST_COUNTED:
                return
            counter = self._counts.setdefault((flag, variant), count())
        next(counter)  # one step of the interpreter: no lock is needed for it

    def expose(self, flag: str, variant: str, unit: str, attributes: Mapping[str, Any] | None) -> None:
        """That a unit was shown a variant, once within `SAME_WITHIN`."""
        shown = (flag, variant, unit)
        if shown in self._seen or shown in self._seen_before:
            return
        now = time.time()
        if len(self._seen) >= MOST_SEEN or now - self._seen_since > SAME_WITHIN:
            self._seen_before, self._seen, self._seen_since = self._seen, set(), now
        self._seen.add(shown)
        told: dict[str, Any] = {"flag": flag, "variant": variant, "unit": unit}
        if attributes and (scalars := _scalars(attributes)):
            told["attributes"] = scalars
        self._keep("exposures", told, now)

    def track(self, name: str, unit: str, value: float | None) -> None:
        """That a unit did something."""
        told: dict[str, Any] = {"name": name, "unit": unit}
        if value is not None:
            told["value"] = value
        if not (0 < len(name) <= LONGEST_NAME and name.isprintable() and abs(value or 0.0) <= LARGEST_VALUE):
            self._dropped += 1
            return
        self._keep("tracks", told, time.time())

    def _keep(self, kind: str, told: dict[str, Any], now: float) -> None:
        if len(self._waiting) >= MOST_KEPT or not _plain(told["unit"]):
            self._dropped += 1
            return
        told["at"] = now
        if self._release:
            told["release"] = self._release
        if self._slot:
            told["slot"] = self._slot
        self._waiting.append((kind, told))

    def start(self) -> None:
        """Once, and once more after each fork or `stop`."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="crossfade-flag-events", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Send what there is, if the server has it at once, and end."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(2.0)
            self._thread = None

    def forget(self) -> None:
        """After a fork: what waits is the parent's to send, and so is what it has counted."""
        self._thread = None
        self._waiting, self._counts, self._batch = deque(), {}, None

    def _run(self) -> None:
        pause = PAUSE
        while True:
            stopped = self._stop.wait(pause)
            try:
                while self.send(everything=stopped):
                    pause = PAUSE
                pause = PAUSE
            except Unreachable as error:
                _log.debug("What was told of the flags is sent again: %s", error)
                pause = random.uniform(0.5, 1.0) * min(LONGEST_PAUSE, pause * 2)  # noqa: S311 - spreads many clients
            except Exception:  # noqa: BLE001 - it must not end what sends for good
                _log.exception("What is told of the flags cannot be sent.")
                pause = LONGEST_PAUSE
            if stopped:
                return

    def send(self, *, everything: bool = False) -> bool:
        """Send one batch; whether more is waiting. ``everything``: the counts too, though it is not time yet.

        Raises Unreachable, having kept the batch.
        """
        if self._batch is None:
            self._batch = self._next_batch(everything)
        if self._batch is None:
            return False
        try:
            self._server.send(self._batch)
        except Unreachable as error:
            if error.status not in (400, 413, 415, 422):
                raise
            # The server will never have it: to keep it would hold up all that comes after.
            self._dropped += self._in_batch
            if not self._refused:
                _log.warning("The server refused what was told of the flags: %s", error)
            self._refused = True
        self._batch = None
        return bool(self._waiting)

    def _next_batch(self, everything: bool) -> bytes | None:
        told: dict[str, list[dict[str, Any]]] = {"exposures": [], "tracks": [], "usage": []}
        size = 0
        while self._waiting and size < LARGEST_BATCH and len(told["exposures"]) + len(told["tracks"]) < MOST_SENT:
            kind, one = self._waiting.popleft()
            told[kind].append(one)
            size += len(json.dumps(one))
        self._in_batch = len(told["exposures"]) + len(told["tracks"])
        now = time.monotonic()
        if everything or now - self._told_counts >= self._every:
            self._told_counts = now
            counted, self._counts = self._counts, {}
            for (flag, variant), counter in counted.items():
                told["usage"].append({"flag": flag, "variant": variant, "n": next(counter), "release": self._release})
        if not any(told.values()):
            return None
        key = self._server.key
        batch = {"id": uuid.uuid4().hex, "service": key.service, "environment": key.environment, **told}
        return json.dumps(batch).encode()


def _scalars(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """What an experiment can be cut by."""
    return {
        name: value
        for name, value in attributes.items()
        if isinstance(value, bool | int) or (isinstance(value, str) and len(value) <= LONGEST_NAME)
    }


def _plain(unit: str) -> bool:
    """Half of a character, as a damaged name may hold one, is no text that could be sent."""
    try:
        return 0 < len(unit.encode()) <= LONGEST_UNIT
    except UnicodeEncodeError:
        return False
