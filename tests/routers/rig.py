"""A real edge with real replicas, kept alive as the supervisor would, and strict clients for it."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from crossfade.domain.traffic import CONTROL, Pool, Server, Slot
from crossfade.domain.values import EnvKey
from crossfade.ports import Route
from crossfade.routers.haproxy import HAProxyRouter, Options, edge_command, prepare
from crossfade.signals.edge import EdgeSignals
from tests.free_port import free_port

REPLICA = Path(__file__).with_name("replica.py")
_numbers = itertools.count(1)


def until(holds: Callable[[], Any], seconds: float = 30.0) -> Any:
    """The first true value of ``holds``; fails when there is none in time."""
    end = time.monotonic() + seconds
    while not (value := holds()):
        assert time.monotonic() < end, "it never came to hold"
        time.sleep(0.02)
    return value


class Rig:
    """One edge, its router, and the replicas behind it."""

    def __init__(self, sample: int = 1) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="cf-", dir="/tmp"))
        self.folder, self.run = self.home / "edge", self.home / "run"
        self.options = Options(sample=sample)
        self.router = HAProxyRouter(self.folder, self.run, self.options)
        self.replicas: dict[str, subprocess.Popen[bytes]] = {}
        self.edge: subprocess.Popen[bytes] | None = None
        self._log = (self.home / "edge.log").open("wb")
        self._wanted = False
        self._keeper = threading.Thread(target=self._keep, daemon=True)

    def __enter__(self) -> Rig:
        prepare(self.folder, self.run, self.options)
        self._wanted = True
        self._keeper.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._wanted = False
        self._keeper.join(timeout=30)
        self._end_edge()
        for name in list(self.replicas):
            self.kill(name)
        self._log.close()
        shutil.rmtree(self.home, ignore_errors=True)

    def _keep(self) -> None:
        """What the supervisor does: start the edge again whenever it ends."""
        while self._wanted:
            self.edge = subprocess.Popen(edge_command(self.folder, self.run), stdout=self._log, stderr=self._log)
            while self._wanted and self.edge.poll() is None:
                time.sleep(0.05)
            if self._wanted:
                time.sleep(0.1)

    def _end_edge(self) -> None:
        if self.edge is None:
            return
        family = [self.edge.pid, *self.workers()]
        self.edge.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.edge.wait(5)
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.edge.wait()

    def workers(self) -> list[int]:
        assert self.edge is not None
        try:
            return [child.pid for child in psutil.Process(self.edge.pid).children()]
        except psutil.NoSuchProcess:
            return []

    def key(self) -> EnvKey:
        """An environment that no other test uses."""
        return EnvKey(f"shop-{next(_numbers)}", "production")

    def environment(self, *, blue: int = 1, green: int = 1, control: int = 0, **route: Any) -> Environment:
        """A routed environment with so many replicas in each pool."""
        made = Environment(self, Route(self.key(), "127.0.0.1", free_port(), **route))
        self.router.ensure(made.route, 1)
        pools: tuple[tuple[Pool, int], ...] = ((Slot.BLUE, blue), (Slot.GREEN, green), (CONTROL, control))
        for pool, count in pools:
            if count:
                made.fill(pool, count)
        return made

    def start(self, name: str, port: int | None = None) -> Server:
        port = port or free_port()
        self.replicas[name] = subprocess.Popen([sys.executable, "-S", str(REPLICA), name, str(port)])
        until(lambda: _listens(port))
        return Server(name, "127.0.0.1", port)

    def kill(self, name: str) -> None:
        replica = self.replicas.pop(name)
        replica.kill()
        replica.wait()

    def signals(self) -> EdgeSignals:
        return EdgeSignals(self.folder, self.run, every=0.2)


@dataclass
class Answer:
    status: int
    name: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    seen: dict[str, str] = field(default_factory=dict)
    cookie: str = ""
    error: str = ""


@dataclass
class Environment:
    """One environment of a rig. ``members`` are its servers by pool."""

    rig: Rig
    route: Route
    members: dict[Pool, list[Server]] = field(default_factory=dict)

    @property
    def key(self) -> EnvKey:
        return self.route.key

    def fill(self, pool: Pool, count: int = 1, release: str = "") -> list[Server]:
        names = [f"{self.key.service}.production.{pool}-{next(_numbers)}" for _ in range(count)]
        servers = [self.rig.start(name) for name in names]
        self.rig.router.add_servers(self.key, pool, servers, 1, release)
        self.members.setdefault(pool, []).extend(servers)
        return servers

    def empty(self, pool: Pool) -> None:
        """Take the pool's servers out and end them."""
        servers = self.members.pop(pool)
        self.rig.router.remove_servers(self.key, pool, [server.name for server in servers], 1)
        for server in servers:
            self.rig.kill(server.name)

    def get(self, path: str = "/", method: str = "GET", **headers: str) -> Answer:
        """One request on a connection of its own; header names with '_' for '-'."""
        connection = http.client.HTTPConnection("127.0.0.1", self.route.port, timeout=40)
        try:
            sent = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, headers=sent)
            response = connection.getresponse()
            text = response.read()
            got = {name.lower(): value for name, value in response.getheaders()}
            seen = json.loads(text) if text.startswith(b'{"name"') else {}
            return Answer(
                response.status, seen.get("name", ""), got, seen.get("headers", {}), got.get("set-cookie", "")
            )
        except (OSError, http.client.HTTPException) as error:
            return Answer(0, error=f"{type(error).__name__}: {error}")
        finally:
            connection.close()

    def slot(self, **headers: str) -> str:
        """The pool that serves a request."""
        return self.get(**headers).seen["x-crossfade-slot"]

    @contextlib.contextmanager
    def load(self, rate: float = 300.0, path: str = "/", method: str = "GET") -> Iterator[Load]:
        """Requests on schedule until the block ends, at least some of them before it begins."""
        load = Load(self.route.port, rate, path, method)
        load.start()
        try:
            until(lambda: load.count > 20)
            yield load
            load.more(20)
        finally:
            load.stop()


