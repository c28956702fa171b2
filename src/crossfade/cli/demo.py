"""`crossfade demo`: the bookshop under open-loop load, through a good and a bad release and back.

Everything happens in a folder of its own under the temporary folder, on free ports, and is gone at the end.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from crossfade import bootstrap
from crossfade.cli import follow, show
from crossfade.cli.client import Client, Data
from crossfade.domain.errors import NotFound, Unavailable

NAME = "01-bookshop"
WHO = "demo"
PATHS = ("/", "/books/{1-48}@4", "/search?q=the", "/api/books", "/cart", "POST /api/checkout@0.2")
"""The mix of pages; `/books/` is where the bad version shows."""

CANARY = {
    "kind": "canary",
    "steps": [{"weight": share, "duration": "5s"} for share in ("5%", "25%", "50%")],
    # Far from what is to be found: what fails here, the judge finds by comparing both releases.
    "limits": {"error_rate": "50%", "min_requests": 25},
}
BLUE_GREEN = {"kind": "blue-green", "watch": "3s", "limits": {"error_rate": "2%", "min_requests": 25}}


@dataclass
class Act:
    """One thing that is shown: what is done, what should come of it, what came of it."""

    title: str
    expected: str
    receipt: Data = field(default_factory=dict)

    @property
    def as_expected(self) -> bool:
        return self.receipt.get("outcome") == self.expected


def example() -> Path:
    """The folder of the bookshop. Raises NotFound."""
    here = Path(__file__).resolve()
    for folder in (here.parents[3] / "examples" / NAME, here.parents[1] / "examples" / NAME):
        if (folder / bootstrap.CONFIG_NAME).is_file():
            return folder
    raise NotFound("The bookshop example is not here.", hint="Run the demo from a clone: make demo.")


def run(console: Console, rate: int, keep: bool, as_json: bool) -> bool:
    """Play the whole demo; True when every act ended as it should and no switch dropped a request."""
    stage = Stage(console if not as_json else Console(stderr=True, quiet=True), rate)
    try:
        acts, load = stage.play()
    except KeyboardInterrupt:
        console.print("\nStopped.")
        return False
    finally:
        if keep:
            console.print(f"Left running: --state {stage.state}; `crossfade --state {stage.state} down` ends it.")
        else:
            stage.close()
    lost = broken(load)
    dropped = sum(int(act.receipt.get("dropped_by_switch", 0)) for act in acts)
    good = all(act.as_expected for act in acts) and not dropped and not lost
    if as_json:
        summary = {k: v for k, v in load.items() if k not in ("slices", "failures", "examples")}
        document = {"ok": good, "receipts": [act.receipt for act in acts], "dropped": dropped, "load": summary}
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    else:
        _sum_up(console, acts, load, dropped, lost)
    return good


def broken(load: Mapping[str, Any]) -> dict[str, int]:
    """The failures that no application answered: connections refused, broken or timed out. By kind."""
    return {kind: n for kind, n in load.get("by_kind", {}).items() if not kind.startswith("status-")}


class Stage:
    """A state folder, a copy of the bookshop, and a load."""

    def __init__(self, console: Console, rate: int) -> None:
        self.console = console
        self.rate = rate
        self.state = Path(tempfile.mkdtemp(prefix="cf-demo-"))
        self.project = self.state / "bookshop"
        self.edge_port = _free_port()
        self._load: _Load | None = None

    def close(self) -> None:
        """Stop everything that the demo started, and remove its folder."""
        if self._load is not None:
            self._load.stop()
        try:
            bootstrap.down(self.state, False, lambda _: None)
        finally:
            shutil.rmtree(self.state, onerror=_make_removable)

    def play(self) -> tuple[list[Act], dict[str, Any]]:
        """All acts in order; what came of each, and what the load saw."""
        self._copy_bookshop()
        self._title("A bookshop on one machine: edge, server, two replicas of each release")
        with self._busy("starts the edge and the server"):
            bootstrap.up(self.state, "127.0.0.1", _free_port(), lambda _: None)
        client = Client.of(self.state)
        client.introduce(WHO)
        url = f"http://127.0.0.1:{self.edge_port}"
        self.console.print(f"The shop on {url}, the API on {client.url}.", highlight=False)
        link = client.new_link("viewer", WHO)["url"]
        self.console.print(f"See it live (the link logs in once): {link}\n", highlight=False, soft_wrap=True)

        acts = [self._deploy(client, "v1", BLUE_GREEN, "the first release", "promoted", brief=True)]
        self._load = _Load(url, self.rate, self.state / "load.json")
        self.console.print(f"From here on {self.rate} requests/s arrive on schedule, from 100 users.\n")
        time.sleep(3)
        acts.append(self._deploy(client, "v2", CANARY, "a good release, as a canary", "promoted"))
        acts.append(self._deploy(client, "v3", CANARY, "a bad release that passes its health check", "rolled-back"))
        acts.append(self._deploy(client, "v1", BLUE_GREEN, "a blue-green switch", "promoted"))
        acts.append(self._roll_back(client))
        with self._busy("ends the load"):
            time.sleep(1)
            load = self._load.stop()
        self.console.print(show.releases(client.releases("bookshop/production")))
        return acts, load

    # --- the acts

    def _deploy(
        self, client: Client, version: str, strategy: dict[str, Any], what: str, expected: str, brief: bool = False
    ) -> Act:
        act = Act(f"{version}, {what}", expected)
        self._title(f"crossfade deploy --label {version}   # {what}")
        self._configure(strategy)
        os.environ["BOOKSHOP_VERSION"] = version
        with bootstrap.package(self.project, "production", None, lambda _: None) as package:
            client.upload(package.file, package.digest)
            state = client.deploy(package.request(version, WHO))
        return self._see_through(client, state, act, brief)

    def _roll_back(self, client: Client) -> Act:
        act = Act("rollback by hand", "promoted")
        self._title("crossfade rollback   # by hand, to the release before")
        return self._see_through(client, client.rollback("bookshop/production", None, WHO), act, False)

    def _see_through(self, client: Client, state: Data, act: Act, brief: bool) -> Act:
        if self.console.quiet:
            follow.silently(client, state["id"])
        else:
            follow.live(self.console, client, state["id"])
        with self._busy("looks at what clients see after the end"):
            act.receipt = follow.receipt(client, state["id"])
        if not brief:
            self.console.print(show.receipt({**act.receipt, "steps": []}))
        self.console.print()
        return act

    # --- the stage

    def _copy_bookshop(self) -> None:
        shutil.copytree(example(), self.project, ignore=shutil.ignore_patterns("build", "__pycache__", "*.db*"))

    def _configure(self, strategy: dict[str, Any]) -> None:
        """The bookshop's own configuration, with the ports, paths and short times of the demo."""
        data = bootstrap.config_data(example() / bootstrap.CONFIG_NAME)
        run = data["run"]
        run["command"] = [sys.executable if part.startswith("python") else part for part in run["command"]]
        run["env"] = {**run.get("env", {}), "DATABASE": str(self.state / "bookshop.db")}
        production = data["environments"]["production"]
        production = {"port": self.edge_port, "replicas": 2, "strategy": strategy} | {
            key: value for key, value in production.items() if key in ("runtime", "bind")
        }
        data |= {"environments": {"production": production}, "drain": {"timeout": "5s"}}
        build = data.get("build", {})
        if build.get("command"):
            build["command"] = [sys.executable if part.startswith("python") else part for part in build["command"]]
        (self.project / bootstrap.CONFIG_NAME).write_text(json.dumps(data, indent=2))

    def _title(self, text: str) -> None:
        self.console.print(Text(f"$ {text}" if text.startswith("crossfade") else text, style="bold"))

    @contextmanager
    def _busy(self, what: str) -> Iterator[None]:
        if self.console.is_terminal and not self.console.quiet:
            with self.console.status(what):
                yield
        else:
            yield


