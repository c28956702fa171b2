"""What the edge must be, on disk: the source from which its configuration and the other maps are rendered.

``weights.map`` holds the splits and leases, ``state.json`` all the rest. They are apart so that moving the weights,
the one change that is in a hurry, is one small write.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

from crossfade.domain.drill import EdgeFault
from crossfade.domain.errors import Invalid, StorageFailed
from crossfade.domain.traffic import Lease, Pool, Server, Slot, Split, Sticky, StickyBy, pool_of
from crossfade.domain.values import EnvKey, ReleaseNumber, Weight
from crossfade.ports import Route

FILE: Final = "state.json"
WEIGHTS: Final = "weights.map"

Standing = Literal["ready", "draining"]


@dataclass(frozen=True, slots=True)
class Member:
    """A server of a pool. ``draining``: no new requests, either not any more or not yet."""

    server: Server
    standing: Standing


@dataclass(frozen=True, slots=True)
class EnvironmentState:
    """One environment as it must be at the edge. ``hold_until`` in epoch seconds, 0 for none.

    ``releases``: of each pool, as far as it was said and as long as the pool has servers. ``faults``: with when each ends.
    """

    route: Route
    split: Split = field(default_factory=lambda: Split.wholly(Slot.BLUE))
    lease: Lease | None = None
    lapsed: bool = False
    members: Mapping[Pool, tuple[Member, ...]] = field(default_factory=dict)
    releases: Mapping[Pool, str] = field(default_factory=dict)
    preview: tuple[Slot, str] | None = None
    hold_until: float = 0.0
    faults: Mapping[Slot, tuple[EdgeFault, float]] = field(default_factory=dict)

    def of(self, slot: Pool) -> tuple[Member, ...]:
        return self.members.get(slot, ())

    def with_members(self, slot: Pool, members: tuple[Member, ...]) -> EnvironmentState:
        releases = {pool: release for pool, release in self.releases.items() if pool != slot or members}
        return replace(self, members={**self.members, slot: members}, releases=releases)

    def with_release(self, pool: Pool, release: str) -> EnvironmentState:
        """The same when ``release`` is empty."""
        return replace(self, releases={**self.releases, pool: release}) if release else self

    def lapse(self) -> EnvironmentState:
        """After the lease ran out: what the edge has gone back to by itself."""
        if self.lease is None:
            return replace(self, lapsed=True)
        return replace(self, split=self.lease.fallback, lease=None, lapsed=True)


@dataclass(frozen=True, slots=True)
class State:
    """Everything. ``generation`` counts the structural changes; ``fences`` outlive their environments."""

    generation: int = 0
    environments: Mapping[EnvKey, EnvironmentState] = field(default_factory=dict)
    fences: Mapping[EnvKey, int] = field(default_factory=dict)

    def put(self, environment: EnvironmentState) -> State:
        return replace(self, environments={**self.environments, environment.route.key: environment})

    def without(self, key: EnvKey) -> State:
        return replace(self, environments={k: e for k, e in self.environments.items() if k != key})


def name_of(key: EnvKey) -> str:
    """The name of an environment in the edge and in its maps: two names without dots, and a dot."""
    return f"{key.service}.{key.environment}"


def marks(folder: Path) -> tuple[tuple[int, int, int], ...]:
    """Differ when the state on disk does."""
    found = []
    for name in (FILE, WEIGHTS):
        with contextlib.suppress(FileNotFoundError):
            stat = (folder / name).stat()
            found.append((stat.st_ino, stat.st_mtime_ns, stat.st_size))
    return tuple(found)


def read_state(folder: Path) -> State:
    """The state on disk; an empty one when there is none. Raises StorageFailed."""
    path = folder / FILE
    try:
        state = _decode(json.loads(path.read_bytes()))
        path = folder / WEIGHTS
        return _with_weights(state, path.read_text() if path.exists() else "")
    except FileNotFoundError:
        return State()
    except OSError as error:
        raise StorageFailed(f"{path} cannot be read: {error.strerror}.", hint="Check its permissions.") from error
    except (ValueError, KeyError, TypeError, Invalid) as error:
        raise StorageFailed(
            f"{path} is damaged: {error}.", hint="Restore it from a backup, or remove it and deploy again."
        ) from error


def encode_weights(state: State) -> str:
    """The text of weights.map: the splits' codes. Leases are comments to HAProxy, and read by edge.lua."""
    lines = []
    for key, environment in sorted(state.environments.items()):
        name = name_of(key)
        lines.append(f"{name} {environment.split.code}")
        if environment.lease is not None:
            lines.append(f"# lease {name} {environment.lease.expires!r} {environment.lease.fallback.code}")
        if environment.lapsed:
            lines.append(f"# lapsed {name}")
    return "".join(f"{line}\n" for line in lines)


