"""The adapters that pipelines work with, and how they are put together."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from crossfade.domain.errors import NotFound

if TYPE_CHECKING:
    from crossfade.domain.pipeline.run import Run
    from crossfade.domain.release import ReleaseConfig
    from crossfade.engine.conductor import Conductor
    from crossfade.ports import Parts
    from crossfade.ports.pipeline import Repositories, Works
    from crossfade.service import Service
    from crossfade.service.runs import Described

CACHE: Final = 5 * 2**30


class TarballPacker:
    """`ports.pipeline.Packer`, as artifacts are packed everywhere."""

    @contextmanager
    def pack(self, folder: Path, ignore: Sequence[str]) -> Iterator[BinaryIO]:
        """See the port."""
        from crossfade.store.artifacts import pack

        packed = pack(folder, ignore)
        try:
            with packed.path.open("rb") as tarball:
                yield tarball
        finally:
            packed.path.unlink(missing_ok=True)


def make_works(
    state: Path, parts: Parts, url: str = "", *, cache: int = CACHE, repositories: Repositories | None = None
) -> Works:
    """All adapters of pipelines of an installation. Raises StorageFailed.

    ``url`` is where people reach its dashboard, ``cache`` how many bytes of steps' results are kept.
    """
    from crossfade.gates import ReportGates
    from crossfade.notifiers import Notifiers
    from crossfade.ports.pipeline import Works
    from crossfade.repositories.git import Git
    from crossfade.runners.caches import FolderCaches
    from crossfade.runners.dependents import ProcessDependents
    from crossfade.runners.process import ProcessSteps
    from crossfade.store.runs import SqlRuns
    from crossfade.store.signing import FileSigner
    from crossfade.trials import HttpTrials

    steps = ProcessSteps(state)
    dependents = ProcessDependents(state, parts.prober, steps)
    return Works(
        runs=SqlRuns(f"sqlite:///{state / 'crossfade.db'}"),
        repositories=repositories or Git(state / "repositories"),
        steps=steps,
        dependents=dependents,
        caches=FolderCaches(state / "cache", cache),
        gates=ReportGates(),
        trials=HttpTrials(parts.prober, dependents),
        notifier=Notifiers(),
        signer=FileSigner(state),
        packer=TarballPacker(),
        folder=state / "runs",
        url=url,
    )


def run_config(run: Run, environment: str) -> ReleaseConfig:
    """What the `crossfade.yaml` of a run's commit says of an environment. Raises InvalidConfig, NotFound."""
    from crossfade.bootstrap.state import read_config

    return read_config(json.loads(run.plan.config), run.plan.service, environment)


def describe(content: bytes, place: str, file: Callable[[str], bytes | None]) -> Described:
    """What a commit's `crossfade.yaml` says; ``place`` is what problems call the file. Raises InvalidConfig.

    ``file`` gives other files of the commit, by their paths relative to this one; None for one that is not there.
    """
    from crossfade.domain.pipeline.run import Build
    from crossfade.service.runs import Described
    from crossfade.spec.loader import parse_bytes

    def named(path: str) -> bytes:
        found = file(path)
        if found is None:
            raise NotFound(f"The commit has no {path}.")
        return found

    spec = parse_bytes(content, place, named)
    secret = [file for name in spec.environments for file in spec.env_files(name)]
    build = Build(spec.build.command, spec.build.output, (*spec.build.ignore, *secret))
    wanting = tuple(name for name in spec.environments if spec.env_files(name))
    return Described(spec.for_pipeline(), json.dumps(spec.to_data()), build, wanting)


def compose_pipelines(
    parts: Parts,
    works: Works,
    service: Service,
    *,
    at_once: int = 2,
    on_boundary: Callable[[str], None] = lambda _: None,
) -> Conductor:
    """Give a service its pipelines; they run once the conductor is started. ``at_once`` runs verify side by side."""
    from crossfade.engine.conductor import Conductor
    from crossfade.service.deployments import Deployments
    from crossfade.service.runs import Runs

    deployments = Deployments(parts, works, service, run_config, on_boundary)
    conductor = Conductor(parts, works, deployments, run_config, slots=at_once, on_boundary=on_boundary)
    service.with_pipelines(Runs(parts, works, service.audit, conductor, describe))
    return conductor