class _Load:
    """The load generator in a process of its own, so that it measures the edge and not this program."""

    def __init__(self, url: str, rate: int, result: Path) -> None:
        self._result = result
        command = [sys.executable, "-m", "crossfade.load", "--url", url, "--rate", str(rate), "--duration", "10m"]
        command += ["--paths", *PATHS, "--users", "100", "--record-header", "X-Bookshop-Version", "--resend"]
        command += ["--sse", "/feed@3", "--progress", "0", "--json", str(result)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def stop(self) -> dict[str, Any]:
        """End the load; its result, empty when it left none."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        try:
            data: dict[str, Any] = json.loads(self._result.read_text())
        except (OSError, ValueError):
            return {"requests": 0, "by_kind": {"no-result": 1}}
        return data


def _sum_up(console: Console, acts: list[Act], load: Mapping[str, Any], dropped: int, lost: Mapping[str, int]) -> None:
    table = Table(box=None, padding=(0, 1), header_style="dim")
    for name in ("", "outcome", "took", "exposed", "failed", "dropped"):
        table.add_column(name, justify="left" if name in ("", "outcome") else "right", no_wrap=True)
    for act in acts:
        receipt = act.receipt
        mark = Text(receipt.get("outcome", "?"), style="green" if act.as_expected else "bold red")
        exposed = receipt.get("exposed", {"requests": 0, "failed": 0})
        took = f"{receipt.get('duration') or 0:.1f} s"
        counts = (str(exposed["requests"]), str(exposed["failed"]), str(receipt.get("dropped_by_switch", 0)))
        table.add_row(act.title, mark, took, *counts)
    console.print(table)
    latency = load.get("latency", {})
    versions = ", ".join(f"{name} {group['requests']}" for name, group in load.get("by_header", {}).items() if name)
    console.print(
        f"\nClients sent {load.get('requests', 0)} requests on schedule ({versions}); "
        f"p50 {latency.get('p50_ms') or 0:.3g} ms, p99 {latency.get('p99_ms') or 0:.3g} ms from the intended start.",
        highlight=False,
    )
    for reason in load.get("void", []):
        console.print(f"The latencies mean little: {reason}.", style="yellow", highlight=False)
    own = load.get("failed", 0) - sum(lost.values())
    if load.get("resent"):
        console.print(f"{load['resent']} requests met a closed kept connection and were sent again, as browsers do.")
    console.print(f"{own} answers were errors of the application itself (v3).", highlight=False)
    words = ", ".join(f"{n} {kind}" for kind, n in lost.items()) or "none"
    verdict = Text("Requests lost on the way: ").append(words, style="green" if not lost else "bold red")
    console.print(
        verdict.append("; dropped by a switch: ").append(str(dropped), style="green" if not dropped else "red")
    )


def _free_port() -> int:
    """Below the ports of outgoing connections: the demo's own load could take one of those before the edge does."""
    for port in random.sample(range(10_000, 20_000), k=500):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise Unavailable("No free port on 127.0.0.1 from 10000 to 19999.", hint="End what listens there.")


def _make_removable(function: Callable[[str], object], path: str, _: object) -> None:
    """Artifacts are read-only folders."""
    for folder in (Path(path).parent, Path(path)):
        if folder.is_dir():
            folder.chmod(0o700)
    try:
        function(path)
    except OSError:
        return
