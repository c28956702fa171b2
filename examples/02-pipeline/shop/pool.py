from __future__ import annotations

import queue
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Exhausted(Exception):
    """Every connection is in use."""


class Pool:
    """Connections to the database, each used by one request at a time."""

    def __init__(self, connect: Callable[[], sqlite3.Connection], size: int, patience: float = 1.0) -> None:
        self._free: queue.Queue[sqlite3.Connection] = queue.Queue()
        self._patience = patience
        for _ in range(size):
            self._free.put(connect())

    @contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        """One of them. Raises Exhausted when none becomes free in time."""
        try:
            found = self._free.get(timeout=self._patience)
        except queue.Empty:
            raise Exhausted from None
        try:
            yield found
        finally:
            self._free.put(found)
