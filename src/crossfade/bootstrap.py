"""The only place where adapters are named: puts the parts together, and starts and stops an installation.

Imports of adapters are inside the functions that need them, so that `crossfade status` does not load a database.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import httpx

from crossfade import __version__
from crossfade.domain.errors import CrossfadeError, Invalid, NotFound, Refused, StorageFailed, Unavailable

if TYPE_CHECKING:
    from crossfade.domain.analysis.policy import Analysis
    from crossfade.domain.release import ReleaseConfig
    from crossfade.ports import Parts
    from crossfade.signals.replay import Series
    from crossfade.spec.models import Spec

DEFAULT_PORT: Final = 7420
CONFIG_NAME: Final = "crossfade.yaml"
LONGEST_STATE: Final = 70
"""Characters of a state folder's path: the sockets below it must fit the 107 bytes of a unix address."""

Progress = Callable[[str], None]


def default_state() -> Path:
    """``$XDG_STATE_HOME/crossfade``, by default ``~/.local/state/crossfade``."""
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "crossfade"


# --- the installation


def prepare(state: Path) -> None:
    """Make the state folder ready. Raises Invalid for a path that is too long, StorageFailed."""
    if len(os.fsencode(str(state))) > LONGEST_STATE:
        raise Invalid("state folder", str(state), f"a path of at most {LONGEST_STATE} bytes (its sockets need room)")
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name in ("run", "logs"):
            (state / name).mkdir(exist_ok=True, mode=0o700)
        for name in ("token", "key"):
            _keep_secret(state / name)
    except OSError as error:
        raise StorageFailed(
            f"The state folder {state} cannot be written: {error.strerror or error}.",
            hint="Choose another one with --state or CROSSFADE_STATE, or free some space.",
        ) from error


def _keep_secret(path: Path) -> None:
    """Make the file with a random secret unless it is there. Whole or not at all."""
    if path.exists():
        return
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        os.write(handle, secrets.token_urlsafe(32).encode() + b"\n")
        os.fsync(handle)
        os.link(name, path)
    except FileExistsError:
        pass  # another process was first
    finally:
        os.close(handle)
        os.unlink(name)


def make_parts(state: Path, api: str = "") -> Parts:
    """All the adapters of an installation; ``api`` is the URL of its server. Raises StorageFailed."""
    from crossfade.ports import Parts
    from crossfade.probes.http import HttpProber
    from crossfade.routers.haproxy import HAProxyRouter
    from crossfade.runtimes.process import ProcessRuntime
    from crossfade.runtimes.supervisor import Supervisor
    from crossfade.signals.edge import EdgeSignals
    from crossfade.signals.sources import ElsewhereSources
    from crossfade.store.artifacts import FolderArtifacts
    from crossfade.store.secrets import FolderSecrets
    from crossfade.store.sql import SqlStore

    return Parts(
        store=SqlStore(f"sqlite:///{state / 'crossfade.db'}"),
        router=HAProxyRouter(state / "edge", state / "run"),
        runtime=ProcessRuntime(state, Supervisor(state)),
        signals=EdgeSignals(state / "edge", state / "run"),
        prober=HttpProber(),
        artifacts=FolderArtifacts(state / "artifacts"),
        secrets=FolderSecrets(state / "secrets"),
        key=(state / "key").read_bytes(),
        sources=ElsewhereSources(),
        api=api,
    )


def read_config(data: Mapping[str, Any], service: str, environment: str) -> ReleaseConfig:
    """The configuration for one environment from the content of crossfade.yaml. Raises InvalidConfig, NotFound."""
    from crossfade.spec.models import Spec

    spec = Spec.from_data(dict(data))
    if spec.service != service:
        raise Invalid("service", service, f"{spec.service}, as the configuration says")
    return spec.for_environment(environment)


