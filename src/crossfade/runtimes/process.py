"""Replicas as plain processes of this machine, under supervisord, each on a port of its own.

What is known of an environment is in ``replicas/SERVICE.ENVIRONMENT/``: the highest fence seen, and per replica a
record of its port and of what it was started with. The record is written before the program and removed after it, so
whoever is killed in between leaves nothing that a second call does not finish.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from crossfade.domain.errors import Invalid, Refused, StaleFence, StorageFailed, Unavailable
from crossfade.domain.values import EnvKey
from crossfade.ports import Replica, ReplicaSpec
from crossfade.runtimes.disk import ensure_folder, lock, read_file, remove_file, write_file
from crossfade.runtimes.supervisor import (
    BACKOFF,
    EXITED,
    FATAL,
    RUNNING,
    STARTING,
    STOPPED,
    STOPPING,
    Program,
    ProgramState,
    Supervisor,
)

LOWEST_PORT: Final = 20_000
KEPT_LOGS: Final = 30
"""Logs of stopped replicas that an environment keeps."""

_VARIABLE = re.compile(r"\$(?:\{(PORT|HOST)\}|(PORT|HOST)(?![A-Za-z0-9_]))")
_STATES = {
    STARTING: "starting",
    RUNNING: "running",
    STOPPING: "running",
    BACKOFF: "exited",
    EXITED: "exited",
    FATAL: "exited",
    STOPPED: "stopped",
}


@dataclass(frozen=True, slots=True)
class Record:
    """What is remembered of a replica. ``spec`` is a digest over what it was started with."""

    name: str
    host: str
    port: int
    spec: str

    def encode(self) -> bytes:
        return json.dumps({"name": self.name, "host": self.host, "port": self.port, "spec": self.spec}).encode()

    @classmethod
    def decode(cls, data: bytes) -> Record | None:
        """None for a damaged record."""
        try:
            facts = json.loads(data)
            return cls(str(facts["name"]), str(facts["host"]), int(facts["port"]), str(facts["spec"]))
        except (ValueError, KeyError, TypeError):
            return None


class ProcessRuntime:
    """The `Runtime` port on one machine. ``state`` is the state folder, ``supervisor`` the one of the same folder."""

    def __init__(self, state: Path, supervisor: Supervisor) -> None:
        self._folder = state.absolute() / "replicas"
        self._supervisor = supervisor

    def start(self, key: EnvKey, specs: Sequence[ReplicaSpec], fence: int) -> tuple[Replica, ...]:
        """See `Runtime.start`. Returns at once; whether a replica stays up is in `replicas`.

        A replica keeps its port for life; only one that does not run, and whose port somebody else has taken, gets
        another. Raises Invalid, Unavailable, StorageFailed, StaleFence, and Refused when a replica of that name runs
        with another command, folder or environment.
        """
        for spec in specs:
            _check(key, spec)
        folder = self._room(key)
        with lock(folder / "lock"):
            self._pass(key, folder, fence)
            states = self._supervisor.states()
            old = self._records(folder)
            wanted: list[tuple[ReplicaSpec, Record]] = []
            held: list[socket.socket] = []
            try:
                with lock(self._folder / "ports.lock"):
                    taken = self._ports()
                    for spec in specs:
                        record = self._record(spec, old.get(spec.name), states.get(spec.name), taken, held)
                        taken.add(record.port)
                        wanted.append((spec, record))
                    fresh = [record for _, record in wanted if old.get(record.name) != record]
                    self._write(folder, fresh, old)
            finally:
                # Held until each has a port, so that no two get the same.
                for held_socket in held:
                    held_socket.close()
            try:
                self._supervisor.ensure([_program(spec, record) for spec, record in wanted])
            except BaseException:
                self._write_back(folder, fresh, old)
                raise
            self._prune_logs(key, {*old, *(record.name for record in fresh)})
        found = {replica.name: replica for replica in self.replicas(key)}
        return tuple(found[spec.name] for spec in specs)

    def stop(self, key: EnvKey, names: Sequence[str], fence: int) -> None:
        """See `Runtime.stop`: all of them at the same time. Raises Unavailable, StorageFailed, StaleFence."""
        folder = self._room(key)
        with lock(folder / "lock"):
            self._pass(key, folder, fence)
            records = self._records(folder)
        known = [name for name in dict.fromkeys(names) if name in records]
        if not known:
            return
        self._supervisor.remove(known)  # Takes up to a stop_timeout: others may start replicas meanwhile.
        with lock(folder / "lock"):
            still = self._supervisor.states()
            for name in known:
                if name not in still:
                    remove_file(folder / f"{name}.json")

    def replicas(self, key: EnvKey) -> tuple[Replica, ...]:
        """See `Runtime.replicas`. Raises Unavailable, StorageFailed."""
        return self.replicas_of((key,))[key]

    def replicas_of(self, keys: Sequence[EnvKey]) -> Mapping[EnvKey, tuple[Replica, ...]]:
        """See `Runtime.replicas_of`. Raises Unavailable, StorageFailed."""
        records = {key: self._records(self._folder / _stem(key)) for key in keys}
        states = self._supervisor.states() if any(records.values()) else {}
        return {
            key: tuple(_replica(found[name], states.get(name)) for name in sorted(found))
            for key, found in records.items()
        }

    def logs(self, name: str, lines: int = 50) -> tuple[str, ...]:
        """See `Runtime.logs`. They are still there after the replica was stopped. Raises Invalid, StorageFailed."""
        return self._supervisor.log(name, lines)

    # -- inside

    def _room(self, key: EnvKey) -> Path:
        ensure_folder(self._folder)
        folder = self._folder / _stem(key)
        ensure_folder(folder)
        return folder

    def _pass(self, key: EnvKey, folder: Path, fence: int) -> None:
        """Under the lock of the environment. Raises StaleFence, StorageFailed."""
        newest = int(read_file(folder / "fence") or b"0")
        if fence < newest:
            raise StaleFence(str(key), fence, newest)
        if fence > newest:
            write_file(folder / "fence", str(fence).encode())

    def _records(self, folder: Path) -> dict[str, Record]:
        found: dict[str, Record] = {}
        for path in folder.glob("*.json"):
            record = Record.decode(read_file(path) or b"")
            if record is not None and record.name == path.stem:
                found[record.name] = record
        return found

    def _ports(self) -> set[int]:
        """The ports of all replicas of all environments, running or not."""
        return {
            record.port
            for folder in self._folder.iterdir()
            if folder.is_dir()
            for record in self._records(folder).values()
        }

    def _record(
        self,
        spec: ReplicaSpec,
        old: Record | None,
        state: ProgramState | None,
        taken: set[int],
        held: list[socket.socket],
    ) -> Record:
        digest = _digest(spec)
        if old is not None:
            same = old.spec == digest
            if state is not None and state.alive:
                if not same:
                    raise Refused(
                        f"Replica {spec.name} runs already, with another command, folder or environment.",
                        hint="Stop it first, or give the new one a name of its own.",
                        replica=spec.name,
                    )
                return old
            if same and _is_free(old.host, old.port):
                return old
        return Record(spec.name, spec.host, _free_port(spec.host, taken, held), digest)

    def _write(self, folder: Path, fresh: Sequence[Record], old: Mapping[str, Record]) -> None:
        try:
            for record in fresh:
                write_file(folder / f"{record.name}.json", record.encode())
        except BaseException:
            self._write_back(folder, fresh, old)
            raise

    def _write_back(self, folder: Path, fresh: Sequence[Record], old: Mapping[str, Record]) -> None:
        """As it was before, as far as the disk allows."""
        for record in fresh:
            path = folder / f"{record.name}.json"
            try:
                if record.name in old:
                    write_file(path, old[record.name].encode())
                else:
                    remove_file(path)
            except StorageFailed:
                continue

    def _prune_logs(self, key: EnvKey, names: set[str]) -> None:
        """Keep the logs of those that are there, and the newest of those that are not."""
        prefix = f"{_stem(key)}."
        gone = [path for path in self._supervisor.logs.glob(f"{prefix}*.log") if path.stem not in names]
        if len(gone) <= KEPT_LOGS:
            return
        try:
            gone.sort(key=lambda path: path.stat().st_mtime, reverse=True)
            for path in gone[KEPT_LOGS:]:
                self._supervisor.remove_log(path.stem)
        except OSError:
            return  # Somebody else is at it.
        except StorageFailed:
            return


def _stem(key: EnvKey) -> str:
    return f"{key.service}.{key.environment}"  # Neither has a dot, so no two keys share one.


def _check(key: EnvKey, spec: ReplicaSpec) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,180}", spec.name) or not spec.name.startswith(f"{_stem(key)}."):
        raise Invalid("replica name", spec.name, f"{_stem(key)}. and then letters, digits, '.', '_' and '-'")


def _digest(spec: ReplicaSpec) -> str:
    facts = [list(spec.command), str(spec.cwd), sorted(spec.env.items()), spec.host, spec.stop_timeout]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _program(spec: ReplicaSpec, record: Record) -> Program:
    values = {"PORT": str(record.port), "HOST": record.host}
    command = tuple(_VARIABLE.sub(lambda found: values[found[1] or found[2]], word) for word in spec.command)
    return Program(spec.name, command, spec.cwd, {**spec.env, **values}, spec.stop_timeout)


def _replica(record: Record, program: ProgramState | None) -> Replica:
    if program is None:
        return Replica(record.name, record.host, record.port, "stopped", detail="is not known to the supervisor")
    state = _STATES.get(program.state, "exited")
    detail = ""
    if program.state == STOPPING:
        detail = "is stopping"
    elif program.ended and state != "stopped":
        times = "once" if program.restarts == 1 else f"{program.restarts} times"
        detail = f"{program.ended} (ended {times} so far)"
        if state != "exited":
            detail = f"was restarted; it {detail}"
    elif state == "exited":
        detail = f"could not be started: {program.error}" if program.error else "exited"
    elif state == "stopped":
        detail = "is stopped"
    return Replica(record.name, record.host, record.port, state, program.pid, program.restarts, detail)


def _is_free(host: str, port: int) -> bool:
    try:
        _bind(host, port).close()
    except OSError:
        return False
    return True


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        # As servers do: connections of an earlier process that linger must not make a port look taken.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.listen(1)  # Two may bind with SO_REUSEADDR, only one may listen.
    except OSError:
        bound.close()
        raise
    return bound


def _lowest_ephemeral() -> int:
    try:
        text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text()
        return int(text.split()[0])
    except (OSError, ValueError, IndexError):
        return 32_768


def _free_port(host: str, taken: set[int], held: list[socket.socket]) -> int:
    """A port that nobody has, held by a socket that is added to ``held``.

    Taken from below the ports that the kernel gives to outgoing connections: one of those could not be bound again
    when the replica restarts while some connection happens to have it.
    """
    top = _lowest_ephemeral()
    low = LOWEST_PORT if top - LOWEST_PORT >= 1000 else 0
    candidates = random.sample(range(low, top), k=min(500, top - low)) if low else []
    problem: OSError | str = "all are taken"
    for port in [*candidates, *([0] * 100)]:
        if port in taken:
            continue
        try:
            bound = _bind(host, port)
        except OSError as error:
            problem = error
            continue
        held.append(bound)
        found = int(bound.getsockname()[1])
        if found not in taken:
            return found
    raise Unavailable(f"No free port on {host}: {problem}.", hint="Check the address that replicas are to listen on.")