class Load:
    """An open loop over keep-alive connections. Nothing is tried again: whatever breaks is a failure."""

    def __init__(self, port: int, rate: float, path: str, method: str) -> None:
        self.statuses: Counter[int] = Counter()
        self.slots: Counter[str] = Counter()
        self.broken: list[str] = []
        self.longest = 0.0
        self.count = 0
        self._port, self._rate = port, rate
        self._request = f"{method} {path} HTTP/1.1\r\nHost: shop\r\nContent-Length: 0\r\n\r\n".encode()
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._drive()), daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(timeout=60)
        assert not self._thread.is_alive()

    def more(self, count: int) -> None:
        """Wait until so many more requests have ended."""
        enough = self.count + count
        until(lambda: self.count >= enough)

    def nothing_failed(self) -> bool:
        assert self.broken == [], self.broken[:5]
        assert set(self.statuses) == {200}, self.statuses
        return True

    async def _drive(self) -> None:
        tasks: set[asyncio.Task[None]] = set()
        due = time.monotonic()
        while not self._stop.is_set():
            due += 1 / self._rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            task = asyncio.create_task(self._one())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)
        for _, writer in self._idle:
            writer.close()

    async def _one(self) -> None:
        began = time.monotonic()
        try:
            reader, writer = await self._connection()
            writer.write(self._request)
            head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 40)).decode().lower().split("\r\n")
            headers = dict(line.split(": ", 1) for line in head[1:] if ": " in line)
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            self.statuses[int(head[0].split(" ")[1])] += 1
            if body.startswith(b'{"name"'):
                self.slots[json.loads(body)["headers"].get("x-crossfade-slot", "")] += 1
            if headers.get("connection") == "close":
                writer.close()
            else:
                self._idle.append((reader, writer))
        except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError, IndexError) as error:
            self.broken.append(f"{type(error).__name__}: {error}")
        finally:
            self.longest = max(self.longest, time.monotonic() - began)
            self.count += 1

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
            writer.close()
        return await asyncio.open_connection("127.0.0.1", self._port)


class WebSocket:
    """A bare upgraded connection; the replica answers with its name before what was sent."""

    def __init__(self, port: int, path: str = "/socket") -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self._socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: shop\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n".encode()
            + b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self._socket.recv(1)
        assert b" 101 " in head, head

    def say(self, text: str) -> str:
        self._socket.sendall(text.encode())
        return self._socket.recv(1000).decode()

    def ended(self) -> bool:
        try:
            return self._socket.recv(1000) == b""
        except ConnectionError:
            return True

    def close(self) -> None:
        self._socket.close()


def _listens(port: int) -> bool:
    with socket.socket() as trial:
        return trial.connect_ex(("127.0.0.1", port)) == 0