def serve(state: Path, host: str, port: int, on_boundary: Callable[[str], None] = lambda _: None) -> None:
    """Run the server until SIGTERM. Raises Refused when another one serves this state folder, or the port is taken."""
    import uvicorn

    from crossfade.api.app import create_app
    from crossfade.engine.loop import Engine
    from crossfade.service import Service

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for chatty in ("httpx", "alembic", "uvicorn"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    prepare(state)
    _refuse_open_api(host)
    with open(state / "server.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Refused(f"Another server already serves {state}.", hint="`crossfade status` talks to it.") from None
        listener = _listen(host, port)
        shown = f"[{host}]" if ":" in host else host
        url = f"http://{shown}:{listener.getsockname()[1]}"
        parts = make_parts(state, url)
        start = getattr(parts.signals, "start", None)
        if start is not None:
            start()
        engine = Engine(parts, state, on_boundary)
        service = Service(parts, engine, read_config)
        app = create_app(service, (state / "token").read_text().strip(), lambda: doctor(state))
        engine.start()
        _write_json(state / "server.json", {"url": url, "pid": os.getpid(), "version": __version__})
        server = uvicorn.Server(
            uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=2)
        )
        server.run(sockets=[listener])
        engine.stop()
        # Threads may still wait for a peer; everything they do is safe to be cut off and done again.
        logging.shutdown()
        os._exit(0)


def _refuse_open_api(host: str) -> None:
    try:
        loopback = ip_address(host).is_loopback
    except ValueError:
        raise Invalid("--host", host, "an IP address of this machine, for example 127.0.0.1") from None
    if not loopback:
        raise Refused(f"The API would listen on {host} without TLS.", hint="Use --host 127.0.0.1; a tunnel reaches it.")


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise Refused(
            f"{host}:{port} cannot be used for the API: {error.strerror}.", hint="Choose another with --port."
        ) from error
    listener.listen(128)
    return listener


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(data))
    fresh.replace(path)


def up(state: Path, host: str, port: int, progress: Progress) -> dict[str, Any]:
    """Start what does not run yet: supervisor, edge, server. Raises Refused, Unavailable, StorageFailed."""
    from crossfade.routers.haproxy import edge_command
    from crossfade.routers.haproxy import prepare as prepare_edge
    from crossfade.runtimes.supervisor import Supervisor

    _refuse_open_api(host)
    prepare(state)
    supervisor = Supervisor(state)
    known = _server(state)
    if known is not None and supervisor.running():
        return {"url": known, "started": False, "state": str(state)}
    progress("prepares the edge")
    prepare_edge(state / "edge", state / "run")
    _listen(host, port).close()
    progress("starts the supervisor")
    supervisor.start()
    supervisor.ensure_program("edge", edge_command(state / "edge", state / "run"), cwd=state, stop_signal="USR1")
    command = (sys.executable, "-m", "crossfade.cli.main", "--state", str(state), "serve", "--host", host)
    (state / "server.json").unlink(missing_ok=True)
    supervisor.ensure_program("server", (*command, "--port", str(port)), cwd=state, env=_python_path())
    supervisor.start_program("server")
    progress("waits for the server")
    deadline = time.monotonic() + 30
    while (url := _server(state)) is None:
        if time.monotonic() > deadline:
            lines = "\n".join(f"  {line}" for line in supervisor.log("server", 10))
            raise Unavailable(f"The server did not come up within 30 s. Its last lines:\n{lines}")
        time.sleep(0.05)
    return {"url": url, "started": True, "state": str(state)}


