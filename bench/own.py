"""Our edge, as an installation runs it: the generated configuration, the router that drives it, the samples' reader."""

from __future__ import annotations

from typing import Final, Self

from bench.processes import Processes, free_ports
from crossfade.domain.traffic import Server, Slot, Split
from crossfade.domain.values import EnvKey
from crossfade.ports import Route
from crossfade.routers.haproxy import HAProxyRouter, edge_command, prepare
from crossfade.signals.edge import EdgeSignals

FENCE: Final = 1


class OwnEdge:
    """An edge with default options. A context manager, for the reader of its samples runs in a thread of the bench."""

    def __init__(self, processes: Processes, cores: frozenset[int] = frozenset()) -> None:
        folder, run = processes.folder / "edge", processes.folder / "run"
        prepare(folder, run)
        self.group = processes.start(edge_command(folder, run), cores=cores, log="edge").pid
        self.router = HAProxyRouter(folder, run)
        self._signals = EdgeSignals(folder, run)

    def __enter__(self) -> Self:
        self._signals.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._signals.stop()

    def environment(self, service: str, backends: dict[Slot, int], split: Split) -> tuple[EnvKey, int]:
        """A route with one server in each slot and default stickiness; its key and port."""
        key = EnvKey(service, "production")
        (port,) = free_ports(1)
        self.router.ensure(Route(key, "127.0.0.1", port), FENCE)
        for slot, backend in backends.items():
            self.router.add_servers(key, slot, [Server(f"{service}.{slot}-1", "127.0.0.1", backend)], FENCE)
        self.router.set_split(key, split, None, FENCE)
        return key, port
