"""The twin of `routers.haproxy`: an edge that is only remembered, under a clock that a test may set."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from crossfade.domain.drill import EdgeFault
from crossfade.domain.errors import CrossfadeError, Invalid, NotFound, Refused, StaleFence, Unavailable
from crossfade.domain.traffic import POOLS, Lease, Pool, Server, Slot, Split
from crossfade.domain.values import EnvKey, ReleaseNumber
from crossfade.ports import EdgeState, Route, ServerStatus


@dataclass
class _Environment:
    route: Route
    split: Split = field(default_factory=lambda: Split.wholly(Slot.BLUE))
    lease: Lease | None = None
    lapsed: bool = False
    servers: dict[Pool, dict[str, ServerStatus]] = field(default_factory=lambda: {pool: {} for pool in POOLS})
    releases: dict[Pool, str] = field(default_factory=dict)
    preview: tuple[Slot, str] | None = None
    held_until: float = 0.0
    faults: dict[Slot, tuple[EdgeFault, float]] = field(default_factory=dict)


class FakeRouter:
    """`ports.Router` in memory. ``fails_with`` is raised by every call until it is None.

    ``reachable`` says whether the edge can connect to a server; ``taken`` are ports of other processes;
    ``sessions`` are those in flight, by server name; ``splits`` remembers each that was set.
    """

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self.fails_with: CrossfadeError | None = None
        self.reachable: Callable[[Server], bool] = lambda server: True
        self.taken: set[int] = set()
        self.sessions: dict[str, int] = {}
        self.splits: list[tuple[EnvKey, Split, Lease | None]] = []
        self._now = now
        self._lock = threading.RLock()
        self._environments: dict[EnvKey, _Environment] = {}
        self._fences: dict[EnvKey, int] = {}

    def ensure(self, route: Route, fence: int) -> None:
        if not 1 <= route.port <= 65535:
            raise Invalid("edge port", route.port, "a whole number from 1 to 65535")
        with self._lock:
            self._pass(route.key, fence)
            known = self._environments.get(route.key)
            others = [e.route for k, e in self._environments.items() if k != route.key]
            holder = next((r for r in others if (r.port, r.bind) == (route.port, route.bind)), None)
            if holder or (route.port in self.taken and (known is None or known.route.port != route.port)):
                by = str(holder.key) if holder else "another process"
                raise Refused(f"Port {route.port} on {route.bind} is taken by {by}.", port=route.port)
            if known is None:
                self._environments[route.key] = _Environment(route)
            else:
                known.route = route
            self._accept(route.key, fence)

    def remove(self, key: EnvKey, fence: int) -> None:
        with self._lock:
            self._pass(key, fence)
            self._environments.pop(key, None)
            self._accept(key, fence)

    def add_servers(self, key: EnvKey, slot: Pool, servers: Sequence[Server], fence: int, release: str = "") -> None:
        if release:
            ReleaseNumber.parse(release)
        with self._lock:
            environment = self._turn(key, fence)
            here = environment.servers[slot]
            for server in servers:
                known = here.get(server.name)
                if known is None or known.server != server:
                    here[server.name] = ServerStatus(server, "draining", 0)
            missing = [server.name for server in servers if not self.reachable(server)]
            if missing:
                raise Unavailable(f"The edge does not reach {', '.join(missing)}.", servers=missing)
            if release:
                environment.releases[slot] = release
            for server in servers:
                here[server.name] = ServerStatus(server, "up", 0)

    def drain_servers(self, key: EnvKey, slot: Pool, names: Sequence[str], fence: int) -> None:
        with self._lock:
            here = self._turn(key, fence).servers[slot]
            for name in names:
                if name in here:
                    here[name] = replace(here[name], status="draining")

    def remove_servers(self, key: EnvKey, slot: Pool, names: Sequence[str], fence: int) -> None:
        with self._lock:
            environment = self._turn(key, fence)
            here = environment.servers[slot]
            for name in names:
                here.pop(name, None)
                self.sessions.pop(name, None)
            if not here:
                environment.releases.pop(slot, None)

    def set_split(self, key: EnvKey, split: Split, lease: Lease | None, fence: int) -> None:
        with self._lock:
            here = self._turn(key, fence)
            here.split, here.lease, here.lapsed = split, lease, False
            self.splits.append((key, split, lease))

    def renew(self, key: EnvKey, lease: Lease, fence: int) -> bool:
        with self._lock:
            here = self._turn(key, fence)
            if here.lapsed:
                return False
            if here.lease is None:
                raise Refused(f"{key} has no lease to renew: its weights stand for good.")
            here.lease = lease
            return True

    def open_preview(self, key: EnvKey, slot: Slot, secret: str, fence: int) -> None:
        if not 16 <= len(secret) <= 200 or not secret.replace("-", "").replace("_", "").isalnum():
            raise Invalid("preview secret", "(not shown)", "16 to 200 letters, digits, '-' and '_'")
        with self._lock:
            self._turn(key, fence).preview = (slot, secret)

    def close_preview(self, key: EnvKey, fence: int) -> None:
        with self._lock:
            self._turn(key, fence).preview = None

    def hold(self, key: EnvKey, seconds: float, fence: int) -> None:
        if not 0 <= seconds <= 30:
            raise Invalid("hold", seconds, "seconds from 0 to 30")
        with self._lock:
            self._turn(key, fence).held_until = self._now() + seconds

    def inject(self, key: EnvKey, slot: Slot, fault: EdgeFault | None, until: float, fence: int) -> None:
        if fault is not None and not (0 <= fault.delay <= 30 and fault.status in (0, 500, 503) and until < 1e11):
            raise Invalid("fault", fault, "a delay of at most 30 s, the status 500 or 503, and an end")
        with self._lock:
            here = self._turn(key, fence)
            here.faults.pop(slot, None)
            if fault is not None:
                here.faults[slot] = (fault, until)

    def read(self, key: EnvKey) -> EdgeState:
        with self._lock:
            if self.fails_with is not None:
                raise self.fails_with
            here = self._environment(key)
            self._lapse(here)
            servers = {
                slot: tuple(replace(s, sessions=self.sessions.get(name, 0)) for name, s in found.items())
                for slot, found in here.servers.items()
                if isinstance(slot, Slot) or found
            }
            faults = {slot: fault for slot, (fault, until) in here.faults.items() if until > self._now()}
            fence = self._fences.get(key, 0)
            return EdgeState(here.route, here.split, here.lease, here.lapsed, servers, fence, faults)

    def read_many(self, keys: Sequence[EnvKey]) -> Mapping[EnvKey, EdgeState]:
        with self._lock:
            if self.fails_with is not None:
                raise self.fails_with
            return {key: self.read(key) for key in keys if key in self._environments}

    def keys(self) -> tuple[EnvKey, ...]:
        with self._lock:
            return tuple(sorted(self._environments))

    def preview(self, key: EnvKey) -> tuple[Slot, str] | None:
        """The open preview: its slot and secret."""
        with self._lock:
            return self._environment(key).preview

    def release(self, key: EnvKey, pool: Pool) -> str:
        """What a request to the pool says of its release: empty when nobody said."""
        with self._lock:
            return self._environment(key).releases.get(pool, "")

    def _turn(self, key: EnvKey, fence: int) -> _Environment:
        self._pass(key, fence)
        here = self._environment(key)
        self._accept(key, fence)
        self._lapse(here)
        return here

    def _pass(self, key: EnvKey, fence: int) -> None:
        if fence < 0:
            raise Invalid("fence", fence, "a whole number from 0")
        if fence < self._fences.get(key, 0):
            raise StaleFence(str(key), fence, self._fences[key])
        if self.fails_with is not None:
            raise self.fails_with

    def _accept(self, key: EnvKey, fence: int) -> None:
        self._fences[key] = fence

    def _environment(self, key: EnvKey) -> _Environment:
        if key not in self._environments:
            raise NotFound(f"The edge has no environment {key}.", hint="Deploy it first.")
        return self._environments[key]

    def _lapse(self, here: _Environment) -> None:
        if here.lease is not None and here.lease.expires <= self._now():
            here.split, here.lease, here.lapsed = here.lease.fallback, None, True
