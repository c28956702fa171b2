"""The twin of `runtimes.process`: replicas that are only remembered, and that end when they are told to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from crossfade.domain.errors import CrossfadeError, Invalid, Refused, StaleFence
from crossfade.domain.values import EnvKey
from crossfade.ports import Replica, ReplicaSpec


class FakeRuntime:
    """`ports.Runtime` in memory. ``fails_with`` is raised by the next calls that start or stop, until it is None.

    ``exits`` says of a replica that is started how it ends at once (``exited with status 3``), empty if it stays up.
    """

    def __init__(self, first_port: int = 20_000) -> None:
        self.fails_with: CrossfadeError | None = None
        self.exits: Callable[[ReplicaSpec], str] = lambda spec: ""
        self.specs: dict[str, ReplicaSpec] = {}
        self._lock = threading.RLock()
        self._next = first_port
        self._pid = 1000
        self._found: dict[EnvKey, dict[str, Replica]] = {}
        self._logs: dict[str, list[str]] = {}
        self._fences: dict[EnvKey, int] = {}

    def start(self, key: EnvKey, specs: Sequence[ReplicaSpec], fence: int) -> tuple[Replica, ...]:
        with self._lock:
            self._pass(key, fence)
            here = self._found.setdefault(key, {})
            for spec in specs:
                if not spec.name.startswith(f"{key.service}.{key.environment}."):
                    raise Invalid("replica name", spec.name, f"{key.service}.{key.environment}. and then letters")
                if spec.name in here and here[spec.name].pid and self.specs[spec.name] != spec:
                    raise Refused(f"Replica {spec.name} runs already, with another command, folder or environment.")
            for spec in specs:
                if spec.name in here and self.specs[spec.name] == spec:
                    continue
                self.specs[spec.name] = spec
                ended = self.exits(spec)
                self._next += 1
                self._pid += 1
                state, pid = ("exited", 0) if ended else ("running", self._pid)
                here[spec.name] = Replica(spec.name, spec.host, self._next, state, pid, 1 if ended else 0, ended)
            return tuple(here[spec.name] for spec in specs)

    def stop(self, key: EnvKey, names: Sequence[str], fence: int) -> None:
        with self._lock:
            self._pass(key, fence)
            for name in names:
                if self._found.get(key, {}).pop(name, None) is not None:
                    del self.specs[name]

    def replicas(self, key: EnvKey) -> tuple[Replica, ...]:
        with self._lock:
            return tuple(replica for _, replica in sorted(self._found.get(key, {}).items()))

    def replicas_of(self, keys: Sequence[EnvKey]) -> Mapping[EnvKey, tuple[Replica, ...]]:
        return {key: self.replicas(key) for key in keys}

    def logs(self, name: str, lines: int = 50) -> tuple[str, ...]:
        with self._lock:
            return tuple(self._logs.get(name, [])[-lines:]) if lines > 0 else ()

    # -- what the world does

    def end(self, name: str, how: str = "was killed by SIGKILL", *, comes_back: bool = True) -> None:
        """A replica ends unasked; it is restarted, or keeps ending."""
        with self._lock:
            for here in self._found.values():
                if name in here:
                    self._pid += 1
                    state, pid = ("starting", self._pid) if comes_back else ("exited", 0)
                    restarts = here[name].restarts + 1
                    here[name] = replace(here[name], state=state, pid=pid, restarts=restarts, detail=how)

    def say(self, name: str, *lines: str) -> None:
        """A replica writes to its log."""
        with self._lock:
            self._logs.setdefault(name, []).extend(lines)

    def _pass(self, key: EnvKey, fence: int) -> None:
        if self.fails_with is not None:
            raise self.fails_with
        newest = self._fences.get(key, 0)
        if fence < newest:
            raise StaleFence(str(key), fence, newest)
        self._fences[key] = fence
