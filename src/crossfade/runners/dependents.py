"""`ports.pipeline.Dependents`: databases and other services for a stage, each under a keeper like any step."""

from __future__ import annotations

import os
import random
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from crossfade.domain.errors import Invalid, StorageFailed, Unavailable
from crossfade.domain.pipeline.plan import Dependent, DependentKind
from crossfade.ports import Prober
from crossfade.ports.pipeline import Cancel, Ended, How, Job, Place, Steps, Tell

HOST: Final = "127.0.0.1"
LOOK_EVERY: Final = 0.05
LAST_LINES: Final = 20
FOREVER: Final = 7 * 86_400.0
MEMORY: Final = 8 * 2**30
OUTPUT: Final = 1 << 30
NOBODY: Final = 65534
LOWEST_PORT: Final = 20_000
REFUSED_AS_ROOT: Final = (DependentKind.POSTGRESQL, DependentKind.MARIADB)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a built-in kind is made. ``first`` are commands run once, before ``command``; ``hello`` tells whether it is up."""

    first: tuple[tuple[str, ...], ...]
    command: tuple[str, ...]
    url: str
    hello: Callable[[int], bool]


class ProcessDependents:
    """Starts services by ``steps``, so that they die with the server; ``prober`` asks declared commands whether they are up."""

    def __init__(self, state: Path, prober: Prober, steps: Steps) -> None:
        self._state = state
        self._prober = prober
        self._steps = steps

    def start(
        self,
        dependents: Sequence[Dependent],
        *,
        owner: str,
        folder: Path,
        tree: Path,
        artifact: Path | None,
        env: Mapping[str, str],
        tell: Tell,
        cancel: Cancel,
    ) -> AbstractContextManager[Mapping[str, Place]]:
        """See the port."""
        return self._start(dependents, owner, folder, tree, artifact, dict(env), tell, cancel)

    def sweep(self) -> None:
        """See the port. Logs stay."""
        for left in self._state.glob("runs/*/*/services/*"):
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left, ignore_errors=True)

    @contextmanager
    def _start(
        self,
        dependents: Sequence[Dependent],
        owner: str,
        folder: Path,
        tree: Path,
        artifact: Path | None,
        env: dict[str, str],
        tell: Tell,
        cancel: Cancel,
    ) -> Iterator[Mapping[str, Place]]:
        places: dict[str, Place] = {}
        with ExitStack() as stack:
            for dependent in dependents:
                began = time.monotonic()
                try:
                    (folder / dependent.name).mkdir(parents=True, mode=0o700)
                except OSError as error:
                    raise StorageFailed.because(f"making a folder for {dependent.name}", error) from error
                stack.callback(shutil.rmtree, folder / dependent.name, ignore_errors=True)
                one = _One(self._steps, self._prober, dependent, owner, folder, cancel)
                place = stack.enter_context(one.running(tree, artifact, env))
                places[dependent.name] = place
                env = {**env, **place.env}
                tell(f"{dependent.name} is up at {place.host}:{place.port} after {time.monotonic() - began:.1f} s")
            yield places


class _One:
    """One service, from its start to its end."""

    def __init__(
        self, steps: Steps, prober: Prober, dependent: Dependent, owner: str, folder: Path, cancel: Cancel
    ) -> None:
        self._steps = steps
        self._prober = prober
        self._dependent = dependent
        self._owner = owner
        self._data = folder / dependent.name / "data"
        self._log = folder / f"{dependent.name}.log"
        self._cancel = cancel

    @contextmanager
    def running(self, tree: Path, artifact: Path | None, env: Mapping[str, str]) -> Iterator[Place]:
        dependent, port = self._dependent, free_port()
        where, variables = self._data, {}
        self._data.mkdir(mode=0o700)
        if dependent.kind is DependentKind.COMMAND:
            recipe = self._declared(port)
            variables = {**env, **dict(dependent.env), "PORT": str(port), "HOST": HOST}
            where = tree
            if dependent.artifact:
                if artifact is None:
                    raise Invalid(
                        f"services.{dependent.name}.artifact", "true", "false: this stage has no artifact yet"
                    )
                where = artifact
        else:
            recipe = RECIPES[dependent.kind](self._data, port)
        for command in recipe.first:
            ended = self._steps.run(self._job(command, where, variables), self._cancel)
            if ended.how is not How.EXITED or ended.status != 0:
                raise self._failed(f"{command[0]} {ended.sentence}")
        over: list[Ended | BaseException] = []
        stop = threading.Event()

        def keep() -> None:
            try:
                over.append(self._steps.run(self._job(recipe.command, where, variables), stop))
            except BaseException as error:  # noqa: BLE001 - told by whoever waits for the service
                over.append(error)

        thread = threading.Thread(target=keep, name=f"dependent-{dependent.name}", daemon=True)
        thread.start()
        try:
            self._wait(recipe, port, over)
            capitals = re.sub(r"[^A-Z0-9]", "_", dependent.name.upper())
            told = {f"{capitals}_HOST": HOST, f"{capitals}_PORT": str(port), f"{capitals}_URL": recipe.url}
            yield Place(dependent.name, HOST, port, recipe.url, told)
        finally:
            stop.set()
            thread.join()

    def _declared(self, port: int) -> Recipe:
        url = f"http://{HOST}:{port}"
        words = tuple(_filled(word, port) for word in self._dependent.command)
        if not words:
            raise Invalid(f"services.{self._dependent.name}.run", "nothing", "a command")
        check = self._dependent.check

        def is_up(_: int) -> bool:
            return check is None or all(result.healthy for result in self._prober.check(url, [check], {}))

        return Recipe((), words, url, is_up)

    def _job(self, command: tuple[str, ...], where: Path, variables: Mapping[str, str]) -> Job:
        if self._dependent.kind in REFUSED_AS_ROOT and os.geteuid() == 0:
            command = as_nobody(command)
            os.chown(self._data, NOBODY, NOBODY)
        return Job(
            self._dependent.name, self._owner, command, where, where, self._log, variables, {}, FOREVER, MEMORY, OUTPUT
        )

    def _wait(self, recipe: Recipe, port: int, over: Sequence[Ended | BaseException]) -> None:
        deadline = time.monotonic() + self._dependent.start_timeout
        while True:
            if over:
                why = over[0].sentence if isinstance(over[0], Ended) else str(over[0])
                raise self._failed(why)
            if is_open(port) and recipe.hello(port):
                return
            if self._cancel.is_set():
                raise Unavailable(f"{self._dependent.name} was cancelled while it started.")
            if time.monotonic() > deadline:
                raise self._failed(f"was not up after {self._dependent.start_timeout:g} s")
            self._cancel.wait(LOOK_EVERY)

    def _failed(self, why: str) -> Unavailable:
        try:
            with self._log.open("rb") as file:
                file.seek(max(0, self._log.stat().st_size - 8192))
                lines = file.read().decode("utf-8", "replace").splitlines()[-LAST_LINES:]
        except OSError:
            lines = []
        said = "\n".join(lines) or "(its log is empty)"
        return Unavailable(f"The dependent service {self._dependent.name} did not start: it {why}.\n{said}")


def as_nobody(command: Sequence[str]) -> tuple[str, ...]:
    """The same command for those that refuse root. It may still enter the folders above its own, which are root's."""
    rights = "-all,+dac_override"
    return (
        *(_program("setpriv", "util-linux"), f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"),
        *(f"--inh-caps={rights}", f"--ambient-caps={rights}", "--"),
        *command,
    )


def _filled(word: str, port: int) -> str:
    return re.sub(r"\$(PORT|HOST)\b|\$\{(PORT|HOST)\}", lambda m: str(port) if "PORT" in m[0] else HOST, word)


def _program(name: str, package: str, elsewhere: Sequence[Path] = ()) -> str:
    for folder in elsewhere:
        if os.access(folder / name, os.X_OK):
            return str(folder / name)
    found = shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
    if found is None:
        raise Unavailable(
            f"The program {name} is not there.", hint=f"Install Debian's package {package}, which has it."
        )
    return found


def _postgresql(data: Path, port: int) -> Recipe:
    # Of one installation, whatever else is on PATH: initdb and postgres of two versions do not go together.
    versions = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: path.parent.name.zfill(4), reverse=True
    )
    initdb, postgres = (_program(name, "postgresql", versions) for name in ("initdb", "postgres"))
    folder = str(data / "db")
    options = {"port": port, "listen_addresses": HOST, "unix_socket_directories": "", "fsync": "off"}
    options |= {"synchronous_commit": "off", "full_page_writes": "off"}
    return Recipe(
        ((initdb, "-D", folder, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync", "--locale=C.UTF-8"),),
        (postgres, "-D", folder, *(word for name, value in options.items() for word in ("-c", f"{name}={value}"))),
        f"postgresql://postgres@{HOST}:{port}/postgres",
        _postgresql_is_up,
    )


def _postgresql_is_up(port: int) -> bool:
    # A startup message of protocol 3.0; a server that still starts answers with an error instead of AuthenticationOk.
    body = (196608).to_bytes(4, "big") + b"user\0postgres\0database\0postgres\0\0"
    return _answer(port, (len(body) + 4).to_bytes(4, "big") + body).startswith(b"R")


def _mariadb(data: Path, port: int) -> Recipe:
    package = "mariadb-server"
    install, server = _program("mariadb-install-db", package), _program("mariadbd", package)
    folder = str(data / "db")
    common = ("--no-defaults", f"--datadir={folder}")
    return Recipe(
        ((install, *common, "--auth-root-authentication-method=normal", "--skip-test-db"),),
        (
            *(server, *common, f"--port={port}", f"--bind-address={HOST}", f"--socket={data / 's'}"),
            *("--skip-name-resolve", "--innodb-flush-log-at-trx-commit=0", "--innodb-flush-method=nosync"),
            f"--pid-file={data / 'pid'}",
        ),
        f"mysql://root@{HOST}:{port}/mysql",
        # The server greets first: a packet whose fifth byte is the protocol's version, 10.
        lambda port: _answer(port, b"")[4:5] == b"\x0a",
    )


def _redis(data: Path, port: int) -> Recipe:
    server = _program("redis-server", "redis-server")
    return Recipe(
        (),
        (server, "--port", str(port), "--bind", HOST, "--dir", str(data), "--save", "", "--appendonly", "no"),
        f"redis://{HOST}:{port}/0",
        lambda port: _answer(port, b"PING\r\n").startswith(b"+PONG"),
    )


RECIPES: Final[Mapping[DependentKind, Callable[[Path, int], Recipe]]] = {
    DependentKind.POSTGRESQL: _postgresql,
    DependentKind.MARIADB: _mariadb,
    DependentKind.REDIS: _redis,
}


def _answer(port: int, said: bytes) -> bytes:
    try:
        with socket.create_connection((HOST, port), timeout=1.0) as connection:
            connection.sendall(said)
            return connection.recv(256)
    except OSError:
        return b""


def is_open(port: int) -> bool:
    """Whether somebody listens there."""
    try:
        with socket.create_connection((HOST, port), timeout=1.0):
            return True
    except OSError:
        return False


def free_port() -> int:
    """One that nobody has, from below those that the kernel gives to outgoing connections. Raises Unavailable."""
    try:
        top = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        top = 32_768
    low = LOWEST_PORT if top - LOWEST_PORT >= 1000 else 1024
    for port in random.sample(range(low, top), k=min(500, top - low)):
        with socket.socket() as trial:
            try:
                trial.bind((HOST, port))
            except OSError:
                continue
            return port
    raise Unavailable(f"No free port on {HOST} from {low} to {top - 1}.")
