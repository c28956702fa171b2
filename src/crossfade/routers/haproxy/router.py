"""The port `Router` on HAProxy: on disk first, then to the edge.

Weights, servers, previews, holds and leases change at run time, over the worker's socket; only a new, changed or
removed route reloads. Doing a call again after a crash brings the edge to what the disk says.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from crossfade.domain.drill import EdgeFault
from crossfade.domain.errors import CrossfadeError, Invalid, NotFound, Refused, StaleFence, StorageFailed, Unavailable
from crossfade.domain.traffic import POOLS, Lease, Pool, Server, Slot, Split
from crossfade.domain.values import EnvKey
from crossfade.ports import EdgeState, Route, ServerStatus
from crossfade.routers.haproxy import config
from crossfade.routers.haproxy.client import EdgeClient, Row, generation_of, has_backend, rows, tables
from crossfade.routers.haproxy.process import fault_of, files
from crossfade.routers.haproxy.state import (
    FILE,
    WEIGHTS,
    EnvironmentState,
    Member,
    State,
    encode,
    encode_weights,
    marks,
    name_of,
    read_state,
    settle,
    write_files,
)

LONGEST_HOLD: Final = 30.0
CANDIDATE: Final = "candidate.cfg"
UP_WITHIN: Final = 10.0
"""Seconds within which a server that is added must be seen as up."""
GONE_WITHIN: Final = 5.0
RELOADED_WITHIN: Final = 10.0
AT_ONCE: Final = 50
"""Environments that are asked for together: HAProxy takes 16 kB of commands."""


class HAProxyRouter:
    """`ports.Router` for an edge whose files are in ``folder`` and whose sockets are in ``run``.

    Thread-safe, and safe beside another process that drives the same folder. The edge itself is run by somebody
    else, with `edge_command`; while it starts, calls wait for it for up to three seconds. ``now`` gives epoch seconds.
    """

    def __init__(
        self, folder: Path, run: Path, options: config.Options | None = None, now: Callable[[], float] = time.time
    ) -> None:
        config.check_folders(folder, run)
        self._folder, self._run, self._options, self._now = folder, run, options or config.Options(), now
        self._client = EdgeClient(run)
        self._lock = threading.RLock()
        self._cached: tuple[tuple[tuple[int, int, int], ...], State] | None = None

    # --- environments

    def ensure(self, route: Route, fence: int) -> None:
        config.check_route(route)
        key = route.key
        with self._turn(key, fence) as state:
            known = state.environments.get(key)
            if known is not None and known.route == route:
                self._save(state)
                seen = self._client.ask("show info", "show stat")
                if generation_of(seen) != state.generation:
                    self._reload(state.generation)  # an earlier call ended between the disk and the edge
                elif not all(has_backend(seen, f"{name_of(key)}.{pool}") for pool in POOLS):
                    self._reconfigure(state, state, whatever=True)  # an earlier version of this program made it
                return
            self._refuse_taken(route, known.route if known else None, state)
            wanted = replace(known, route=route) if known else EnvironmentState(route)
            self._reconfigure(state, state.put(wanted))

    def remove(self, key: EnvKey, fence: int) -> None:
        with self._turn(key, fence) as state:
            if key in state.environments:
                self._reconfigure(state, state.without(key))
            elif generation_of(self._client.ask("show info")) != state.generation:
                self._reload(state.generation)

    def keys(self) -> tuple[EnvKey, ...]:
        with self._locked():
            return tuple(sorted(self._state().environments))

    def read(self, key: EnvKey) -> EdgeState:
        with self._locked():
            self._environment(self._state(), key)
        found = self.read_many((key,)).get(key)
        if found is None:
            raise self._not_there(key)
        return found

    def read_many(self, keys: Sequence[EnvKey]) -> Mapping[EnvKey, EdgeState]:
        with self._locked():
            state = self._state()
        known = [key for key in keys if key in state.environments]
        found: dict[EnvKey, EdgeState] = {}
        for start in range(0, len(known), AT_ONCE):
            part = known[start : start + AT_ONCE]
            answer = self._client.ask(*(f"crossfade state {name_of(key)}" for key in part), "show stat")
            says, _, stat = answer.partition("# pxname")
            servers = tables("# pxname" + stat)
            sessions = self._old_sessions()
            for key, line in zip(part, (line for line in says.splitlines() if line), strict=False):
                code, word = line.split()
                if code != "-" and has_backend(stat, f"{name_of(key)}.blue"):
                    seen = _seen(key, state, Split.from_code(int(code)), word, servers, sessions)
                    faults = state.environments[key].faults.items()
                    found[key] = replace(seen, faults={s: fault for s, (fault, until) in faults if until > self._now()})
        return found

    # --- servers

    def add_servers(self, key: EnvKey, slot: Pool, servers: Sequence[Server], fence: int, release: str = "") -> None:
        config.check_release(release)
        for server in servers:
            config.check_server(server)
        if len({server.name for server in servers}) != len(servers):
            raise Invalid("servers", [server.name for server in servers], "each name once")
        names = [server.name for server in servers]
        with self._turn(key, fence) as state:
            environment = self._environment(state, key)
            # Until the edge has reached it, a server is on disk as draining: a restart gives it no traffic either.
            kept = {m.server.name: m for m in environment.of(slot)}
            for server in servers:
                if server.name not in kept or kept[server.name].server != server:
                    kept[server.name] = Member(server, "draining")
            self._save(state.put(environment.with_members(slot, tuple(kept.values()))), structure=True)
            backend = f"{name_of(key)}.{slot}"
            ready = {name for name, member in kept.items() if member.standing == "ready"}
            self._place(key, backend, servers, ready)
        self._await(backend, names, _reached, UP_WITHIN)
        with self._turn(key, fence) as state:
            environment = self._environment(state, key)
            members = tuple(replace(m, standing="ready") if m.server.name in names else m for m in environment.of(slot))
            after = environment.with_members(slot, members).with_release(slot, release)
            self._save(state.put(after), structure=True)
            if release:
                self._order(f"crossfade release {backend} {release}")
            self._tell([c for name in names for c in _make_ready(f"{backend}/{name}")])
        self._await(backend, names, lambda row: row.status.startswith("UP"), UP_WITHIN)

    def drain_servers(self, key: EnvKey, slot: Pool, names: Sequence[str], fence: int) -> None:
        with self._turn(key, fence) as state:
            environment = self._environment(state, key)
            known = [m.server.name for m in environment.of(slot) if m.server.name in names]
            members = tuple(
                replace(m, standing="draining") if m.server.name in known else m for m in environment.of(slot)
            )
            self._save(state.put(environment.with_members(slot, members)), structure=True)
            backend = f"{name_of(key)}.{slot}"
            if known:
                self._tell([f"set server {backend}/{name} state drain" for name in known], absent_is_fine=True)

    def remove_servers(self, key: EnvKey, slot: Pool, names: Sequence[str], fence: int) -> None:
        with self._turn(key, fence) as state:
            environment = self._environment(state, key)
            members = tuple(m for m in environment.of(slot) if m.server.name not in names)
            after = environment.with_members(slot, members)
            self._save(state.put(after), structure=True)
            backend = f"{name_of(key)}.{slot}"
            if not members:
                self._order(f"crossfade release {backend} -")
        present = [name for name in rows(self._client.ask("show stat"), backend) if name in names]
        for name in present:
            self._delete(f"{backend}/{name}")

    # --- traffic

    def set_split(self, key: EnvKey, split: Split, lease: Lease | None, fence: int) -> None:
        if lease is not None:
            _check_lease(lease)
        with self._turn(key, fence) as state:
            environment = self._environment(state, key)
            after = state.put(replace(environment, split=split, lease=lease, lapsed=False))
            self._save_weights(self._state(), after)
            term = f"{lease.expires!r} {lease.fallback.code}" if lease else "- -"
            self._order(f"crossfade split {name_of(key)} {split.code} {term}")
            self._settle()

    def renew(self, key: EnvKey, lease: Lease, fence: int) -> bool:
        _check_lease(lease)
        with self._turn(key, fence) as state:
            environment = self._environment(state, key)
            name = name_of(key)
            # Asked before anything is written: were the disk to hold a longer lease than the edge, a restart of
            # the edge would bring a lapsed split back. The edge's own renew below still has the last word.
            word = self._client.ask(f"crossfade state {name}").split("\n", 1)[0].split()[-1]
            if word == "none":
                if environment.lapsed:
                    return False
                if environment.lease is None:
                    raise Refused(
                        f"{key} has no lease to renew: its weights stand for good.",
                        hint="Give a lease with the split.",
                    )
            if word == "leased":
                self._save_weights(self._state(), state.put(replace(environment, lease=lease)))
                renewal = f"crossfade renew {name} {lease.expires!r} {lease.fallback.code}"
                word = self._client.ask(renewal).strip()
                if word == "done":
                    self._tell_old(renewal)
                    self._settle()
                    return True
            self._save(state.put(environment.lapse()))
            return False

    def open_preview(self, key: EnvKey, slot: Slot, secret: str, fence: int) -> None:
        config.check_secret(secret)
        with self._turn(key, fence) as state:
            environment = self._environment(state, key)
            self._save(state.put(replace(environment, preview=(slot, secret))))
            name = name_of(key)
            self._order(f"crossfade preview {name} {config.preview_value(slot, secret)}")

    def close_preview(self, key: EnvKey, fence: int) -> None:
        with self._turn(key, fence) as state:
            environment = self._environment(state, key)
            self._save(state.put(replace(environment, preview=None)))
            self._order(f"crossfade unpreview {name_of(key)}")

    def hold(self, key: EnvKey, seconds: float, fence: int) -> None:
        if not 0 <= seconds <= LONGEST_HOLD:
            raise Invalid("hold", seconds, f"seconds from 0 to {LONGEST_HOLD:g}")
        with self._turn(key, fence) as state:
            environment = self._environment(state, key)
            until = self._now() + seconds if seconds else 0.0
            self._save(state.put(replace(environment, hold_until=until)))
            shown = f"{until:.3f}" if until else "0"
            self._order(f"crossfade hold {name_of(key)} {shown}")

    def inject(self, key: EnvKey, slot: Slot, fault: EdgeFault | None, until: float, fence: int) -> None:
        if fault is not None:
            config.check_fault(fault)
            _check_lease(Lease(until, Split.wholly(slot)))
        with self._turn(key, fence) as state:
            environment = self._environment(state, key)
            now = self._now()
            kept = {s: known for s, known in environment.faults.items() if s != slot and known[1] > now}
            if fault is not None:
                kept[slot] = (fault, until)
            self._save(state.put(replace(environment, faults=kept)))
            value = config.fault_value(fault, until) if fault is not None else "-"
            self._order(f"crossfade fault {name_of(key)}.{slot} {value}")

    # --- the state on disk

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone with the folder, among the threads of this process and among processes."""
        with self._lock:
            try:
                self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                descriptor = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
            except OSError as error:
                raise StorageFailed(
                    f"The edge's folder {self._folder} cannot be written: {error.strerror}.", hint="Check permissions."
                ) from error
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                yield
            finally:
                os.close(descriptor)

    @contextlib.contextmanager
    def _turn(self, key: EnvKey, fence: int) -> Iterator[State]:
        """The state, with this writer's fence in it. Raises StaleFence when a newer writer has been here."""
        if isinstance(fence, bool) or not isinstance(fence, int) or fence < 0:
            raise Invalid("fence", fence, "a whole number from 0")
        with self._locked():
            state = self._state()
            newest = state.fences.get(key, 0)
            if fence < newest:
                raise StaleFence(str(key), fence, newest)
            if fence > newest:
                state = replace(state, fences={**state.fences, key: fence})
            yield state

    def _state(self) -> State:
        mark = marks(self._folder)
        if self._cached is None or self._cached[0] != mark:
            self._cached = (mark, read_state(self._folder))
        return self._cached[1]

    def _save(self, state: State, *, structure: bool = False) -> None:
        """State and maps; with ``structure`` also the configuration, for what is not in a map."""
        if structure:
            write_files(self._folder, files(state, self._run, self._options))
        else:
            write_files(self._folder, {FILE: encode(state), **config.render_maps(state)})
        self._cached = (marks(self._folder), state)

    def _save_weights(self, before: State, after: State) -> None:
        """The least that a move of the weights needs on disk before it: one file, or two under a new fence.

        Its caller tells the edge next and then settles the folder.
        """
        files = {WEIGHTS: encode_weights(after)}
        if before.fences != after.fences:
            files = {FILE: encode(after), **files}
        write_files(self._folder, files, settled=False)
        self._cached = (marks(self._folder), after)

    def _settle(self) -> None:
        try:
            settle(self._folder)
        except OSError as error:
            raise StorageFailed(
                f"{self._folder} cannot be written: {error.strerror}.", hint="Check the disk."
            ) from error

    @staticmethod
    def _environment(state: State, key: EnvKey) -> EnvironmentState:
        environment = state.environments.get(key)
        if environment is None:
            raise NotFound(f"The edge has no environment {key}.", hint="Deploy it first.")
        return environment

    @staticmethod
    def _not_there(key: EnvKey) -> Unavailable:
        return Unavailable(f"The edge does not have {key} yet, though it should.", hint="Deploy again to repair it.")

    # --- the running edge

    def _order(self, command: str) -> None:
        """One command of edge.lua, which answers done."""
        answer = self._client.ask(command).strip()
        if answer != "done":
            raise Unavailable(f"The edge refuses a change: {answer[:200]}", hint="See `crossfade doctor`.")
        self._tell_old(command)

    def _tell(self, commands: Sequence[str], *, absent_is_fine: bool = False) -> None:
        """Commands of HAProxy's own, which say nothing when they succeed."""
        answer = self._client.ask(*commands).strip()
        faults = [line for line in answer.splitlines() if line.strip()]
        if absent_is_fine:
            faults = [line for line in faults if "No such server" not in line and "No such backend" not in line]
        if faults:
            raise Unavailable(f"The edge refuses a change: {faults[0][:200]}", hint="See `crossfade doctor`.")

    def _tell_old(self, command: str) -> None:
        """Have the workers that a reload replaced do the same.

        They serve one more request on each connection that was idle. Their servers cannot be changed any more; where
        those are gone, their requests come to the serving worker through `_elsewhere`.
        """
        with contextlib.suppress(Unavailable):  # the serving worker has it, and that is what was promised
            for pid in self._client.old_workers():
                self._client.ask_old(pid, command)

    def _cut_old(self, path: str) -> None:
        """End what replaced workers still carry to a server: WebSockets, feeds."""
        backend, _, server = path.rpartition("/")
        with contextlib.suppress(Unavailable):
            for pid in self._client.old_workers():
                for line in self._client.ask_old(pid, "show sess").splitlines():
                    if f" be={backend} srv={server} " in line:
                        self._client.ask_old(pid, f"shutdown session {line.partition(':')[0]}")

    def _old_sessions(self) -> dict[tuple[str, str], int]:
        """What workers that a reload left still have in flight, by backend and server."""
        counts: dict[tuple[str, str], int] = {}
        for pid in self._client.old_workers():
            for backend, servers in tables(self._client.ask_old(pid, "show stat")).items():
                for server, row in servers.items():
                    counts[backend, server] = counts.get((backend, server), 0) + row.sessions
        return counts

    def _place(self, key: EnvKey, backend: str, servers: Sequence[Server], ready: set[str]) -> None:
        """Make the edge know each server, checked but (unless it is ``ready``) without traffic."""
        stat = self._client.ask("show stat")
        if not has_backend(stat, backend):
            raise self._not_there(key)
        seen = rows(stat, backend)
        for server in servers:
            path, where = f"{backend}/{server.name}", config.endpoint(server.host, server.port)
            commands = []
            row = seen.get(server.name)
            if row is None:
                add = f"add server {path} {where} {config.SERVER_OPTIONS}"
                answer = self._client.ask(add)
                if "New server registered" not in answer:
                    raise Unavailable(f"The edge refuses server {server.name}: {answer.strip()[:200]}")
                commands = [f"enable health {path}", f"set server {path} state drain"]
            elif server.name not in ready:
                if row.host_port != where:
                    host, _, port = where.rpartition(":")
                    answer = self._client.ask(f"set server {path} addr {host.strip('[]')} port {port}")
                    if "changed" not in answer and "no need to change" not in answer:
                        raise Unavailable(f"The edge refuses server {server.name}: {answer.strip()[:200]}")
                commands = [f"set server {path} state drain", f"enable health {path}"]
            if commands:
                self._tell(commands)

    def _await(self, backend: str, names: Sequence[str], met: Callable[[Row], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while names:
            seen = rows(self._client.ask("show stat"), backend)
            missing = [name for name in names if name not in seen or not met(seen[name])]
            if not missing:
                return
            if time.monotonic() >= deadline:
                word = seen[missing[0]].check_text if missing[0] in seen else "the edge does not know it"
                raise Unavailable(
                    f"The edge does not reach {', '.join(missing)} after {seconds:g} s ({word or 'not checked yet'}).",
                    hint="See its logs: it must listen on $PORT.",
                    servers=missing,
                )
            time.sleep(0.02)

    def _delete(self, path: str) -> None:
        closing = [f"set server {path} state maint", f"shutdown sessions server {path}"]
        deadline = time.monotonic() + GONE_WITHIN
        while True:
            answer = self._client.ask(*closing, f"del server {path}")
            if "Server deleted" in answer or "No such server" in answer:
                break
            if time.monotonic() >= deadline:
                raise Unavailable(f"The edge does not let go of {path}: {answer.strip()[:200]}")
            time.sleep(0.02)
        self._cut_old(path)

    # --- reloads

    def _refuse_taken(self, route: Route, before: Route | None, state: State) -> None:
        for other in state.environments.values():
            if other.route.key != route.key and _overlap(other.route, route):
                raise Refused(
                    f"Port {route.port} on {route.bind} is taken by {other.route.key}.",
                    hint="Choose another edge port.",
                    port=route.port,
                    holder=str(other.route.key),
                )
        if before is None or before.port != route.port:
            _try_bind(route)

    def _reconfigure(self, before: State, after: State, *, whatever: bool = False) -> None:
        """Bring a structural change to disk and to the edge; where HAProxy refuses it, all stays as it was.

        Without a change nothing reloads, unless ``whatever``.
        """
        old, new = (files(state, self._run, self._options) for state in (before, after))
        if old[config.CONFIG] == new[config.CONFIG] and not whatever:
            write_files(self._folder, new)
            return
        after = replace(after, generation=before.generation + 1)
        new = files(after, self._run, self._options)
        write_files(self._folder, {config.LUA: new[config.LUA], CANDIDATE: new[config.CONFIG]})
        try:
            if fault := fault_of(self._folder / CANDIDATE):
                raise Refused(f"HAProxy refuses the configuration: {fault}", hint="The edge goes on as before.")
        finally:
            with contextlib.suppress(OSError):
                (self._folder / CANDIDATE).unlink(missing_ok=True)
        write_files(self._folder, new)
        try:
            self._reload(after.generation)
        except Refused:
            write_files(self._folder, old)
            raise

    def _reload(self, generation: int) -> None:
        """Have the master start a worker with the configuration on disk. Raises Refused with HAProxy's words."""
        answer = self._client.ask_master("reload", timeout=RELOADED_WITHIN)
        if "Success=1" not in answer:
            lines = [line.split(" : ", 1)[-1] for line in answer.splitlines() if "[ALERT]" in line]
            raise Refused(
                f"HAProxy could not take the new configuration: {' '.join(lines[:3]) or answer.strip()[:300]}",
                hint="The edge goes on as before.",
            )
        deadline = time.monotonic() + RELOADED_WITHIN
        while generation_of(self._client.ask("show info")) != generation:
            if time.monotonic() >= deadline:
                raise Unavailable("The edge did not come back with its new configuration.", hint="See its log.")
            time.sleep(0.01)


def _make_ready(path: str) -> tuple[str, str]:
    # A server that was read from the configuration as draining has weight 0.
    return f"set server {path} weight 1", f"set server {path} state ready"


def _reached(row: Row) -> bool:
    return row.check.removeprefix("* ") == "L4OK" and not row.status.startswith(("DOWN", "MAINT"))


def _status(member: Member, row: Row | None, old_sessions: int) -> ServerStatus:
    if row is None:
        return ServerStatus(member.server, "down", old_sessions, "not at the edge")
    if row.status.startswith(("DOWN", "MAINT", "NOLB")):
        status = "down"
    elif member.standing == "draining" or row.status.startswith("DRAIN"):
        status = "draining"
    else:
        status = "up"
    return ServerStatus(member.server, status, row.sessions + old_sessions, f"{row.check} {row.check_text}".strip())


def _check_lease(lease: Lease) -> None:
    if not math.isfinite(lease.expires) or not 0 <= lease.expires < 1e11:
        raise Invalid("lease", lease.expires, "an instant in epoch seconds")


def _overlap(one: Route, other: Route) -> bool:
    a, b = config.address(one.bind, "bind"), config.address(other.bind, "bind")
    return one.port == other.port and a.version == b.version and (a == b or a.is_unspecified or b.is_unspecified)


def _seen(
    key: EnvKey,
    state: State,
    split: Split,
    word: str,
    servers: Mapping[str, Mapping[str, Row]],
    sessions: Mapping[tuple[str, str], int],
) -> EdgeState:
    """What the disk and the edge say together. ``word`` is what the edge says of the lease."""
    environment = state.environments[key]
    backends: Mapping[Pool, str] = {pool: f"{name_of(key)}.{pool}" for pool in POOLS}
    return EdgeState(
        route=environment.route,
        split=split,
        lease=environment.lease if word == "leased" else None,
        lapsed=word == "lapsed" or (word == "none" and environment.lapsed),
        servers={
            pool: tuple(
                _status(
                    member,
                    servers.get(backend, {}).get(member.server.name),
                    sessions.get((backend, member.server.name), 0),
                )
                for member in environment.of(pool)
            )
            for pool, backend in backends.items()
            if isinstance(pool, Slot) or environment.of(pool)
        },
        fence=state.fences.get(key, 0),
    )


def _try_bind(route: Route) -> None:
    """Raises Refused when the port cannot be had now."""
    ip = config.address(route.bind, "bind")
    family = socket.AF_INET6 if ip.version == 6 else socket.AF_INET
    fault: CrossfadeError
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if ip.version == 6:
            trial.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            trial.bind((str(ip), route.port))
            return
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                what, hint = (
                    f"Port {route.port} on {route.bind} is taken by another process.",
                    "Stop it, or choose another edge port.",
                )
            elif error.errno == errno.EACCES:
                what, hint = f"Port {route.port} on {route.bind} needs more rights.", "Choose a port from 1024."
            else:
                what, hint = f"Port {route.port} on {route.bind} cannot be bound: {error.strerror}.", "Correct `bind`."
            fault = Refused(what, hint=hint, port=route.port)
    raise fault
