"""The generator: sends each request when it is due, whatever became of those before it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import random
import select
import selectors
import signal
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final

from crossfade.domain.errors import Unavailable
from crossfade.load.plan import Address, LoadPlan, address
from crossfade.load.progress import Progress
from crossfade.load.records import FailedRequest, Records
from crossfade.load.streams import Watcher
from crossfade.load.wire import Connection, field, fields

MOST_WAITING: Final = 200_000
"""Arrivals that may wait for a connection. What comes beyond is not sent, and counts as a failure."""

BATCH: Final = 64
"""Arrivals that are sent before answers are looked at again, when the generator is behind."""

OUR_FAULT: Final = frozenset({"local"})
"""Kinds of failures that say something about this machine, not about what is measured."""


class _Flight:
    """One request on its way."""

    __slots__ = ("connection", "due", "expires", "kind", "resent", "task", "user", "variant")

    def __init__(self, due: float, expires: float, kind: int, variant: int, user: int) -> None:
        self.due = due
        self.expires = expires
        self.kind = kind
        self.variant = variant
        self.user = user
        self.connection: Connection | None = None
        self.task: asyncio.Task[None] | None = None
        self.resent = False


class Generator:
    """Runs a `LoadPlan`, or one shard of it, on the running event loop. Use it once.

    ``on_progress`` is called every ``every`` seconds with what happened since the last time.
    """

    def __init__(
        self,
        plan: LoadPlan,
        *,
        shard: int = 0,
        shards: int = 1,
        on_progress: Callable[[Progress], None] | None = None,
        every: float = 1.0,
    ) -> None:
        self.plan = plan
        self.records = Records()
        self._shard, self._shards = shard, shards
        self._on_progress, self._every = on_progress, every
        self._address = address(plan.url)
        self._requests = [_Prepared(plan, number, self._address) for number in range(len(plan.mix))]
        self._wheel = plan.wheel(shard)
        self._turn = 0
        self._draw = random.Random(plan.seed * 7919 + shard)
        self._jars: list[dict[bytes, bytes]] = [{} for _ in range(plan.users)]
        self._cookies: list[bytes] = [b""] * plan.users
        self._value_name = plan.record_header.lower().encode("ascii")
        share = -(-plan.max_in_flight // shards)
        self._most_open = max(1, share)
        self._open = 0
        self._idle: list[Connection] = []
        self._waiting: deque[_Flight] = deque()
        self._flights: dict[_Flight, None] = {}
        self._arrivals: Iterator[float] = iter(())
        self._next: float | None = None
        self._origin = 0.0
        self._sent = 0
        self._stop = asyncio.Event()
        self._watchers: list[Watcher] = []
        self._reported = _Mark()

    def stop(self) -> None:
        """Send nothing more; `run` then returns soon, with what there is."""
        self._stop.set()

    async def run(self, begin_at: float | None = None) -> Records:
        """Do it, from ``begin_at`` (epoch seconds) on or at once. Raises Unavailable when the host is not known."""
        self._loop = asyncio.get_running_loop()
        self._target = await self._resolve()
        self._tls = ssl.create_default_context() if self._address.tls else None
        self._watchers = self._make_watchers()
        now_epoch, now = time.time(), self._loop.time()
        self.records.began_at = now_epoch if begin_at is None else max(begin_at, now_epoch)
        self._origin = now + (self.records.began_at - now_epoch)
        self._reported.at = 0.0
        self._arrivals = self.plan.arrivals(self._shard, self._shards)
        self._next = next(self._arrivals, None)
        self._arrived_all = asyncio.Event()
        keeper = asyncio.create_task(self._keep())
        # It ends by an error only (of `on_progress`, most likely): without it nothing would ever time out.
        keeper.add_done_callback(lambda _: self._stop.set())
        watching = [asyncio.create_task(watcher.run()) for watcher in self._watchers]
        # A full collection takes long enough to show up as latency that the server did not have.
        gc.collect()
        gc.freeze()
        self._tick()
        try:
            await self._until_over()
            if keeper.done():
                keeper.result()
        finally:
            self._next = None
            self.records.elapsed = self._loop.time() - self._origin
            for watcher in self._watchers:
                watcher.stop()
            keeper.cancel()
            await asyncio.gather(keeper, *watching, return_exceptions=True)
            self._close()
            gc.unfreeze()
        self._report()
        self.records.streams = [watcher.facts for watcher in self._watchers]
        return self.records

    async def _until_over(self) -> None:
        """Until everything was sent and answered, or a stop and its grace."""
        stopped = asyncio.create_task(self._stop.wait())
        try:
            arrived = asyncio.create_task(self._arrived_all.wait())
            await asyncio.wait({stopped, arrived}, return_when=asyncio.FIRST_COMPLETED)
            arrived.cancel()
            end = self._origin + self.plan.duration
            if not self._stop.is_set():
                # The last phase goes on to its end: streams are watched for as long as was asked.
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), max(0.0, end - self._loop.time()))
            self.records.stopped = self._stop.is_set() and (self._next is not None or self._loop.time() < end)
            self._next = None
            patience = self.plan.stop_grace if self.records.stopped else self.plan.timeout + 1.0
            limit = self._loop.time() + patience
            while self._flights and self._loop.time() < limit:
                if self._stop.is_set():
                    limit = min(limit, self._loop.time() + self.plan.stop_grace)
                await asyncio.sleep(0.01)
            self.records.unfinished = len(self._flights)
        finally:
            stopped.cancel()

    async def _resolve(self) -> tuple[str, int]:
        """The host's address, looked up once: what is measured is not the resolver."""
        host, port = self._address.host, self._address.port
        try:
            found = await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise Unavailable(
                f"The host {host} cannot be found: {error.strerror or error}.", hint="Check the URL.", host=host
            ) from None
        resolved = found[0][4]
        return str(resolved[0]), int(resolved[1])

    def _make_watchers(self) -> list[Watcher]:
        watchers = []
        for streams in self.plan.streams:
            count = streams.count // self._shards + (self._shard < streams.count % self._shards)
            if count:
                watchers.append(
                    Watcher(
                        streams, count, self._address, self._target, self._tls, self.plan.headers, self.plan.timeout
                    )
                )
        return watchers

    # Arrivals

    def _tick(self) -> None:
        """Send what is due, and come back when the next is."""
        sent = 0
        while self._next is not None and not self._stop.is_set():
            due = self._origin + self._next
            late = self._loop.time() - due
            if late < 0:
                self._loop.call_at(due, self._tick)
                return
            if sent == BATCH:
                self._loop.call_soon(self._tick)
                return
            sent += 1
            self.records.lags.append(late)
            self._depart(due)
            self._next = next(self._arrivals, None)
        self._arrived_all.set()

    def _depart(self, due: float) -> None:
        kind = self._wheel[self._turn]
        self._turn = (self._turn + 1) % len(self._wheel)
        draw = self._draw
        variants = len(self._requests[kind].heads)
        variant = int(draw.random() * variants) if variants > 1 else 0
        user = int(draw.random() * len(self._jars)) if self._jars else -1
        flight = _Flight(due, due + self.plan.timeout, kind, variant, user)
        self._sent += 1
        if len(self._waiting) >= MOST_WAITING:
            self._record_failure(flight, "not-sent", f"{MOST_WAITING} requests were waiting for a connection", 0, b"")
            return
        self._flights[flight] = None
        self._start(flight)

    def _start(self, flight: _Flight, *, fresh: bool = False) -> None:
        while self._idle and not fresh:
            connection = self._idle.pop()
            if not connection.closing:
                self._send(connection, flight)
                return
            self._open -= 1
        if self._open < self._most_open:
            self._open += 1
            flight.task = self._loop.create_task(self._connect(flight))
        else:
            self._waiting.append(flight)

    def _send(self, connection: Connection, flight: _Flight) -> None:
        request = self._requests[flight.kind]
        cookies = self._cookies[flight.user] if flight.user >= 0 else b""
        connection.flight = flight
        flight.connection = connection
        connection.send(request.heads[flight.variant] + cookies + request.tail, head_only=request.head_only)

    async def _connect(self, flight: _Flight) -> None:
        host, port = self._target
        connection = Connection(self)
        try:
            await self._loop.create_connection(
                lambda: connection, host, port, ssl=self._tls, server_hostname=self._address.host if self._tls else None
            )
        except asyncio.CancelledError:
            connection.abort()
            self._gone(connection)  # it timed out, which is recorded already
            return
        except (OSError, ssl.SSLError) as error:
            self._gone(connection)
            self._fail(flight, _connect_kind(error), error.strerror or str(error))
            return
        flight.task = None
        if connection.closing:
            self._gone(connection)
            self._fail(flight, "closed", "the connection was closed as soon as it was open")
        else:
            self._send(connection, flight)

    # What `wire.Connection` tells its owner

    def answered(self, connection: Connection, status: int, head: bytes, reusable: bool) -> None:
        flight: _Flight = connection.flight
        connection.flight = None
        latency = self._loop.time() - flight.due
        value = b""
        if self._value_name or flight.user >= 0:
            lowered = head.lower()
            if self._value_name:
                value = field(lowered, head, self._value_name) or b""
            if flight.user >= 0 and b"\r\nset-cookie:" in lowered:
                self._keep_cookies(flight.user, fields(lowered, head, b"set-cookie"))
        del self._flights[flight]  # one that timed out has no connection any more
        if status >= self.plan.fail_from:
            self._record_failure(flight, f"status-{status}", "", status, value, latency)
        else:
            number = self.records.value_number(value)
            self.records.add(flight.due - self._origin, latency, status, 0, number, flight.kind)
        if reusable:
            self._next_for(connection)
        else:
            connection.abort()
            self._gone(connection)

    def broken(self, connection: Connection, kind: str, detail: str) -> None:
        flight: _Flight = connection.flight
        connection.flight = None
        self._gone(connection)
        stale = connection.used > 0 and not connection.touched and kind in ("closed", "reset")
        if stale and self.plan.resend and not flight.resent and self.plan.mix[flight.kind].idempotent:
            flight.resent = True
            flight.connection = None
            self.records.resent += 1
            if self._idle and self._open >= self._most_open:
                self._idle.pop(0).abort()
                self._open -= 1
            self._start(flight, fresh=True)  # another kept connection may be as stale as this one
            return
        self._fail(flight, kind, detail + (" (on a kept connection)" if stale else ""))

    def left(self, connection: Connection) -> None:
        with contextlib.suppress(ValueError):
            self._idle.remove(connection)
            self._gone(connection)

    def _next_for(self, connection: Connection) -> None:
        """Give the connection to whoever waits longest, or keep it."""
        while self._waiting:
            flight = self._waiting.popleft()
            if flight in self._flights:
                self._send(connection, flight)
                return
        connection.idle_since = self._loop.time()
        self._idle.append(connection)

    def _gone(self, connection: Connection) -> None:
        """A place for a connection is free."""
        self._open -= 1
        while self._waiting:
            flight = self._waiting.popleft()
            if flight in self._flights:
                self._start(flight)
                return

    # Failures, time limits, cookies

    def _fail(self, flight: _Flight, kind: str, detail: str) -> None:
        del self._flights[flight]
        self._record_failure(flight, kind, detail, 0, b"")

    def _record_failure(
        self, flight: _Flight, kind: str, detail: str, status: int, value: bytes, latency: float | None = None
    ) -> None:
        if latency is None:
            latency = max(0.0, self._loop.time() - flight.due)
        number = self.records.value_number(value)
        self.records.add(
            flight.due - self._origin, latency, status, self.records.kind_number(kind), number, flight.kind
        )
        self.records.note(
            FailedRequest(
                at=round(time.time(), 6),
                kind=kind,
                request=self.plan.mix[flight.kind].name,
                path=self._requests[flight.kind].paths[flight.variant],
                status=status,
                value=self.records.values[number],
                latency=round(latency, 6),
                detail=detail[:300],
            )
        )

    async def _keep(self) -> None:
        """Time limits, idle connections, progress."""
        while True:
            await asyncio.sleep(0.02)
            now = self._loop.time()
            # The oldest are in front: insertion follows the intended start.
            while self._flights and (flight := next(iter(self._flights))).expires <= now:
                self._fail(flight, "timeout", f"no whole answer within {self.plan.timeout:g} s")
                if flight.connection is not None:
                    connection = flight.connection
                    connection.abort()
                    self._gone(connection)
                elif flight.task is not None:
                    flight.task.cancel()
            # The longest idle is in front: the pool is a stack.
            while self._idle and now - self._idle[0].idle_since > self.plan.keep_idle:
                connection = self._idle.pop(0)
                connection.abort()
                self._gone(connection)
            if self._on_progress and now - self._origin - self._reported.at >= self._every:
                self._report()

    def _keep_cookies(self, user: int, lines: list[bytes]) -> None:
        jar = self._jars[user]
        for line in lines:
            pair, _, attributes = line.partition(b";")
            name, equals, value = pair.strip().partition(b"=")
            if not equals or not name:
                continue
            attributes = attributes.lower().replace(b" ", b"")
            if b"max-age=0" in attributes or b"max-age=-" in attributes or b"01jan1970" in attributes:
                jar.pop(name, None)
            elif name in jar or len(jar) < 50:
                jar[name] = value
        self._cookies[user] = (
            b"Cookie: " + b"; ".join(name + b"=" + value for name, value in jar.items()) + b"\r\n" if jar else b""
        )

    def _report(self) -> None:
        """Tell what happened since the last time."""
        if self._on_progress is None:
            return
        elapsed = self._loop.time() - self._origin
        if elapsed <= 0:
            return
        mark = self._reported
        records = self.records
        progress = Progress.of(
            records,
            (mark.records, len(records)),
            (mark.lags, len(records.lags)),
            elapsed=elapsed,
            seconds=elapsed - mark.at,
            sent=self._sent,
            in_flight=len(self._flights),
            streams=[watcher.facts for watcher in self._watchers],
        )
        mark.at, mark.records, mark.lags = elapsed, len(records), len(records.lags)
        self._on_progress(progress)

    def _close(self) -> None:
        for flight in list(self._flights):
            if flight.task is not None:
                flight.task.cancel()
            if flight.connection is not None:
                flight.connection.abort()
        for connection in self._idle:
            connection.abort()
        self._idle.clear()
        self._flights.clear()
        self._waiting.clear()


