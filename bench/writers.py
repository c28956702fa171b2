"""``python -m bench.writers URL SCHEMA``: clients of one version of a schema, as a program of their own.

Each writes at its own rate until standard input ends, and is never helped: what fails is counted and not tried again. The
statements come as JSON on the first line of standard input, ``{"threads": 4, "rate": 100, "statements": ["…"]}``, where
``%(id)s`` is a random row and ``%(n)s`` a random number. Says ``ready`` once all are connected, and at the end one line of JSON.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self

import psycopg

from bench.processes import BenchFailed
from bench.report import quantile

ROWS: Final = 1_000_000
SAMPLES: Final = 3


@dataclass
class Found:
    """What one version's clients saw. Latencies in seconds; ``worst_of`` names the statement."""

    done: int = 0
    errors: list[str] = field(default_factory=list)
    failed: int = 0
    worst: float = 0.0
    worst_of: str = ""
    p99: float = 0.0


class Writers:
    """The program, from outside: a context manager; `end` gives what its clients have seen."""

    def __init__(
        self, url: str, schema: str, statements: Sequence[str], *, threads: int = 4, rate: float = 100, rows: int = ROWS
    ) -> None:
        self._asked = {"threads": threads, "rate": rate, "statements": list(statements), "rows": rows}
        self._command = [sys.executable, "-m", "bench.writers", url, schema]
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(self._asked) + "\n")
        self._process.stdin.flush()
        if self._process.stdout.readline().strip() != "ready":
            self.__exit__()
            raise BenchFailed("the writers do not start")
        return self

    def end(self) -> Found:
        """Raises BenchFailed when they have ended by themselves."""
        assert self._process is not None
        said, _ = self._process.communicate(timeout=60)
        if self._process.returncode:
            raise BenchFailed(f"the writers have ended with {self._process.returncode}")
        return Found(**json.loads(said))

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()


class _Client(threading.Thread):
    def __init__(self, url: str, schema: str, asked: dict[str, Any], over: threading.Event) -> None:
        super().__init__(daemon=True)
        options = f'-csearch_path="{schema}",public'
        self._connection = psycopg.connect(url, autocommit=True, options=options, application_name=schema)
        self._statements, self._pause, self._over = asked["statements"], 1 / asked["rate"], over
        self._rows = asked["rows"]
        self.took: list[float] = []
        self.found = Found()

    def run(self) -> None:
        due = time.monotonic() + random.random() * self._pause
        while not self._over.wait(max(0.0, due - time.monotonic())):
            # What could not be sent in time is not made up for: this is a client, no test of how much can be borne.
            due = max(due + self._pause, time.monotonic() - self._pause)
            statement = random.choice(self._statements)
            values = {"id": random.randint(1, self._rows), "n": random.randint(0, 99)}
            began = time.perf_counter()
            try:
                self._connection.execute(statement.encode(), values)
            except psycopg.Error as error:
                self.found.failed += 1
                if len(self.found.errors) < SAMPLES:
                    self.found.errors.append(f"{statement}: {str(error).splitlines()[0]}")
                if self._connection.broken:
                    return
            seconds = time.perf_counter() - began
            self.took.append(seconds)
            if seconds > self.found.worst:
                self.found.worst, self.found.worst_of = seconds, statement


def main() -> int:
    """The command."""
    url, schema = sys.argv[1:]
    asked, over = json.loads(sys.stdin.readline()), threading.Event()
    clients = [_Client(url, schema, asked, over) for _ in range(asked["threads"])]
    for client in clients:
        client.start()
    print("ready", flush=True)
    sys.stdin.read()
    over.set()
    for client in clients:
        client.join(30)
    took = [seconds for client in clients for seconds in client.took]
    worst = max(clients, key=lambda client: client.found.worst).found
    found = Found(
        len(took),
        [error for client in clients for error in client.found.errors][:SAMPLES],
        sum(client.found.failed for client in clients),
        worst.worst,
        worst.worst_of,
        quantile(took, 0.99) if took else 0.0,
    )
    print(json.dumps(found.__dict__))
    return 0


if __name__ == "__main__":
    sys.exit(main())
