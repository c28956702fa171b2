"""What a pipeline consists of, as `crossfade.yaml` says it: stages, and in each a graph of nodes.

A node is one thing to do: a command (a step as the user wrote it), a gate, the artifact, a deployment, smoke flows, load,
or a comparison with the release in production. Times are seconds, sizes bytes, shares 0…1.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from crossfade.domain.errors import Invalid
from crossfade.domain.health import Check

MIB: Final = 1024 * 1024


class StageName(enum.StrEnum):
    """The four stages, in their order."""

    COMMIT = "commit"
    INTEGRATION = "integration"
    STAGING = "staging"
    PRODUCTION = "production"

    @property
    def deploys(self) -> bool:
        """Whether the stage puts the artifact into an environment."""
        return self in (StageName.STAGING, StageName.PRODUCTION)


class QueuePolicy(enum.StrEnum):
    """What becomes of runs that wait for an environment: each has its turn, or only the latest."""

    QUEUE = "queue"
    LATEST = "latest"


class NodeKind(enum.StrEnum):
    """What a node does."""

    COMMAND = "command"
    GATE = "gate"
    ARTIFACT = "artifact"
    COMPARE = "compare"
    DEPLOY = "deploy"
    SMOKE = "smoke"
    LOAD = "load"


@dataclass(frozen=True, slots=True)
class Container:
    """Where a step runs instead of on the machine itself. ``image`` must be there already: nothing is pulled."""

    image: str
    network: str = "none"  # or "host"


@dataclass(frozen=True, slots=True)
class Cache:
    """What makes a step's result the same again: command, content of ``inputs``, named variables.

    ``inputs`` and ``outputs`` are paths or shell patterns relative to the checkout. With ``outputs`` a hit puts them back
    and skips the step. Only for steps that depend on nothing else.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...] = ()
    env: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """A command of a stage. ``exits`` are the statuses that pass: a linter that found something may leave that to a gate.

    ``folder`` is relative to the checkout. ``secrets`` names variables of the pipeline's secrets that it gets.
    """

    command: tuple[str, ...]
    folder: str = "."
    env: tuple[tuple[str, str], ...] = ()
    secrets: tuple[str, ...] = ()
    exits: tuple[int, ...] = (0,)
    timeout: float = 600.0
    memory: int = 2048 * MIB
    output: int = 100 * MIB
    retry: bool = False
    """Whether it is tried once more when it fails; one that passes then is recorded as flaky."""
    container: Container | None = None
    cache: Cache | None = None


class GateKind(enum.StrEnum):
    """Which kind of report a gate reads."""

    JUNIT = "junit"
    TAP = "tap"
    COVERAGE = "coverage"
    SARIF = "sarif"
    AUDIT = "audit"
    OPENAPI = "openapi"
    PACT = "pact"
    SCHEMATHESIS = "schemathesis"
    LOAD = "load"
    BENCHMARK = "benchmark"


LEVELS: Final = ("note", "warning", "error")
"""SARIF's levels, rising."""


@dataclass(frozen=True, slots=True)
class Gate:
    """One check that reads a report. Which of the options count depends on the kind; None: as the kind has it.

    ``report`` is a path or shell pattern relative to the checkout. ``minimum`` and ``changed`` are shares of covered lines
    (of all, of those changed since the base). ``level`` is the least SARIF level that fails; ``baseline`` a file of the
    checkout with findings that are known. ``allow`` lists identifiers that are tolerated (rules, tests, changes).
    ``error_rate``, ``p50``, ``p95``, ``p99`` are limits of load and benchmark results (s). ``base_url`` is for Pact.
    """

    kind: GateKind
    report: str
    minimum: float | None = None
    changed: float | None = None
    level: str = "warning"
    baseline: str = ""
    allow: tuple[str, ...] = ()
    least: int = 1
    """Fewer tests, checks or requests than this are no report."""
    error_rate: float | None = None
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    margin: float | None = None
    """How much slower than the report of the release in production a benchmark may be."""
    provider: str = ""
    """For Pact: the dependent service that is asked, by its name in ``services``."""


class DependentKind(enum.StrEnum):
    """What is started for a stage."""

    POSTGRESQL = "postgresql"
    MARIADB = "mariadb"
    REDIS = "redis"
    COMMAND = "command"