def encode(state: State) -> str:
    """The text of state.json."""
    return json.dumps(
        {
            "generation": state.generation,
            "environments": [_encode_environment(e) for _, e in sorted(state.environments.items())],
            "fences": {str(key): fence for key, fence in sorted(state.fences.items())},
        },
        separators=(",", ":"),
    )


def write_files(folder: Path, files: Mapping[str, str], *, settled: bool = True) -> None:
    """Replace these files, each in one step and durably, in the given order; those that are the same stay as they are.

    All are written beside their targets before the first is replaced, so that a full disk changes nothing. Unless
    ``settled``, the folder itself is left to `settle`: until then the change outlives every process, but not a power
    cut. Raises StorageFailed.
    """
    staged: list[tuple[Path, Path]] = []
    try:
        for name, text in files.items():
            target, data = folder / name, text.encode()
            if _holds(target, data):
                continue
            temporary = folder / f".{name}.new"
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                staged.append((temporary, target))
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        for temporary, target in staged:
            os.replace(temporary, target)
        if staged and settled:
            settle(folder)
    except OSError as error:
        for temporary, _ in staged:
            temporary.unlink(missing_ok=True)
        raise StorageFailed(
            f"The edge's folder {folder} cannot be written: {error.strerror}.",
            hint="Free some space or correct its permissions, then do the same again.",
            folder=str(folder),
        ) from error


def _holds(path: Path, data: bytes) -> bool:
    try:
        return path.stat().st_size == len(data) and path.read_bytes() == data
    except FileNotFoundError:
        return False


def settle(folder: Path) -> None:
    """Make replaced files stay replaced over a power cut. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _with_weights(state: State, text: str) -> State:
    """The state with the splits and leases of weights.map; names that are not in the state are left out."""
    environments = {name_of(key): environment for key, environment in state.environments.items()}
    for line in text.splitlines():
        match line.split():
            case ["#", "lease", name, expires, fallback] if name in environments:
                lease = Lease(float(expires), Split.from_code(int(fallback)))
                environments[name] = replace(environments[name], lease=lease)
            case ["#", "lapsed", name] if name in environments:
                environments[name] = replace(environments[name], lapsed=True)
            case [name, code] if name in environments:
                environments[name] = replace(environments[name], split=Split.from_code(int(code)))
    return replace(state, environments={e.route.key: e for e in environments.values()})


def _encode_environment(environment: EnvironmentState) -> dict[str, Any]:
    route, preview = environment.route, environment.preview
    return {
        "key": str(route.key),
        "bind": route.bind,
        "port": route.port,
        "sticky": [route.sticky.by.value, route.sticky.name],
        "request_timeout": route.request_timeout,
        "drain_timeout": route.drain_timeout,
        "slots": {
            slot.value: [[m.server.name, m.server.host, m.server.port, m.standing] for m in members]
            for slot, members in sorted(environment.members.items())
        },
        "releases": {pool.value: release for pool, release in sorted(environment.releases.items())},
        "preview": [preview[0].value, preview[1]] if preview else None,
        "hold_until": environment.hold_until,
        "faults": {
            slot.value: [fault.share.bp, fault.delay, fault.status, until]
            for slot, (fault, until) in sorted(environment.faults.items())
        },
    }


def _decode(data: Any) -> State:
    environments = [_decode_environment(item) for item in data["environments"]]
    return State(
        int(data["generation"]),
        {environment.route.key: environment for environment in environments},
        {EnvKey.parse(key): int(fence) for key, fence in data["fences"].items()},
    )


def _decode_environment(item: Any) -> EnvironmentState:
    by, name = item["sticky"]
    preview = item["preview"]
    return EnvironmentState(
        Route(
            EnvKey.parse(item["key"]),
            item["bind"],
            int(item["port"]),
            Sticky(StickyBy(by), name),
            float(item["request_timeout"]),
            float(item["drain_timeout"]),
        ),
        members={
            pool_of(slot): tuple(Member(Server(n, host, int(port)), standing) for n, host, port, standing in members)
            for slot, members in item["slots"].items()
        },
        releases={pool_of(pool): str(ReleaseNumber.parse(r)) for pool, r in item.get("releases", {}).items()},
        preview=(Slot(preview[0]), str(preview[1])) if preview else None,
        hold_until=float(item["hold_until"]),
        faults={
            Slot(slot): (EdgeFault(Weight(int(share)), float(delay), int(status)), float(until))
            for slot, (share, delay, status, until) in item.get("faults", {}).items()
        },
    )
