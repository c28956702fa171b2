"""Drives runs: gives each its turn, works through its stages, and cleans up behind them.

A run's state is the ledger's. What is at work for it lives in this process and dies with it: after a crash whatever was
left is swept away, and the stage is begun anew. Rollouts are driven by the engine and go on; they are only looked at again.
"""

from __future__ import annotations

import logging
import queue
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

from crossfade.domain.errors import CrossfadeError, StorageFailed
from crossfade.domain.pipeline.plan import Node, Outcome, Stage, StageName
from crossfade.domain.pipeline.queue import Ground, place, superseded, turn, wants
from crossfade.domain.pipeline.run import (
    Began,
    Broke,
    Closed,
    Event,
    Held,
    NodeEnded,
    Resumed,
    Run,
    Status,
    Waits,
    decide,
    ready,
    settled,
    stopping,
)
from crossfade.domain.release import ReleaseConfig
from crossfade.engine.messenger import Messenger
from crossfade.engine.workshop import Bench, Deployer, Workshop
from crossfade.ports import Parts
from crossfade.ports.pipeline import Works

log = logging.getLogger("crossfade.conductor")

LOOK_EVERY: Final = 0.5
"""Seconds between two looks at who may go on, when nothing rings."""
STOP_WITHIN: Final = 10.0
"""Seconds in which what is at work ends when the server does."""
RUNS_AT_ONCE: Final = 2
FOLDERS_KEPT: Final = 200
"""Of how many of the newest runs logs and results are kept."""


