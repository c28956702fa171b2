"""Ports for what tests start, that nothing else takes between the choice and the start.

Port 0 would give one of those that the kernel also hands to outgoing connections: under load, some connection has it
before the program that it was chosen for. And replicas get theirs, at random, from 20,000 up (runtimes/process.py).
"""

from __future__ import annotations

import itertools
import os
import random
import socket
from collections.abc import Iterator
from typing import Final

FIRST: Final = 10_000
EACH: Final = 1_200
"""How many ports each of up to eight xdist workers has for its own."""

_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 8
_mine = range(FIRST + _worker * EACH, FIRST + (_worker + 1) * EACH)
# Not always from the first: two sessions on one machine would meet there.
_start = random.randrange(EACH)
_ports: Iterator[int] = itertools.cycle([*_mine[_start:], *_mine[:_start]])


def free_port() -> int:
    """A port of 127.0.0.1 that nobody has now, and that this session has not been given lately."""
    for port in itertools.islice(_ports, EACH):
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError(f"no free port from {_mine.start} to {_mine.stop - 1}")
