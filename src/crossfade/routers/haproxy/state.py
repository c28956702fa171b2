"""What the edge must be, as one JSON file: the source from which its configuration and maps are rendered."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

from crossfade.domain.errors import StorageFailed
from crossfade.domain.traffic import Lease, Server, Slot, Split, Sticky, StickyBy
from crossfade.domain.values import EnvKey, Weight
from crossfade.ports import Route

FILE: Final = "state.json"

Standing = Literal["ready", "draining"]


@dataclass(frozen=True, slots=True)
class Member:
    """A server of a slot. ``draining``: no new requests, either not any more or not yet."""

    server: Server
    standing: Standing


@dataclass(frozen=True, slots=True)
class EnvironmentState:
    """One environment as it must be at the edge. ``hold_until`` in epoch seconds, 0 for none."""

    route: Route
    split: Split = field(default_factory=lambda: Split.wholly(Slot.BLUE))
    lease: Lease | None = None
    lapsed: bool = False
    members: Mapping[Slot, tuple[Member, ...]] = field(default_factory=dict)
    preview: tuple[Slot, str] | None = None
    hold_until: float = 0.0

    def of(self, slot: Slot) -> tuple[Member, ...]:
        return self.members.get(slot, ())

    def with_members(self, slot: Slot, members: tuple[Member, ...]) -> EnvironmentState:
        return replace(self, members={**self.members, slot: members})

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


def read_state(folder: Path) -> State:
    """The state on disk; an empty one when there is none. Raises StorageFailed."""
    path = folder / FILE
    try:
        data = json.loads(path.read_bytes())
        return _decode(data)
    except FileNotFoundError:
        return State()
    except OSError as error:
        raise StorageFailed(f"{path} cannot be read: {error.strerror}.", hint="Check its permissions.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise StorageFailed(
            f"{path} is damaged: {error}.", hint="Restore it from a backup, or remove it and deploy again."
        ) from error


def encode(state: State) -> str:
    """The state as the text of its file."""
    return json.dumps(
        {
            "generation": state.generation,
            "environments": [_encode_environment(e) for _, e in sorted(state.environments.items())],
            "fences": {str(key): fence for key, fence in sorted(state.fences.items())},
        },
        separators=(",", ":"),
    )


def write_files(folder: Path, files: Mapping[str, str]) -> None:
    """Replace these files, each in one step and durably, in the given order; those that are the same stay as they are.

    All are written beside their targets before the first is replaced, so that a full disk changes nothing.
    Raises StorageFailed.
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
        if staged:
            _sync_folder(folder)
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


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _encode_environment(environment: EnvironmentState) -> dict[str, Any]:
    route, lease, preview = environment.route, environment.lease, environment.preview
    return {
        "key": str(route.key),
        "bind": route.bind,
        "port": route.port,
        "sticky": [route.sticky.by.value, route.sticky.name],
        "request_timeout": route.request_timeout,
        "drain_timeout": route.drain_timeout,
        "green": environment.split.green.bp,
        "lease": [lease.expires, lease.fallback.green.bp] if lease else None,
        "lapsed": environment.lapsed,
        "slots": {
            slot.value: [[m.server.name, m.server.host, m.server.port, m.standing] for m in members]
            for slot, members in sorted(environment.members.items())
        },
        "preview": [preview[0].value, preview[1]] if preview else None,
        "hold_until": environment.hold_until,
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
    lease, preview = item["lease"], item["preview"]
    return EnvironmentState(
        Route(
            EnvKey.parse(item["key"]),
            item["bind"],
            int(item["port"]),
            Sticky(StickyBy(by), name),
            float(item["request_timeout"]),
            float(item["drain_timeout"]),
        ),
        Split(Weight(item["green"])),
        Lease(float(lease[0]), Split(Weight(lease[1]))) if lease else None,
        bool(item["lapsed"]),
        {
            Slot(slot): tuple(Member(Server(n, host, int(port)), standing) for n, host, port, standing in members)
            for slot, members in item["slots"].items()
        },
        (Slot(preview[0]), str(preview[1])) if preview else None,
        float(item["hold_until"]),
    )
