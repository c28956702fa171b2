"""Carries out the nodes of a stage: commands, gates, the artifact, trials. Each ends in an outcome, whatever happens."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Final, Protocol

from crossfade.domain.errors import CrossfadeError, NotFound, StorageFailed
from crossfade.domain.pipeline.plan import (
    Compare,
    Gate,
    GateKind,
    Load,
    Node,
    NodeKind,
    Outcome,
    SmokeFlow,
    Stage,
    StageName,
    Step,
)
from crossfade.domain.pipeline.queue import Ground
from crossfade.domain.pipeline.run import Deploying, Run
from crossfade.domain.release import ReleaseConfig
from crossfade.domain.values import Digest, EnvKey
from crossfade.ports import Parts
from crossfade.ports.pipeline import Before, Cancel, Contender, Ended, GateContext, How, Job, Place, Tell, Works

log = logging.getLogger("crossfade.workshop")

LOG_LINES: Final = 20
"""How many of a step's last lines a failure shows."""
LARGEST_KEPT_REPORT: Final = 1 << 20
BUILD_TIMEOUT: Final = 1800.0


class Deployer(Protocol):
    """Puts a run's artifact into an environment, and says what became of it."""

    def ground(self, run: Run, key: EnvKey) -> Ground:
        """What is known of an environment that the run would deploy to."""

    def deploy(
        self,
        run: Run,
        stage: Stage,
        note: Callable[[Deploying], None],
        waits: Callable[[str], None],
        tell: Tell,
        cancel: Cancel,
        ends: Cancel,
    ) -> Outcome | None:
        """Returns when the rollout has ended. None: it was cancelled before its rollout began, or the server ``ends``.

        ``note`` keeps how far it has come: called again after a crash, it goes on from there.
        """

    def attest(self, run: Run, digest: Digest) -> None:
        """Sign what is known of how the run has built an artifact, and keep it."""

    def url(self, key: EnvKey) -> str:
        """How this machine reaches the environment's edge. Raises NotFound."""


class Quiet:
    """Lets many work side by side, or one alone: a measurement is none while others keep the machine busy."""

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._working = 0
        self._alone = False
        self._wanting = 0

    @contextmanager
    def work(self, alone: bool, waits: Callable[[str], None], cancel: Cancel) -> Iterator[bool]:
        """Whether one may begin; False when it was cancelled first."""
        admitted = self._enter(alone, waits, cancel)
        try:
            yield admitted
        finally:
            if admitted:
                self._leave(alone)

    def _enter(self, alone: bool, waits: Callable[[str], None], cancel: Cancel) -> bool:
        told = False
        with self._change:
            self._wanting += alone
            try:
                while self._alone or (self._working if alone else self._wanting):
                    if cancel.is_set():
                        return False
                    if not told:
                        told = True
                        waits(
                            "waits until nothing else works on this machine, so that the measurement is fair"
                            if alone
                            else "waits for the end of a measurement, which wants the machine for itself"
                        )
                    self._change.wait(0.2)
                self._alone = alone
                self._working += not alone
            finally:
                self._wanting -= alone
                self._change.notify_all()
        if told:
            waits("")
        return True

    def _leave(self, alone: bool) -> None:
        with self._change:
            if alone:
                self._alone = False
            else:
                self._working -= 1
            self._change.notify_all()


@dataclass
class Bench:
    """Where one stage of a run is worked on. ``folder`` holds ``tree``, ``logs``, ``services`` and ``results``."""

    run: Run
    stage: Stage
    folder: Path
    cancel: threading.Event
    ends: threading.Event
    note: Callable[[Deploying], None]
    waits: Callable[[str, str], None]
    places: Mapping[str, Place] = field(default_factory=dict)

    @property
    def tree(self) -> Path:
        return self.folder / "tree"

    @property
    def root(self) -> Path:
        """The project's folder in the checkout."""
        return (self.tree / self.run.plan.place).parent

    @property
    def owner(self) -> str:
        return f"run-{self.run.id}"

    def log(self, node: str) -> Path:
        return self.folder / "logs" / f"{node}.log"

    def tell(self, node: str) -> Tell:
        """Appends lines of ours to a node's log."""

        def tell(text: str) -> None:
            try:
                with self.log(node).open("a", encoding="utf-8") as file:
                    file.write(f"crossfade: {text}\n")
            except OSError as error:
                raise StorageFailed(f"{self.log(node)} cannot be written: {error.strerror or error}.") from error

        return tell

    @cached_property
    def needs_tree(self) -> bool:
        kinds = {node.kind for node in self.stage.nodes}
        return bool(kinds & {NodeKind.COMMAND, NodeKind.GATE}) or any(s.command for s in self.stage.services)


