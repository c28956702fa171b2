"""SIGKILL of the server at every boundary of a run: the run comes to its end all the same, and nothing is left over."""

from __future__ import annotations

import time
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from crossfade.domain import actions
from crossfade.domain.errors import CrossfadeError
from tests.e2e.installation import Installation, Load
from tests.e2e.test_crashes import Dying, dying
from tests.engine.pipelines import Repository, script
from tests.free_port import free_port

STAGES: dict[str, Any] = {
    "commit": {"steps": {"test": script("print('tested')")}},
    "integration": {"steps": {"api": script("print('tried')")}},
    "staging": {"environment": "staging", "smoke": [{"name": "home", "checks": [{"name": "home", "path": "/health"}]}]},
    "production": {"environment": "production"},
}
KINDS = {
    field.default
    for action in vars(actions).values()
    if isinstance(action, type) and is_dataclass(action)
    for field in fields(action)
    if field.name == "kind"
}
OF_ROLLOUTS = {f"{kind} {when}" for kind in (*KINDS, "done", "observed") for when in ("before", "done", "saved")}
"""The boundaries of rollouts, at which other tests kill the server."""


def configured(shop: Installation, repository: Repository, version: str) -> None:
    """The project as the installation's tests know it, with a pipeline."""
    shop.configure(
        version,
        environments={"staging": {"port": free_port()}, "production": {"port": shop.port}},
        pipeline={"stages": STAGES, "branches": ["main"]},
        continuity=[],
    )
    for name in ("app.py", "crossfade.yaml"):
        repository.write(name, (shop.project / name).read_text())
    repository.commit(version)


def follow(shop: Installation, server: Dying, run: int, seconds: float) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        server.tend()
        try:
            state = shop.json("runs", "show", str(run))
            if state["ended"]:
                return state
        except (CrossfadeError, AssertionError):
            pass  # it is down more often than up
        time.sleep(0.1)
    raise AssertionError(f"run #{run} has not ended after {seconds} s")


def begin(shop: Installation, server: Dying, id: int) -> None:
    """Have the run begin while the server keeps dying."""
    for _ in range(200):
        server.tend()
        if shop.run("run", "main", "--service", "shop", "--no-follow", check=False).returncode == 0:
            return
        server.tend()
        try:
            shop.client().run(id)
        except CrossfadeError:
            time.sleep(0.2)
        else:
            return  # it was taken, and the answer was lost


def left_of_runs(shop: Installation) -> list[str]:
    trees = [str(path) for path in (shop.state / "runs").glob("*/*/*") if path.name in ("tree", "build", "services")]
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("CROSSFADE_OWNER", "").startswith("run-") and str(shop.state) in str(
                process.environ()
            ):
                found.append(str(process))
        except psutil.Error:
            continue
    return trees + found


@pytest.mark.timeout(400)
def test_a_server_killed_at_every_boundary_of_a_run_brings_its_commit_to_production_and_leaves_nothing_behind(
    tmp_path: Path,
) -> None:
    record = tmp_path / "boundaries"
    record.write_text("\n".join(sorted(OF_ROLLOUTS)) + "\n")
    with Installation() as shop:
        shop.up()
        repository = Repository(tmp_path / "repository")
        configured(shop, repository, "v1")
        shop.run("sources", "add", "shop", str(repository.folder))
        first = shop.json("run", "main", "--service", "shop", "--follow")
        assert first["status"] == "passed", first
        configured(shop, repository, "v2")
        id = first["id"] + 1
        with Load(shop.port, clients=2, pause=0.02) as load, dying(shop, record, "kill") as server:
            begin(shop, server, id)
            run = follow(shop, server, id, 300)
            deaths = server.deaths
            boundaries = set(record.read_text().splitlines()) - OF_ROLLOUTS
            assert left_of_runs(shop) == []
        assert run["status"] == "passed", run["reason"]
        assert {stage["status"] for stage in run["stages"]} == {"passed"}
        assert deaths >= 15 and "production deploy has begun" in boundaries, boundaries
        releases = [stage["release"] for stage in run["stages"] if stage["release"]]
        assert len(set(releases)) == 2
        assert load.seen.broken == [] and set(load.seen.statuses) == {200}
        assert shop.version() == "v2"