@dataclass(frozen=True, slots=True)
class Dependent:
    """A service that a stage's nodes need, started before them and stopped after.

    Built-in kinds take a free port and a folder of their own. A ``command`` gets ``$PORT`` and ``$HOST``, and counts as
    started when ``check`` passes. Nodes are told of it in variables ``NAME_HOST``, ``NAME_PORT`` and ``NAME_URL``, where
    NAME is its name in capitals with `_` for `-`.
    ``artifact``: the command runs in the folder of the run's artifact rather than in the checkout.
    """

    name: str
    kind: DependentKind
    command: tuple[str, ...] = ()
    check: Check | None = None
    env: tuple[tuple[str, str], ...] = ()
    artifact: bool = False
    start_timeout: float = 60.0


@dataclass(frozen=True, slots=True)
class Requests:
    """One kind of request of a load: ``GET /books?id=1-1000`` in `load.Request`'s own words, and its part of the mix."""

    request: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Compare:
    """Performance regression by interleaved paired blocks of both releases: `domain.pipeline.performance` decides.

    ``rate`` requests per second in blocks of ``block`` seconds. ``margins`` are the tolerated relative rises by quantile.
    """

    requests: tuple[Requests, ...]
    rate: float = 50.0
    block: float = 1.0
    warmup: float = 1.0
    margins: tuple[tuple[str, float], ...] = (("p50", 0.05), ("p95", 0.05))
    floor: int = 20
    most: int = 80
    restarts: int = 3
    alpha: float = 0.05
    inconclusive: str = "fail"  # or "pass"
    env: tuple[tuple[str, str], ...] = ()
    """Variables that both releases get in place of the environment's own."""


@dataclass(frozen=True, slots=True)
class Load:
    """Load at the expected peak: the recorded rate and mix of ``like`` times ``factor``, or as given by ``requests``/``rate``."""

    like: str = "production"
    factor: float = 1.5
    rate: float | None = None
    requests: tuple[Requests, ...] = ()
    duration: float = 30.0
    error_rate: float | None = 0.01
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


@dataclass(frozen=True, slots=True)
class SmokeFlow:
    """A critical flow of users: checks one after the other, with cookies and captures kept between them."""

    name: str
    checks: tuple[Check, ...]


@dataclass(frozen=True, slots=True)
class Node:
    """One thing to do in a stage. ``needs`` names nodes of the same stage; ``what`` is by kind:

    command → Step, gate → Gate, compare → Compare, smoke → tuple of SmokeFlow, load → Load, artifact and deploy → None.
    """

    name: str
    kind: NodeKind
    needs: tuple[str, ...] = ()
    what: Step | Gate | Compare | Load | tuple[SmokeFlow, ...] | None = None


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage. ``environment`` is where a deploying stage deploys, empty in the others."""

    name: StageName
    nodes: tuple[Node, ...]
    services: tuple[Dependent, ...] = ()
    environment: str = ""
    timeout: float = 3600.0
    env: tuple[tuple[str, str], ...] = ()

    def node(self, name: str) -> Node:
        return next(node for node in self.nodes if node.name == name)


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A whole pipeline. Commits of ``branches`` (shell patterns) go on to the deploying stages; others end before them."""

    service: str
    stages: tuple[Stage, ...]
    branches: tuple[str, ...] = ("main", "master")
    queue: QueuePolicy = QueuePolicy.LATEST
    supersede: bool = True
    """Whether the verification of a commit is cancelled when a newer one of its branch arrives."""
    parallel: int = 4
    """How many nodes of one run are at work at once."""

    def stage(self, name: str) -> Stage:
        return next(stage for stage in self.stages if stage.name == name)

    @property
    def environment(self) -> str:
        """The last environment that it deploys to; ``pipeline`` when it deploys to none. Rights on a run are rights there."""
        return next((stage.environment for stage in reversed(self.stages) if stage.environment), "pipeline")


def in_order(place: str, needs: Mapping[str, Iterable[str]]) -> tuple[str, ...]:
    """The names so that each comes after those it needs; otherwise as given. Raises Invalid, naming a loop or a stranger."""
    wanted = {name: tuple(those) for name, those in needs.items()}
    for name, those in wanted.items():
        for other in those:
            if other not in wanted:
                raise Invalid(f"{place}.{name}.needs", other, f"one of {', '.join(n for n in wanted if n != name)}")
    done: list[str] = []
    while len(done) < len(wanted):
        ready = [name for name in wanted if name not in done and set(wanted[name]) <= set(done)]
        if not ready:
            raise Invalid(f"{place}", " -> ".join(_loop(wanted, set(done))), "steps that need each other in no circle")
        done.append(ready[0])
    return tuple(done)


