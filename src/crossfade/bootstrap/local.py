"""A pipeline run in the folder as it is, without a server: verification before one commits, and nothing is deployed."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from crossfade.bootstrap.project import config_path
from crossfade.domain.errors import Invalid, NotFound, Refused

if TYPE_CHECKING:
    from crossfade.domain.pipeline.plan import Commit, Pipeline
    from crossfade.domain.pipeline.run import Run
    from crossfade.ports.pipeline import Relation

LOCAL: Final = ("commit", "integration")
"""Stages that deploy nothing."""

Show = Callable[[Mapping[str, Any]], None]


class WorkTree:
    """`ports.pipeline.Repositories` in which every commit is the folder as it was when the run began."""

    def __init__(self, folder: Path, kept: Path, git: Any) -> None:
        self._folder, self._git = folder, git
        self._kept = kept / "snapshot"
        self.state: Commit = git.snapshot(folder, self._kept)

    def fetch(self, repository: str, secret: str = "") -> None:
        """Nothing is to be had from elsewhere."""

    def commit(self, repository: str, ref: str) -> Commit:
        return self.state

    def relation(self, repository: str, one: str, other: str) -> Relation:
        found: Relation = self._git.relation(str(self._folder), one, other)
        return found

    def checkout(self, repository: str, commit: str, folder: Path) -> None:
        shutil.copytree(self._kept, folder, symlinks=True)

    def snapshot(self, work_tree: Path, folder: Path) -> Commit:
        found: Commit = self._git.snapshot(work_tree, folder)
        return found

    def remove(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)

    def changed(self, repository: str, base: str, commit: str) -> Mapping[str, frozenset[int]]:
        found: Mapping[str, frozenset[int]] = self._git.changed(str(self._folder), base, commit)
        return found

    def file(self, repository: str, commit: str, path: str) -> bytes | None:
        if commit == self.state.id:
            place = self._kept / path
            inside = place.resolve().is_relative_to(self._kept.resolve())
            return place.read_bytes() if inside and place.is_file() else None
        found: bytes | None = self._git.file(str(self._folder), commit, path)
        return found


def outline(folder: Path) -> dict[str, Any]:
    """What the pipeline of a folder consists of. Raises InvalidConfig, NotFound."""
    from crossfade.spec.loader import load

    path = config_path(folder)
    pipeline = load(path).for_pipeline()
    if pipeline is None:
        raise NotFound(f"{path} has no pipeline.", hint="`crossfade init` proposes one.")
    return {
        "service": pipeline.service,
        "branches": list(pipeline.branches),
        "stages": [
            {
                "name": stage.name.value,
                "environment": stage.environment or None,
                "services": {service.name: service.kind.value for service in stage.services},
                "nodes": [
                    {"name": node.name, "kind": node.kind.value, "needs": list(node.needs)} for node in stage.nodes
                ],
            }
            for stage in pipeline.stages
        ],
    }


def run_local(folder: Path, stages: Sequence[str], show: Show, by: str = "local") -> dict[str, Any]:
    """Run stages of the pipeline on the folder as it is, with its uncommitted changes; ``show`` gets the run as it goes.

    Returns the run as data; ``logs`` names the folder that keeps its logs. Raises InvalidConfig, Invalid, NotFound, Refused.
    """
    from crossfade.bootstrap.pipelines import compose_pipelines, describe, make_works
    from crossfade.bootstrap.state import make_parts, prepare, read_config
    from crossfade.domain.access import Grant, Role
    from crossfade.domain.pipeline.run import RunPlan
    from crossfade.repositories.git import Git
    from crossfade.service import Service

    path = config_path(folder).absolute()
    wanted = tuple(stages) or LOCAL
    for stage in wanted:
        if stage not in LOCAL:
            raise Invalid("stage", stage, f"{' or '.join(LOCAL)}: a local run deploys nothing")
    state = Path(tempfile.mkdtemp(prefix="cf-", dir="/tmp"))
    kept = Path(tempfile.mkdtemp(prefix="crossfade-run-"))
    try:
        prepare(state)
        parts = make_parts(state)
        root = _root(path.parent)
        tree = WorkTree(root, kept, Git(state / "repositories"))
        works = make_works(state, parts, repositories=tree)
        service = Service(parts, _NoRollouts(), read_config)
        conductor = compose_pipelines(parts, works, service)
        place = path.relative_to(root).as_posix()
        content = tree.file("", tree.state.id, place)
        if content is None:
            raise NotFound(f"{path} is ignored by git: a run would not have it.", hint="Let git see it.")
        inside = path.parent.relative_to(root)
        described = describe(content, place, lambda name: tree.file("", tree.state.id, (inside / name).as_posix()))
        if described.pipeline is None:
            raise NotFound(f"{path} has no pipeline.", hint="`crossfade init` proposes one.")
        pipeline = _only(described.pipeline, wanted)
        plan = RunPlan(
            pipeline,
            str(root),
            tree.state,
            "local",
            "local",
            by,
            "local",
            (Grant(Role.ADMIN),),
            time.time(),
            described.config,
            described.build,
            "",
            place,
        )
        run = works.runs.add_run(plan)
        conductor.start()
        try:
            data = _follow(service, run, show)
        finally:
            conductor.stop()
        shutil.move(str(works.folder / str(run.id)), kept / "logs")
        return {**data, "logs": str(kept / "logs")}
    finally:
        shutil.rmtree(state, ignore_errors=True)
        shutil.rmtree(kept / "snapshot", ignore_errors=True)


def _follow(service: Any, run: Run, show: Show) -> dict[str, Any]:
    while True:
        data: dict[str, Any] = service.runs.run(run.id)
        show(data)
        if data["ended"]:
            return data
        time.sleep(0.2)


def _only(pipeline: Pipeline, stages: Sequence[str]) -> Pipeline:
    """The pipeline with some of its stages. The artifact is always made: later stages want it."""
    found = tuple(stage for stage in pipeline.stages if stage.name.value in stages or stage.name.value == LOCAL[0])
    if not found:
        raise Refused(f"The pipeline has no stage {' or '.join(stages)}.", hint="A local run deploys nothing.")
    return replace(pipeline, stages=found)


def _root(folder: Path) -> Path:
    """The top of the work tree that a folder is in. Raises NotFound."""
    for place in (folder, *folder.parents):
        if (place / ".git").exists():
            return place
    raise NotFound(f"{folder} is in no git repository.", hint="`git init` makes one: a run is of a commit.")


class _NoRollouts:
    """The engine of a run that deploys nothing."""

    def drive(self, rollout: int) -> None:
        raise Refused("A local run deploys nothing.")

    def ring(self) -> None: ...
