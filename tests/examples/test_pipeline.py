"""The bookshop's whole pipeline: a push brings a good commit to production, and seven faults are stopped where they belong."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from tests.e2e.installation import Installation, Load, until
from tests.engine.pipelines import GIT, node
from tests.free_port import free_port

EXAMPLE = Path(__file__).parents[2] / "examples" / "02-pipeline"


class Fault(NamedTuple):
    """Where a fault is stopped, and words that its message must have."""

    stage: str
    node: str
    words: tuple[str, ...]


FAULTS = {
    "bad-format": Fault("commit", "format", ("shop/catalogue.py",)),
    "low-coverage": Fault("commit", "covered", ("79.", "80", "shop/loyalty.py")),
    "security-finding": Fault("commit", "secure", ("S602", "shop/receipts.py", "8")),
    "breaking-api": Fault("integration", "contract", ("price", "GET /books")),
    "slow-query": Fault("integration", "compare", ("p50", "%")),
    "broken-flow": Fault("staging", "smoke", ("buy a book", "order it", "409")),
    "errors-at-peak": Fault("staging", "load", ("error", "%")),
}


class World:
    """An installation, a bare repository with the hook, and a work tree that pushes into it."""

    def __init__(self, shop: Installation, folder: Path) -> None:
        self.shop, self.bare, self.work = shop, folder / "bookshop.git", folder / "work"
        shutil.copytree(EXAMPLE, self.work, ignore=shutil.ignore_patterns("faults", "*.patch", "__pycache__"))
        config = self.work / "crossfade.yaml"
        self.port = shop.port
        text = (
            config.read_text().replace("port: 8091", f"port: {self.port}").replace("port: 8090", f"port: {free_port()}")
        )
        config.write_text(text)
        self.git("init", "-q", "--bare", str(self.bare), cwd=folder)
        self.git("init", "-q")
        self.git("remote", "add", "origin", str(self.bare))
        shop.run("sources", "add", "bookshop", str(self.bare))
        shop.run("hook", "install", str(self.bare), "--service", "bookshop")

    def git(self, *words: str, cwd: Path | None = None) -> str:
        done = subprocess.run([*GIT, *words], cwd=cwd or self.work, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def commit(self, subject: str) -> None:
        self.git("add", "-A")
        self.git("commit", "-q", "-m", subject)

    def push(self, branch: str) -> int:
        """The number of the run that the push has begun, as the hook tells who pushes."""
        said = self.git("push", "-q", "origin", f"HEAD:refs/heads/{branch}")
        assert "run #" in said, said
        return int(said.split("run #")[1].split()[0])

    def ended(self, run: int, seconds: float = 600) -> dict[str, Any]:
        found = until(
            lambda: data if (data := self.shop.client().run(run))["ended"] else None, seconds, f"the end of run #{run}"
        )
        return dict(found)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    # Steps find the tools of the interpreter that runs the tests: ruff, pytest, coverage.
    with pytest.MonkeyPatch.context() as patch, Installation() as shop:
        patch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
        shop.up()
        yield World(shop, tmp_path_factory.mktemp("bookshop"))


def failures(run: dict[str, Any]) -> list[str]:
    return [
        f"{stage['name']}: {one['name']}: {one['sentence']} {one['details'][:5]}"
        for stage in run["stages"]
        for one in stage["nodes"]
        if one["status"] == "failed"
    ]


@pytest.mark.timeout(1800)
def test_a_push_brings_a_good_commit_to_production_and_seven_faulty_branches_are_stopped(world: World) -> None:
    world.commit("The bookshop opens")
    first = world.ended(world.push("main"))
    assert first["status"] == "passed", failures(first)
    assert [stage["status"] for stage in first["stages"]] == ["passed"] * 4
    assert "nothing to compare" in node(first, "integration", "compare")["sentence"]
    live = world.shop.client().environment("bookshop/production")
    with Load(world.port, path="/health", clients=2, pause=0.02) as load:
        ended: dict[str, dict[str, Any]] = {}
        # Stage by stage: seven runs at once would measure each other on a machine with two cores.
        for stage in ("commit", "integration", "staging"):
            runs = {}
            for name in (name for name, fault in FAULTS.items() if fault.stage == stage):
                world.git("checkout", "-q", "-b", name, "main")
                world.git("apply", str(EXAMPLE / "faults" / f"{name}.patch"))
                world.commit(name)
                runs[name] = world.push(f"try/{name}")
            ended |= {name: world.ended(run, 600) for name, run in runs.items()}
        for name, fault in FAULTS.items():
            run = ended[name]
            assert run["status"] == "failed", (name, run["reason"])
            stopped = next(stage["name"] for stage in run["stages"] if stage["status"] == "failed")
            assert stopped == fault.stage, (name, failures(run))
            found = node(run, fault.stage, fault.node)
            said = f"{found['sentence']} {' '.join(found['details'])}"
            assert found["status"] == "failed" and all(word in said for word in fault.words), (name, said)
            others = [line for line in failures(run) if not line.startswith(f"{fault.stage}: {fault.node}:")]
            # A real browser cannot buy a book either, where the flow over HTTP cannot.
            assert others == [] or (name == "broken-flow" and all("browser" in line for line in others)), (name, others)
        assert world.shop.client().environment("bookshop/production")["live"] == live["live"]
        world.git("checkout", "-q", "main")
        world.git("apply", str(EXAMPLE / "good.patch"))
        world.commit("Say how fast we are")
        good = world.ended(world.push("main"))
        assert good["status"] == "passed", failures(good)
        assert "p50" in node(good, "integration", "compare")["sentence"]
    assert load.seen.broken == [] and set(load.seen.statuses) == {200}
    assert "sent the same day" in world.shop.get("/")[2]
    release = world.shop.client().environment("bookshop/production")["live"]
    assert release is not None
    assert world.shop.json("verify", release, "--env", "bookshop/production")["ok"]
    stream = world.shop.json("stream", "bookshop")
    assert stream["summary"]["deployments"] == 2 and stream["summary"]["lead_median"] > 0
    assert left(world) == []


def left(world: World) -> list[str]:
    found = [
        str(path) for path in (world.shop.state / "runs").glob("*/*/*") if path.name in ("tree", "build", "services")
    ]
    for process in psutil.process_iter():
        try:
            env = process.environ()  # another worker's steps are its own affair
            if env.get("CROSSFADE_OWNER", "").startswith("run-") and str(world.shop.state) in str(env):
                found.append(str(process))
        except psutil.Error:
            continue
    return found
