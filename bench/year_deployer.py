"""``python -m bench.year_deployer FOLDER WAY RELEASE``: what deploys in the three peers' ways of ``bench.year``.

Stop-and-start, rolling restart and blue-green without a judge, as a careful team scripts them. A process of its own, which
can be killed; run again it goes on from what it finds. It imports little, so that a deployment does not wait for it.
Exit 0 deployed, 1 the release did not become healthy.
"""

from __future__ import annotations

import csv
import http.client
import json
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.year_schedule import Fault, Release
from crossfade.runtimes.supervisor import Program, Supervisor

APP: Final = Path(__file__).with_name("year_app.py")
REPLICAS: Final = 3
DRAIN_WITHIN: Final = 2.0
"""Seconds for requests under way to end, in all ways that drain."""
SLOTS: Final = ("blue", "green")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a way works: its folder, the ports of its edge and its replicas, its database.

    ``start``: seconds that a replica takes to start; ``within``: those after which a release counts as unhealthy.
    """

    folder: str
    port: int
    replicas: Mapping[str, list[int]]
    database: str
    start: float
    within: float


class Fleet:
    """A proxy and the replicas behind it, under a supervisor; what a deployer finds and changes."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.folder = Path(place.folder)
        self.supervisor = Supervisor(self.folder)
        self.socket = self.folder / "run" / "edge.sock"
        self.map = self.folder / "active.map"

    @classmethod
    def at(cls, folder: Path) -> Fleet:
        """The one that `build` has made there."""
        return cls(Place(**json.loads((folder / "place.json").read_text())))

    @property
    def active(self) -> str:
        """The slot that has the traffic; always blue where there is no other."""
        return self.map.read_text().split()[1]

    def activate(self, slot: str, *, tell: bool = True) -> None:
        """All traffic to a slot: on disk first, as Crossfade does."""
        beside = self.map.with_suffix(".new")
        beside.write_text(f"active {slot}\n")
        beside.replace(self.map)
        if tell:
            self.ask(f"set map {self.map} active {slot}")

    def programs(self, slot: str, release: Release) -> list[Program]:
        """The replicas of a release in a slot."""
        env = {**release.env, "DATABASE": self.place.database, "START": f"{self.place.start:g}"}
        command = (sys.executable, "-I", "-S", str(APP))
        return [
            Program(f"{slot}-{k}", command, self.folder, {**env, "PORT": str(port)}, 2.0)
            for k, port in enumerate(self.place.replicas[slot], 1)
        ]

    def healthy(self, program: Program) -> bool:
        """Whether a replica answers its health check, and as the release that it should be."""
        connection = http.client.HTTPConnection("127.0.0.1", int(program.env["PORT"]), timeout=2)
        try:
            connection.request("GET", "/health")
            answer = connection.getresponse()
            return answer.status == 200 and answer.headers["X-Version"] == program.env["VERSION"]
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def in_traffic(self, program: Program) -> bool:
        """Whether the proxy sends requests to a replica, or would if its slot had the traffic."""
        return self.rows()[program.name]["status"].startswith("UP")

    def ask(self, command: str) -> str:
        """A command to the proxy, and its answer. Raises OSError."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10)
            connection.connect(str(self.socket))
            connection.sendall(command.encode() + b"\n")
            said = b""
            while chunk := connection.recv(65536):
                said += chunk
        return said.decode()

    def rows(self) -> dict[str, dict[str, str]]:
        """What the proxy says of each server; nothing while it does not answer."""
        try:
            lines = self.ask("show stat").lstrip("# ").splitlines()
        except OSError:
            return {}
        return {row["svname"]: row for row in csv.DictReader(lines)}


class Unhealthy(Exception):
    """The release did not pass its health checks in time."""


def _await(holds: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _all(hold: Callable[[Program], bool], programs: Sequence[Program], seconds: float) -> bool:
    return _await(lambda: all(map(hold, programs)), seconds)


def stop_and_start(fleet: Fleet, release: Release) -> None:
    """Stop all, start all. Raises Unhealthy."""
    programs = fleet.programs("blue", release)
    fleet.supervisor.ensure(programs)  # those that run otherwise are stopped first, all at the same time
    if not _all(fleet.healthy, programs, fleet.place.within):
        raise Unhealthy


def rolling(fleet: Fleet, release: Release) -> None:
    """One replica after the other. Raises Unhealthy, and stops there."""
    for program in fleet.programs("blue", release):
        if not (fleet.healthy(program) and fleet.in_traffic(program)):  # else a deployer before this one has done it
            _replace(fleet, program)


def _replace(fleet: Fleet, program: Program) -> None:
    """Drained, replaced, healthy, back into traffic. Raises Unhealthy."""
    fleet.ask(f"set server blue/{program.name} state drain")
    _await(lambda: fleet.rows()[program.name]["scur"] == "0", DRAIN_WITHIN)
    fleet.supervisor.ensure([program])
    if not _await(lambda: fleet.healthy(program), fleet.place.within):
        raise Unhealthy
    fleet.ask(f"set server blue/{program.name} state ready")
    _await(lambda: fleet.in_traffic(program), fleet.place.within)


def blue_green(fleet: Fleet, release: Release) -> None:
    """Start it beside the old one, and switch when all is healthy. The old one stays warm. Raises Unhealthy.

    A return to what is warm is a switch alone.
    """
    slot = SLOTS[1 - SLOTS.index(fleet.active)]
    if fleet.supervisor.states() and all(map(fleet.healthy, fleet.programs(fleet.active, release))):
        return  # it is live
    programs = fleet.programs(slot, release)
    if not all(map(fleet.healthy, programs)):
        fleet.supervisor.ensure(programs)
    for ready in (fleet.healthy, fleet.in_traffic):
        if not _all(ready, programs, fleet.place.within):
            raise Unhealthy
    fleet.activate(slot)


WAYS: Final[Mapping[str, Callable[[Fleet, Release], None]]] = {
    "stop-and-start": stop_and_start,
    "rolling": rolling,
    "blue-green": blue_green,
}


def _release(text: str) -> Release:
    facts = json.loads(text)
    return Release(**{**facts, "fault": Fault(facts["fault"])})


def main() -> int:
    """``FOLDER WAY RELEASE``."""
    folder, way, release = sys.argv[1:]
    try:
        WAYS[way](Fleet.at(Path(folder)), _release(release))
    except Unhealthy:
        return 1
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Exception as error:  # noqa: BLE001 - whatever it is, 1 must go on meaning what it means
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2)