class _Mark:
    """How far progress was told."""

    def __init__(self) -> None:
        self.at = 0.0
        self.records = 0
        self.lags = 0


class _Prepared:
    """A kind of request as bytes: a head for each path, to which cookies are added, and the tail."""

    def __init__(self, plan: LoadPlan, number: int, target: Address) -> None:
        request = plan.mix[number]
        body = request.body.encode()
        given = {name.lower() for name, _ in (*plan.headers, *request.headers)}
        lines = [f"{name}: {value}\r\n" for name, value in (*plan.headers, *request.headers)]
        if "host" not in given:
            lines.insert(0, f"Host: {target.authority}\r\n")
        if "user-agent" not in given:
            lines.append("User-Agent: crossfade-load\r\n")
        if body or request.method in ("POST", "PUT", "PATCH"):
            lines.append(f"Content-Length: {len(body)}\r\n")
        self.paths = [target.prefix + path for path in request.paths]
        rest = "".join(lines)
        self.heads = [f"{request.method} {path} HTTP/1.1\r\n{rest}".encode("ascii") for path in self.paths]
        self.tail = b"\r\n" + body
        self.head_only = request.method == "HEAD"


class _PreciseSelector(selectors.EpollSelector):
    """Wakes up when it should: epoll alone rounds a wait up to the next whole millisecond, which would be lag."""

    def select(self, timeout: float | None = None) -> Any:
        if timeout is not None and 0 < timeout < 1 and self.fileno() < 1024:  # the most that select can take
            select.select([self.fileno()], (), (), timeout)
            timeout = 0
        return super().select(timeout)


def new_event_loop() -> asyncio.AbstractEventLoop:
    """A loop whose timers are as precise as the machine's."""
    return asyncio.SelectorEventLoop(_PreciseSelector())


def run(
    plan: LoadPlan,
    *,
    shard: int = 0,
    shards: int = 1,
    begin_at: float | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    every: float = 1.0,
    stop_on_signals: bool = False,
) -> Records:
    """Run a plan in this thread on a loop of its own. ``stop_on_signals``: SIGTERM and SIGINT end it early.

    Raises Unavailable when the host is not known.
    """

    async def main() -> Records:
        generator = Generator(plan, shard=shard, shards=shards, on_progress=on_progress, every=every)
        if stop_on_signals:
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, generator.stop)
        return await generator.run(begin_at)

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(main())


def _connect_kind(error: BaseException) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    if isinstance(error, ConnectionError):
        return "reset"
    if isinstance(error, ssl.SSLError):
        return "tls"
    if isinstance(error, OSError) and error.errno in _LOCAL:
        return "local"
    return "unreachable"


_LOCAL: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM})
"""No file descriptor, no free port, no memory: a request was not sent for our own lack."""