def _loop(needs: Mapping[str, tuple[str, ...]], done: set[str]) -> list[str]:
    path: list[str] = []
    here = next(name for name in needs if name not in done)
    while here not in path:
        path.append(here)
        here = next(other for other in needs[here] if other not in done)
    return [*path[path.index(here) :], here]


def nodes_of(
    name: StageName,
    steps: Mapping[str, tuple[Step, tuple[str, ...]]],
    gates: Mapping[str, tuple[Gate, tuple[str, ...] | None]],
    *,
    compare: Compare | None = None,
    smoke: tuple[SmokeFlow, ...] = (),
    load: Load | None = None,
) -> tuple[Node, ...]:
    """The graph of a stage.

    ``steps`` and ``gates`` map names to what they are and what they name as their needs (a gate: its steps, None: all).
    In a deploying stage everything comes after the deployment, and load after all that could disturb it; in the commit
    stage the artifact is built when everything else has passed. Raises Invalid.
    """
    built_in = {kind.value for kind in NodeKind} - {NodeKind.COMMAND, NodeKind.GATE}
    for given in (*steps, *gates):
        if given in built_in:
            raise Invalid(f"pipeline.stages.{name}", given, f"a name other than {', '.join(sorted(built_in))}")
        if given in steps and given in gates:
            raise Invalid(f"pipeline.stages.{name}.gates", given, "a name that no step of the stage has")
    in_order(f"pipeline.stages.{name}.steps", {step: needs for step, (_, needs) in steps.items()})
    first = (NodeKind.DEPLOY.value,) if name.deploys else ()
    nodes = [Node(NodeKind.DEPLOY.value, NodeKind.DEPLOY)] if name.deploys else []
    nodes += [Node(step, NodeKind.COMMAND, needs or first, what) for step, (what, needs) in steps.items()]
    if smoke:
        nodes.append(Node(NodeKind.SMOKE.value, NodeKind.SMOKE, first, smoke))
    quiet = tuple(node.name for node in nodes if node.kind is not NodeKind.DEPLOY) or first
    if compare is not None:
        nodes.append(Node(NodeKind.COMPARE.value, NodeKind.COMPARE, quiet, compare))
    if load is not None:
        nodes.append(Node(NodeKind.LOAD.value, NodeKind.LOAD, quiet, load))
    for gate, (what, after) in gates.items():
        for other in after or ():
            if other not in steps:
                raise Invalid(f"pipeline.stages.{name}.gates.{gate}.after", other, f"one of {', '.join(steps)}")
        nodes.append(Node(gate, NodeKind.GATE, tuple(steps) if after is None else after, what))
    if name is StageName.COMMIT:
        nodes.append(Node(NodeKind.ARTIFACT.value, NodeKind.ARTIFACT, tuple(node.name for node in nodes)))
    return tuple(nodes)


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit as the repository tells it. ``depth`` counts its ancestors: a parent has a smaller one. ``at`` is epoch s.

    Of author and subject, which anybody may have written, what cannot be printed is left out.
    """

    id: str
    depth: int
    at: float
    author: str = ""
    subject: str = ""

    def __post_init__(self) -> None:
        for name in ("author", "subject"):
            object.__setattr__(self, name, "".join(c for c in getattr(self, name) if c.isprintable()))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a node. ``finding`` is one of pass, fail, inconclusive, no-data; only ``passed`` lets the run go on.

    ``sentence`` says it with numbers and units; ``details`` are lines that name places (``src/cart.py:12-15 …``).
    ``numbers`` are JSON-ready facts. ``infrastructure``: it failed for a reason that is not the commit's, and may be
    tried again.
    """

    passed: bool
    sentence: str
    finding: str = ""
    details: tuple[str, ...] = ()
    numbers: Mapping[str, Any] = field(default_factory=dict)
    infrastructure: bool = False
    cached: bool = False
    flaky: bool = False

    def __post_init__(self) -> None:
        if not self.finding:
            object.__setattr__(self, "finding", "pass" if self.passed else "fail")