class Workshop:
    """Does what the nodes of all runs say. ``config`` reads a run's `crossfade.yaml` for one environment."""

    def __init__(
        self, parts: Parts, works: Works, deployer: Deployer, config: Callable[[Run, str], ReleaseConfig]
    ) -> None:
        self._parts, self._works, self._deployer, self._config = parts, works, deployer, config
        self._quiet = Quiet()

    def perform(self, bench: Bench, node: Node) -> tuple[Outcome | None, Digest | None]:
        """Do one node: its outcome (None: it was cancelled), and the artifact that it has made. Never raises."""
        try:
            return self._perform(bench, node)
        except CrossfadeError as error:
            passing = error.code in ("unavailable", "storage-failed")
            return Outcome(False, str(error), infrastructure=passing), None
        except Exception as error:
            log.exception("node %s of run #%d", node.name, bench.run.id)
            return Outcome(False, f"failed unexpectedly: {error!r}", infrastructure=True), None

    def _perform(self, bench: Bench, node: Node) -> tuple[Outcome | None, Digest | None]:
        bench.log(node.name).parent.mkdir(parents=True, exist_ok=True)

        def waits(why: str) -> None:
            bench.waits(node.name, why)

        if node.kind is NodeKind.DEPLOY:
            tell, ends = bench.tell(node.name), bench.ends
            return self._deployer.deploy(bench.run, bench.stage, bench.note, waits, tell, bench.cancel, ends), None
        if isinstance(node.what, Gate):
            return self._gate(bench, node.name, node.what), None
        with self._quiet.work(node.kind in (NodeKind.COMPARE, NodeKind.LOAD), waits, bench.cancel) as admitted:
            if not admitted:
                return None, None
            match node.what:
                case Step() as step:
                    return self._step(bench, node.name, step), None
                case Compare() as compare:
                    return self._compare(bench, node.name, compare), None
                case Load() as load:
                    return self._load(bench, node.name, load), None
                case tuple() as flows:
                    return self._smoke(bench, node.name, flows), None
                case _:
                    return self._artifact(bench, node.name)

    # --- commands

    def _step(self, bench: Bench, name: str, step: Step) -> Outcome | None:
        secrets, missing = self._secrets(bench.run, step.secrets)
        if missing:
            return Outcome(
                False,
                f"the source of {bench.run.plan.service} has no secret {', '.join(missing)}",
                details=("crossfade sources add … --secret-file gives it some",),
            )
        folder = bench.root / step.folder
        if not folder.resolve().is_relative_to(bench.tree.resolve()) or not folder.is_dir():
            return Outcome(False, f"folder: {step.folder} is no folder of the checkout")
        key = ""
        env = self._env(bench, name) | dict(bench.stage.env) | dict(step.env)
        if step.cache is not None and not secrets:
            named = {variable: env.get(variable, "") for variable in step.cache.env}
            key = self._works.caches.key(step.command, bench.root, step.cache.inputs, named | dict(step.env))
            if self._works.caches.restore(key, bench.root):
                bench.tell(name)("nothing that it is made from has changed: the result is taken from the cache")
                return Outcome(True, "taken from the cache", cached=True)
        job = Job(
            f"{bench.owner}-{bench.stage.name}-{name}",
            bench.owner,
            step.command,
            bench.tree,
            folder,
            bench.log(name),
            env,
            secrets,
            step.timeout,
            step.memory,
            step.output,
            step.container,
        )
        ended = self._works.steps.run(job, bench.cancel)
        if ended.how is How.CANCELLED:
            return None
        flaky = False
        if step.retry and not _good(ended, step.exits) and not bench.cancel.is_set():
            bench.tell(name)(f"{ended.sentence}: tried once more")
            again = self._works.steps.run(job, bench.cancel)
            if again.how is How.CANCELLED:
                return None
            flaky, ended = _good(again, step.exits), again
        if _good(ended, step.exits):
            if key and step.cache is not None:
                self._works.caches.keep(key, bench.root, step.cache.outputs)
            more = "; it failed before: it is flaky" if flaky else ""
            left = f"; {ended.left} processes that it left behind were ended" if ended.left else ""
            return Outcome(True, ended.sentence + more + left, numbers=_facts(ended), flaky=flaky)
        return Outcome(
            False,
            ended.sentence,
            details=_last_lines(bench.log(name)),
            numbers=_facts(ended),
            infrastructure=ended.how is How.LOST,
        )

    def _env(self, bench: Bench, node: str) -> dict[str, str]:
        plan, state = bench.run.plan, bench.run.stage(bench.stage.name)
        env = {
            "CI": "true",
            "CROSSFADE_RUN": str(bench.run.id),
            "CROSSFADE_SERVICE": plan.service,
            "CROSSFADE_COMMIT": plan.commit.id,
            "CROSSFADE_BRANCH": plan.branch,
            "CROSSFADE_STAGE": bench.stage.name.value,
            "CROSSFADE_NODE": node,
        }
        if bench.run.artifact is not None:
            env["CROSSFADE_ARTIFACT"] = str(self._parts.artifacts.folder(bench.run.artifact))
        if bench.stage.environment:
            env["CROSSFADE_ENVIRONMENT"] = bench.stage.environment
            env["CROSSFADE_URL"] = self._deployer.url(EnvKey(plan.service, bench.stage.environment))
            if state.release is not None:
                env["CROSSFADE_RELEASE"] = str(state.release)
        for place in bench.places.values():
            env |= place.env
        return env

    def _secrets(self, run: Run, names: tuple[str, ...]) -> tuple[dict[str, str], list[str]]:
        if not names:
            return {}, []
        source = self._works.runs.source(run.plan.service)
        known = self._parts.secrets.get(source.secrets) if source is not None and source.secrets else {}
        return {name: known[name] for name in names if name in known}, [name for name in names if name not in known]

    # --- gates

    def _gate(self, bench: Bench, name: str, gate: Gate) -> Outcome:
        plan = bench.run.plan
        changed: Mapping[str, frozenset[int]] | None = None
        if gate.kind is GateKind.COVERAGE and plan.base:
            try:
                lines = self._works.repositories.changed(plan.repository, plan.base, plan.commit.id)
                changed = _within(PurePosixPath(plan.place).parent, lines)
            except CrossfadeError as error:
                bench.tell(name)(f"the lines changed since {plan.base[:7]} cannot be told: {error}")
        outcome = self._works.gates.read(
            name, gate, GateContext(bench.root, changed, self._before(bench), bench.places)
        )
        if gate.kind in (GateKind.BENCHMARK, GateKind.OPENAPI) and outcome.passed:
            for path in bench.root.glob(gate.report):
                self._keep_report(bench, path.relative_to(bench.root).as_posix())
        return outcome

    def _keep_report(self, bench: Bench, path: str) -> None:
        report = bench.root / path
        if report.resolve().is_relative_to(bench.tree.resolve()) and report.is_file():
            with report.open("rb") as file:
                content = file.read(LARGEST_KEPT_REPORT + 1)
            if len(content) <= LARGEST_KEPT_REPORT:
                self._works.runs.keep_report(bench.run.id, bench.stage.name.value, path, content)

    def _before(self, bench: Bench) -> Before | None:
        """The release in production, when it came from a run."""
        plan = bench.run.plan
        key = self._production(bench.run)
        environment = self._parts.store.environment(key) if key is not None else None
        if key is None or environment is None or environment.live is None:
            return None
        number = self._works.runs.run_of(plan.service, environment.live)
        if number is None:
            return None
        run = self._works.runs.run(number)
        commit, stage = run.plan.commit.id, bench.stage.name.value
        folder = PurePosixPath(plan.place).parent
        return Before(
            f"{environment.live} ({commit[:7]})",
            lambda path: self._works.repositories.file(plan.repository, commit, str(folder / path)),
            lambda path: self._works.runs.report(run.id, stage, path),
        )

    @staticmethod
    def _production(run: Run) -> EnvKey | None:
        stage = next((one for one in run.plan.pipeline.stages if one.name is StageName.PRODUCTION), None)
        name = stage.environment if stage is not None else StageName.PRODUCTION.value
        return EnvKey(run.plan.service, name)

    # --- the artifact

    def _artifact(self, bench: Bench, name: str) -> tuple[Outcome | None, Digest | None]:
        """Build in a checkout of its own: what steps have written must not get into what is deployed."""
        plan = bench.run.plan
        tree = bench.folder / "build"
        self._works.repositories.remove(tree)
        self._works.repositories.checkout(plan.repository, plan.commit.id, tree)
        root = (tree / plan.place).parent
        try:
            if plan.build.command:
                job = Job(
                    f"{bench.owner}-build",
                    bench.owner,
                    plan.build.command,
                    tree,
                    root,
                    bench.log(name),
                    self._env(bench, name),
                    timeout=BUILD_TIMEOUT,
                )
                ended = self._works.steps.run(job, bench.cancel)
                if ended.how is How.CANCELLED:
                    return None, None
                if not _good(ended, (0,)):
                    details = _last_lines(bench.log(name))
                    return Outcome(False, f"build.command {ended.sentence}", details=details), None
            output = root / plan.build.output
            if not output.resolve().is_relative_to(tree.resolve()) or not output.is_dir():
                raise NotFound(f"build.output: {plan.build.output} is no folder.", hint="Does build.command make it?")
            with self._works.packer.pack(output, plan.build.ignore) as tarball:
                artifact = self._parts.artifacts.put(tarball)
        finally:
            self._works.repositories.remove(tree)
        self._deployer.attest(bench.run, artifact.digest)
        mib = artifact.size / 2**20
        numbers = {"size": artifact.size, "files": artifact.files, "digest": artifact.digest.text}
        sentence = f"{artifact.digest.text[:19]}…: {artifact.files} files, {mib:.1f} MiB"
        return Outcome(True, sentence, numbers=numbers), artifact.digest

    # --- trials

    def _smoke(self, bench: Bench, name: str, flows: tuple[SmokeFlow, ...]) -> Outcome:
        url = self._deployer.url(EnvKey(bench.run.plan.service, bench.stage.environment))
        return self._works.trials.smoke(url, flows, bench.tell(name), bench.cancel)

    def _load(self, bench: Bench, name: str, load: Load) -> Outcome:
        service = bench.run.plan.service
        profile = None
        if load.rate is None or not load.requests:
            profile = self._parts.signals.profile(EnvKey(service, load.like))
        url = self._deployer.url(EnvKey(service, bench.stage.environment))
        return self._works.trials.load(url, load, profile, self._results(bench, name), bench.tell(name), bench.cancel)

    def _compare(self, bench: Bench, name: str, compare: Compare) -> Outcome:
        run, store = bench.run, self._parts.store
        key = self._production(run)
        environment = store.environment(key) if key is not None else None
        if key is None or environment is None or environment.live is None:
            return Outcome(True, "nothing is in production yet: there is nothing to compare with")
        live = store.release(key.service, environment.live)
        assert run.artifact is not None  # integration comes after the artifact
        if live.digest == run.artifact:
            return Outcome(True, f"the artifact is that of {live.number}, which is in production: nothing has changed")
        known = self._parts.secrets.get(live.config.secrets) if live.config.secrets else {}
        before = Contender(str(live.number), self._parts.artifacts.folder(live.digest), live.config, known)
        config = self._config(run, key.environment)
        after = Contender(run.plan.commit.id[:7], self._parts.artifacts.folder(run.artifact), config, known)
        return self._works.trials.compare(
            compare,
            before,
            after,
            owner=bench.owner,
            folder=self._results(bench, name),
            tell=bench.tell(name),
            cancel=bench.cancel,
        )

    @staticmethod
    def _results(bench: Bench, name: str) -> Path:
        folder = bench.folder / "results" / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder


def _within(folder: PurePosixPath, lines: Mapping[str, frozenset[int]]) -> dict[str, frozenset[int]]:
    """Lines by path, of what is in a folder, relative to it."""
    paths = {path: PurePosixPath(path) for path in lines}
    return {str(p.relative_to(folder)): lines[path] for path, p in paths.items() if p.is_relative_to(folder)}


def _good(ended: Ended, exits: tuple[int, ...]) -> bool:
    return ended.how is How.EXITED and ended.status in exits


def _facts(ended: Ended) -> dict[str, object]:
    return {
        "seconds": round(ended.seconds, 3),
        "memory": ended.memory,
        "written": ended.written,
        "status": ended.status,
    }


def _last_lines(path: Path) -> tuple[str, ...]:
    """The last lines of a log, without reading more of it than they can be."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 64 * 1024))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ()
    return tuple(line[:500] for line in lines[-LOG_LINES:])