def _python_path() -> dict[str, str]:
    """What a child needs to import what this process has imported, wherever it runs."""
    inherited = [str(Path(p).absolute()) for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    return {"PYTHONPATH": os.pathsep.join(inherited)} if inherited else {}


def _server(state: Path) -> str | None:
    """The URL of the server that answers for this state folder."""
    try:
        url = str(json.loads((state / "server.json").read_text())["url"])
        answer = httpx.get(f"{url}/healthz", timeout=2.0, trust_env=False)
        return url if answer.status_code == 200 else None
    except (OSError, ValueError, KeyError, httpx.HTTPError):
        return None


def serving(state: Path) -> list[str]:
    """The environments that would be cut off by `down`; empty when nothing runs."""
    from crossfade.runtimes.supervisor import Supervisor

    if not Supervisor(state).running() or not (state / "crossfade.db").exists():
        return []
    from crossfade.store.sql import SqlStore

    store = SqlStore(f"sqlite:///{state / 'crossfade.db'}")
    try:
        return [str(environment.key) for environment in store.environments() if environment.live is not None]
    finally:
        store.dispose()


def down(state: Path, keep_traffic: bool, progress: Progress) -> bool:
    """Stop the server, or everything. False when nothing ran."""
    from crossfade.runtimes.supervisor import Supervisor

    supervisor = Supervisor(state)
    if not supervisor.running():
        return False
    progress("stops the server" if keep_traffic else "stops everything")
    if keep_traffic:
        supervisor.stop_program("server")
    else:
        supervisor.shutdown()
    return True


# --- the configuration


def config_path(place: Path) -> Path:
    """The crossfade.yaml that is meant by a file or a folder. Raises NotFound."""
    path = place / CONFIG_NAME if place.is_dir() else place
    if not path.is_file():
        raise NotFound(f"There is no {path}.", hint="`crossfade init` proposes one.")
    return path


def environments_of(path: Path) -> list[str]:
    """The names of the environments of a crossfade.yaml. Raises InvalidConfig with every problem."""
    from crossfade.spec.loader import load

    return list(load(path).environments)


def config_data(path: Path) -> dict[str, Any]:
    """The content of a crossfade.yaml as JSON-ready data, the keys that it gives only. Raises InvalidConfig."""
    from crossfade.spec.loader import load

    return load(path).to_data()


def plan(
    folder: Path,
    environment: str | None,
    traffic: Callable[[str], Mapping[str, Any]],
) -> dict[str, Any]:
    """What each step of the canary can tell. ``traffic`` gives that of an environment, as the API does.

    Raises InvalidConfig, NotFound, Refused for a strategy without steps, and whatever ``traffic`` raises.
    """
    from pydantic import TypeAdapter

    from crossfade.domain.analysis.plan import plan as make
    from crossfade.domain.analysis.sample import History
    from crossfade.domain.release import BlueGreen
    from crossfade.spec.loader import load

    path = config_path(folder)
    spec = load(path)
    name = environment or _only_environment(spec)
    config = spec.for_environment(name)
    key = f"{spec.service}/{name}"
    if isinstance(config.strategy, BlueGreen):
        raise Refused(
            f"The strategy of {key} is blue-green: all traffic moves at once, nothing is compared side by side.",
            hint="A plan is about the steps of a canary: strategy: {kind: canary, steps: […]}.",
        )
    history = TypeAdapter(History).validate_python(traffic(key))
    rungs = make(config.analysis, history, config.strategy.steps)
    return {
        "environment": key,
        "requests_per_second": round(history.requests / history.seconds, 3) if history.seconds else 0.0,
        "error_rate": history.errors / history.requests if history.requests else None,
        "measured_seconds": round(history.seconds, 1),
        "deadline": config.analysis.deadline,
        "steps": [rung.to_data() for rung in rungs],
    }


def history(source: str, config: Path | None, progress: Callable[[int], None]) -> tuple[Analysis, list[Series]]:
    """What is to be judged again, and how. Raises Invalid for rows, InvalidConfig, NotFound."""
    from crossfade.signals.replay import read
    from crossfade.spec.analysis import AnalysisPart, load

    return load(config) if config else AnalysisPart().analysis(), read(source, progress)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of crossfade.yaml."""
    from crossfade.spec.models import json_schema as schema

    return schema()


def propose(folder: Path) -> tuple[str, list[str]]:
    """A crossfade.yaml for what is in the folder, and what it was made from. Raises NotFound."""
    from crossfade.spec.propose import propose as make

    if not folder.is_dir():
        raise NotFound(f"There is no folder {folder}.")
    proposal = make(folder)
    return proposal.text, list(proposal.found)


def write_config(target: Path, text: str, force: bool) -> None:
    """Write a proposed configuration. Raises Refused when one is there, StorageFailed."""
    try:
        with open(target, "w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise Refused(f"{target} is there already.", hint="--force replaces it, --dry-run only prints.") from None
    except OSError as error:
        raise StorageFailed(f"{target} cannot be written: {error.strerror}.") from error


@dataclass
class Package:
    """A built and packed project, ready to be uploaded. A context manager: its temporary file goes with it."""

    spec: Spec
    environment: str
    data: dict[str, Any]
    file: BinaryIO
    path: Path
    digest: str
    size: int
    files: int
    secrets: dict[str, str]

    def __enter__(self) -> Package:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()
        self.path.unlink(missing_ok=True)

    def summary(self) -> dict[str, Any]:
        """What would be deployed. Names of secrets only, never values."""
        config = self.spec.for_environment(self.environment)
        return {
            "service": self.spec.service,
            "environment": self.environment,
            "strategy": type(config.strategy).__name__,
            "edge": config.url,
            "replicas": config.replicas,
            "command": shlex.join(config.command),
            "artifact": self.digest,
            "files": self.files,
            "bytes": self.size,
            "secrets": ", ".join(sorted(self.secrets)) or "none",
        }

    def request(self, label: str, by: str) -> dict[str, Any]:
        """The body of the API's request to deploy."""
        return {
            "service": self.spec.service,
            "environment": self.environment,
            "digest": self.digest,
            "config": self.data,
            "secrets": self.secrets,
            "label": label,
            "by": by,
        }


def package(folder: Path, environment: str | None, strategy: str | None, progress: Progress) -> Package:
    """Build the project and pack its output. Raises InvalidConfig, NotFound, Refused when the build fails."""
    from crossfade.spec.loader import load
    from crossfade.store.artifacts import pack
    from crossfade.store.secrets import parse_env_file

    path = config_path(folder)
    root = path.parent.absolute()
    spec = load(path)
    name = environment or _only_environment(spec)
    spec.for_environment(name)  # raises NotFound now rather than after a long build
    data = spec.to_data()
    if strategy is not None:
        data = _with_strategy(data, name, strategy)
    values: dict[str, str] = {}
    for place in spec.env_files(name):
        values |= parse_env_file(_read_env_file(root / place), str(place))
    if spec.build.command:
        progress(f"builds: {shlex.join(spec.build.command)}")
        _build(spec.build.command, root)
    output = root / spec.build.output
    if not output.is_dir():
        raise NotFound(f"build.output: {output} is not a folder.", hint="Does build.command make it?")
    progress("packs the artifact")
    packed = pack(output, (*spec.build.ignore, *spec.env_files(name)))
    return Package(
        spec,
        name,
        data,
        packed.path.open("rb"),
        packed.path,
        packed.digest.text,
        packed.size,
        packed.files,
        values,
    )


def _only_environment(spec: Spec) -> str:
    names = list(spec.environments)
    if len(names) == 1:
        return names[0]
    raise Invalid("--env", "", "one of " + ", ".join(names))


def _with_strategy(data: dict[str, Any], environment: str, strategy: str) -> dict[str, Any]:
    """The configuration with another strategy for this deployment; what the file says of that kind is kept."""
    if strategy not in ("blue-green", "canary"):
        raise Invalid("--strategy", strategy, "blue-green or canary")
    mine = data["environments"][environment]
    given = mine.get("strategy") or data.get("strategy") or {}
    if given.get("kind", "blue-green") == strategy:
        return data
    fresh: dict[str, Any] = {"kind": strategy}
    if strategy == "canary":
        fresh["steps"] = [{"weight": f"{share}%", "duration": "30s"} for share in (5, 25, 50)]
    if given.get("limits"):
        fresh["limits"] = given["limits"]
    return data | {"environments": data["environments"] | {environment: mine | {"strategy": fresh}}}


def _read_env_file(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise NotFound(f"env_file {path} cannot be read: {error}.") from error


def _build(command: tuple[str, ...] | list[str], root: Path) -> None:
    try:
        done = subprocess.run(list(command), cwd=root, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except OSError as error:
        raise Refused(f"build.command cannot be run: {error}.") from error
    if done.returncode:
        said = (done.stdout + done.stderr).decode("utf-8", "replace").splitlines()[-20:]
        lines = "\n".join(f"  {line}" for line in said) or "  (it wrote nothing)"
        raise Refused(f"build.command exited with {done.returncode}:\n{lines}")


# --- the doctor


def doctor(state: Path) -> list[dict[str, Any]]:
    """Check the installation part by part; never raises for what it finds."""
    from crossfade.routers.haproxy import binary, version
    from crossfade.runtimes.supervisor import Supervisor

    supervisor = Supervisor(state)

    def python() -> str:
        return f"Python {sys.version.split()[0]}, Crossfade {__version__}"

    def folder() -> str:
        prepare(state)
        probe = state / f".doctor-{os.getpid()}"
        probe.write_bytes(b"x")
        probe.unlink()
        return f"{state} is writable"

    def space() -> str:
        usage = shutil.disk_usage(state)
        shown = f"{usage.free / 1e9:.1f} GB free of {usage.total / 1e9:.1f} GB"
        if usage.free < 500e6:
            raise StorageFailed(f"only {shown}", hint="Free some space: a full disk stops every deployment.")
        return shown

    def permissions() -> str:
        for name in ("token", "key"):
            mode = (state / name).stat().st_mode & 0o777
            if mode & 0o077:
                raise Refused(f"{name} has mode {mode:o}", hint=f"chmod 600 {state / name}")
        return "token and key are readable by their owner only"

    def proxy() -> str:
        return f"HAProxy {version()} at {binary()}"

    def supervision() -> str:
        if not supervisor.running():
            raise Unavailable("the supervisor is not running", hint="`crossfade up` starts it.")
        return f"supervisord is up (pid {supervisor.pid()})"

    def program(name: str) -> Callable[[], str]:
        def look() -> str:
            found = supervisor.states().get(name)
            if found is None or not found.alive:
                raise Unavailable(f"the {name} is not running", hint="`crossfade up` starts it; see the logs folder.")
            again = f", restarted {found.restarts} times" if found.restarts else ""
            return f"the {name} is up (pid {found.pid}){again}"

        return look

    def api() -> str:
        url = _server(state)
        if url is None:
            raise Unavailable("the API does not answer", hint=f"See {state / 'logs' / 'server.log'}.")
        return f"the API answers on {url}"

    def ledger() -> str:
        import sqlite3

        path = state / "crossfade.db"
        if not path.exists():
            return "no ledger yet"
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)
        try:
            said = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        finally:
            connection.close()
        if said != "ok":
            raise StorageFailed(f"the ledger is damaged: {said}", hint="Restore crossfade.db from a backup.")
        return f"the ledger is sound ({path.stat().st_size / 1e3:.0f} kB)"

    checks: list[tuple[str, Callable[[], str]]] = [
        ("program", python),
        ("state folder", folder),
        ("disk", space),
        ("secrets", permissions),
        ("edge binary", proxy),
        ("supervisor", supervision),
        ("edge", program("edge")),
        ("server", program("server")),
        ("API", api),
        ("ledger", ledger),
    ]
    return [_examined(name, check) for name, check in checks]


def _examined(name: str, check: Callable[[], str]) -> dict[str, Any]:
    try:
        return {"check": name, "ok": True, "found": check(), "hint": ""}
    except CrossfadeError as error:
        return {"check": name, "ok": False, "found": error.what, "hint": error.hint}
    except Exception as error:  # noqa: BLE001 - a check that breaks is a finding, not a crash
        return {"check": name, "ok": False, "found": f"{type(error).__name__}: {error}", "hint": ""}