class Conductor:
    """Runs pipelines. ``config`` reads a run's `crossfade.yaml` for one environment; ``slots`` runs verify at once.

    ``on_boundary`` is called with the name of each point at which a crash would matter; tests kill the process there.
    """

    def __init__(
        self,
        parts: Parts,
        works: Works,
        deployer: Deployer,
        config: Callable[[Run, str], ReleaseConfig],
        *,
        slots: int = RUNS_AT_ONCE,
        on_boundary: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._parts, self._works, self._deployer = parts, works, deployer
        self._slots, self._boundary = slots, on_boundary
        self._workshop = Workshop(parts, works, deployer, config)
        self._messenger = Messenger(parts, works)
        self._lock = threading.RLock()
        self._stages: dict[int, threading.Event] = {}
        """The stages that are at work here: the ring that each listens to."""
        self._cancels: dict[int, threading.Event] = {}
        self._threads: dict[int, threading.Thread] = {}
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._schedule, name="conductor", daemon=True)

    # --- life

    def start(self) -> None:
        """Sweep away what a killed server left, take up the runs that were at work, and go on. Raises StorageFailed."""
        left = self._works.steps.sweep()
        self._works.dependents.sweep()
        if left:
            log.warning("ended %d processes that an earlier server had left", left)
        for run in self._open():
            for stage in run.stages:
                for attempt in range(1, stage.attempt + 1):
                    self._remove(self.folder(run.id, stage.name, attempt), keep_logs=True)
            self.apply(run.id, Resumed())
        self._forget_old()
        self._messenger.start()
        self._thread.start()

    def stop(self) -> None:
        """Stop what is at work, without changing what the ledger says of it: the next start takes it up."""
        self._stop.set()
        self._wake.set()
        with self._lock:
            for cancel in self._cancels.values():
                cancel.set()
            working = list(self._threads.values())
        for thread in (self._thread, *working):
            if thread.is_alive():
                thread.join(timeout=STOP_WITHIN)
        self._messenger.stop()

    def faults(self) -> tuple[str, ...]:
        """What keeps it from driving runs, in sentences."""
        return () if self._thread.is_alive() else ("The pipelines do not run.",)

    # --- work

    def apply(self, id: int, event: Event) -> Run:
        """Decide, write down, and ring. Raises NotFound, Refused, StorageFailed."""
        with self._lock:
            before = self._works.runs.run(id)
            after = decide(before, event, self._parts.now())
            if after != before:
                self._works.runs.save_run(after, self._parts.now())
                self._messenger.changed(before, after)
            if stopping(after) and id in self._cancels:
                self._cancels[id].set()
            if id in self._stages:
                self._stages[id].set()
        self._wake.set()
        return after

    def queued(self, run: Run) -> None:
        """There is a new run."""
        self._messenger.changed(None, run)
        self._wake.set()

    def folder(self, run: int, stage: str, attempt: int) -> Path:
        """Where an attempt at a stage is worked on, and its logs are kept."""
        return self._works.folder / str(run) / f"{stage}-{attempt}"

    def _open(self) -> tuple[Run, ...]:
        return tuple(reversed(self._works.runs.runs(open_only=True, limit=10_000)))

    # --- turns

    def _schedule(self) -> None:
        while not self._stop.is_set():
            self._wake.clear()
            try:
                self._look()
            except StorageFailed as error:
                log.warning("%s", error)
            except Exception:
                log.exception("a look at the runs")
            self._wake.wait(LOOK_EVERY)

    def _look(self) -> None:
        """Give every run that waits its turn, or say why not yet. In order, each with what those before it became."""
        runs = {run.id: run for run in self._open()}
        for id in list(runs):
            run = runs[id]
            others = [other for other in runs.values() if other.id != id]
            event: Event | None = superseded(run, others)
            if event is None and wants(run) is not None:
                event = turn(run, others, self._slots, self._ground(run), self._parts.now(), ZoneInfo)
            if event is not None and not (isinstance(event, Held) and run.waiting == event.why):
                runs[id] = run = self.apply(id, event)
            if run.status.ended:
                del runs[id]
                continue
            self._take_up(run)

    def _take_up(self, run: Run) -> None:
        """Work on the stage that runs, unless that is done already."""
        current = run.current
        if current is None or current.status is not Status.RUNNING:
            return
        with self._lock:
            if run.id in self._stages or self._stop.is_set():
                return
            self._stages[run.id], self._cancels[run.id] = threading.Event(), threading.Event()
        name = f"run-{run.id}-{current.name}"
        thread = threading.Thread(target=self._work, args=(run.id, current.name), name=name, daemon=True)
        self._threads[run.id] = thread
        thread.start()

    def _ground(self, run: Run) -> Ground | None:
        key = place(run)
        return None if key is None else self._deployer.ground(run, key)

    # --- one stage

    def _work(self, id: int, name: StageName) -> None:
        try:
            self._stage(id, name)
        except Exception:
            log.exception("stage %s of run #%d", name, id)
            if not self._stop.is_set():
                self._try(lambda: self.apply(id, Broke(name, "failed unexpectedly: the server's log has the reason")))
                self._try(lambda: self.apply(id, Closed(name)))
        finally:
            with self._lock:
                self._stages.pop(id, None)
                self._cancels.pop(id, None)
                self._threads.pop(id, None)
            self._wake.set()

    def _stage(self, id: int, name: StageName) -> None:
        run = self._works.runs.run(id)
        stage = run.plan.pipeline.stage(name)
        folder = self.folder(id, name, run.stage(name).attempt)
        cancel = self._cancels[id]
        bench = Bench(
            run,
            stage,
            folder,
            cancel,
            self._stop,
            lambda said: _nothing(self.apply(id, said)),
            lambda node, why: _nothing(self.apply(id, Waits(name, node, why))),
        )
        overtime = threading.Timer(stage.timeout, lambda: self._overtime(id, stage))
        overtime.daemon = True
        overtime.start()
        self._boundary(f"{name} begins")
        try:
            with ExitStack() as stack:
                # Last in, first out: services end before their files and the checkout go.
                stack.callback(self._remove, folder, keep_logs=True)
                try:
                    self._prepare(bench, stack)
                except CrossfadeError as error:
                    self.apply(id, Broke(name, str(error)))
                self._nodes(id, bench)
                self._boundary(f"{name} nodes done")
        finally:
            overtime.cancel()
        if self._stop.is_set():
            return
        self._boundary(f"{name} closes")
        self.apply(id, Closed(name))
        self._boundary(f"{name} closed")

    def _overtime(self, id: int, stage: Stage) -> None:
        run = self._works.runs.run(id)
        if not run.in_flight:
            self._try(lambda: self.apply(id, Broke(stage.name, f"took longer than its {stage.timeout:g} s")))

    def _prepare(self, bench: Bench, stack: ExitStack) -> None:
        """Checkout and dependent services. Raises CrossfadeError."""
        run, works = bench.run, self._works
        try:
            (bench.folder / "logs").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageFailed(f"{bench.folder} cannot be made: {error.strerror or error}.") from error
        if stopping(run) or bench.cancel.is_set():
            return
        if bench.needs_tree:
            works.repositories.remove(bench.tree)
            works.repositories.checkout(run.plan.repository, run.plan.commit.id, bench.tree)
        if not bench.stage.services:
            return
        artifact = self._parts.artifacts.folder(run.artifact) if run.artifact is not None else None
        bench.places = stack.enter_context(
            works.dependents.start(
                bench.stage.services,
                owner=bench.owner,
                folder=bench.folder / "services",
                tree=bench.root,
                artifact=artifact,
                env=dict(bench.stage.env),
                tell=bench.tell("services"),
                cancel=bench.cancel,
            )
        )

    def _nodes(self, id: int, bench: Bench) -> None:
        """Begin what is ready, take what has ended, until the stage is settled or the server ends."""
        name, ring = bench.stage.name, self._stages[id]
        ended: queue.SimpleQueue[NodeEnded] = queue.SimpleQueue()
        at_work: set[str] = set()
        with ThreadPoolExecutor(max(1, bench.run.plan.pipeline.parallel), f"run-{id}") as pool:

            def begin(node: Node) -> None:
                at_work.add(node.name)
                self._boundary(f"{name} {node.name} begins")
                pool.submit(self._node, bench, node, ended, ring)

            while True:
                ring.clear()
                while not ended.empty():
                    event = ended.get()
                    if self._stop.is_set():
                        return
                    at_work.discard(event.node)
                    self._boundary(f"{name} {event.node} ended")
                    self.apply(id, event)
                run = bench.run = self._works.runs.run(id)
                if run.status.ended or self._stop.is_set():
                    return
                # A deployment that an earlier server began is at work already, but nobody looks at it yet.
                for state in run.stage(name).nodes:
                    if state.status in (Status.RUNNING, Status.WAITING) and state.name not in at_work:
                        begin(bench.stage.node(state.name))
                for node in ready(run):
                    bench.run = self.apply(id, Began(name, node.name))
                    begin(node)
                if not at_work and settled(self._works.runs.run(id)):
                    return
                ring.wait(1.0)

    def _node(self, bench: Bench, node: Node, ended: queue.SimpleQueue[NodeEnded], ring: threading.Event) -> None:
        outcome, artifact = self._workshop.perform(bench, node)
        name = bench.stage.name
        if outcome is None:
            ended.put(NodeEnded(name, node.name, Outcome(False, "cancelled"), cancelled=True))
        else:
            ended.put(NodeEnded(name, node.name, outcome, artifact))
        ring.set()

    # --- cleaning up

    def _remove(self, folder: Path, keep_logs: bool = False) -> None:
        """Take away what a stage has been worked on with; its logs and results stay."""
        for tree in (folder / "tree", folder / "build"):
            if tree.exists():
                self._try(lambda tree=tree: self._works.repositories.remove(tree))  # type: ignore[misc] # bound now
        shutil.rmtree(folder / "services", ignore_errors=True)
        if not keep_logs:
            shutil.rmtree(folder, ignore_errors=True)

    def _forget_old(self) -> None:
        """Logs and results of runs that are long over."""
        try:
            known = sorted(
                (int(path.name) for path in self._works.folder.iterdir() if path.name.isdecimal()), reverse=True
            )
        except OSError:
            return
        for id in known[FOLDERS_KEPT:]:
            shutil.rmtree(self._works.folder / str(id), ignore_errors=True)

    def _try(self, act: Callable[[], object]) -> None:
        try:
            act()
        except CrossfadeError as error:
            log.warning("%s", error)
        except OSError as error:
            log.warning("%s", error)


def _nothing(_: object) -> None: ...
