"""The `pipeline:` section and the freezes of environments, as validated values.

What each key means is written once, in `reference.yaml`; what keys mean together is in `pipeline_rules`.
"""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from crossfade.domain.pipeline.freeze import Freeze
from crossfade.domain.pipeline.plan import (
    LEVELS,
    Cache,
    Compare,
    Container,
    Dependent,
    DependentKind,
    Gate,
    GateKind,
    Load,
    Pipeline,
    QueuePolicy,
    Requests,
    SmokeFlow,
    Stage,
    StageName,
    Step,
    nodes_of,
)
from crossfade.spec import pipeline_scalars as own
from crossfade.spec import scalars
from crossfade.spec.analysis import GIVEN
from crossfade.spec.health import CHECKS, CheckPart, FlowCheckPart, Part, Short
from crossfade.spec.scalars import Words

MOST_STEPS: Final = 50
MOST_GATES: Final = 50
MOST_SERVICES: Final = 20

MARGIN: Final = scalars.share("0%", "1000%")
_SHARE: Final = scalars.share("0%", "100%")
_NODES: Final = own.several(scalars.NAME, "a list of at most 100 different names", 0, 100)
_VARIABLES: Final = own.several(scalars.VARIABLE, "a list of at most 100 different names of variables", 0, 100)

_Variables = Annotated[
    dict[Annotated[str, scalars.VARIABLE], Annotated[str, scalars.SETTING]],
    Field(max_length=500),
    Words("a mapping of names to values"),
]


class ContainerPart(Part):
    """Where a step runs instead of on the machine itself."""

    image: Annotated[str, own.IMAGE]
    network: Annotated[str, scalars.choice("none", "host")] = "none"


class CachePart(Part):
    """What makes a step's result the same again."""

    inputs: Annotated[tuple[str, ...], own.FILES]
    outputs: Annotated[tuple[str, ...], own.FILES] = ()
    env: Annotated[tuple[str, ...], _VARIABLES] = ()


class StageStepPart(Part):
    """One step of a stage."""

    run: Annotated[tuple[str, ...], scalars.COMMAND]
    needs: Annotated[tuple[str, ...], _NODES] = ()
    folder: Annotated[str, own.INSIDE] = "."
    env: _Variables = Field(default_factory=dict)
    secrets: Annotated[tuple[str, ...], _VARIABLES] = ()
    exits: Annotated[tuple[int, ...], own.EXITS] = (0,)
    timeout: Annotated[float, scalars.duration("1s", "1d")] = 600.0
    memory: Annotated[int, own.size("16MiB", "1TiB")] = 2 * 2**30
    output: Annotated[int, own.size("1KiB", "10GiB")] = 100 * 2**20
    retry: Annotated[bool, scalars.FLAG] = False
    container: Annotated[ContainerPart | None, GIVEN] = None
    cache: Annotated[CachePart | None, GIVEN] = None

    def step(self) -> Step:
        return Step(
            command=self.run,
            folder=self.folder,
            env=tuple(sorted(self.env.items())),
            secrets=self.secrets,
            exits=self.exits,
            timeout=self.timeout,
            memory=self.memory,
            output=self.output,
            retry=self.retry,
            container=Container(self.container.image, self.container.network) if self.container is not None else None,
            cache=Cache(self.cache.inputs, self.cache.outputs, self.cache.env) if self.cache is not None else None,
        )


_Step = Annotated[
    StageStepPart,
    Short("run", scalars.COMMAND, (str, list, tuple)),
    Words("a command, or a mapping with run: and a command"),
]


class GatePart(Part):
    """One gate of a stage; `pipeline_rules` says which keys go with which kind."""

    kind: Annotated[str, scalars.choice(*GateKind)]
    report: Annotated[str, own.REPORT]
    after: Annotated[tuple[str, ...] | None, _NODES] = None
    minimum: Annotated[float | None, _SHARE] = None
    changed: Annotated[float | None, _SHARE] = None
    level: Annotated[str, scalars.choice(*LEVELS)] = "warning"
    baseline: Annotated[str, own.BASELINE] = ""
    allow: Annotated[tuple[str, ...], own.TOLERATED] = ()
    least: Annotated[int, scalars.whole(1, 1_000_000_000)] = 1
    error_rate: Annotated[float | None, _SHARE] = None
    p50: Annotated[float | None, scalars.duration("1ms", "10m")] = None
    p95: Annotated[float | None, scalars.duration("1ms", "10m")] = None
    p99: Annotated[float | None, scalars.duration("1ms", "10m")] = None
    margin: Annotated[float | None, MARGIN] = None
    provider: Annotated[str, scalars.NAME] = ""

    def gate(self) -> Gate:
        return Gate(
            kind=GateKind(self.kind),
            report=self.report,
            minimum=self.minimum,
            changed=self.changed,
            level=self.level,
            baseline=self.baseline,
            allow=self.allow,
            least=self.least,
            error_rate=self.error_rate,
            p50=self.p50,
            p95=self.p95,
            p99=self.p99,
            margin=self.margin,
            provider=self.provider,
        )


class DependentPart(Part):
    """A service that is started for a stage."""

    kind: Annotated[str, scalars.choice(*DependentKind)]
    run: Annotated[tuple[str, ...], scalars.COMMAND] = ()
    health: Annotated[CheckPart | None, GIVEN, Words("a check, as under health")] = None
    env: _Variables = Field(default_factory=dict)
    artifact: Annotated[bool, scalars.FLAG] = False
    start_timeout: Annotated[float, scalars.duration("100ms", "1h")] = 60.0

    def dependent(self, name: str) -> Dependent:
        return Dependent(
            name=name,
            kind=DependentKind(self.kind),
            command=self.run,
            check=self.health.check() if self.health is not None else None,
            env=tuple(sorted(self.env.items())),
            artifact=self.artifact,
            start_timeout=self.start_timeout,
        )


class RequestPart(Part):
    """One kind of request of a load."""

    request: Annotated[str, own.REQUEST]
    weight: Annotated[float, scalars.number(0.001, 1000)] = 1.0

    def requests(self) -> Requests:
        return Requests(self.request, self.weight)


_Request = Annotated[
    RequestPart, Short("request", own.REQUEST, (str,)), Words("a request, or a mapping of request, weight")
]


class BlocksPart(Part):
    """How many blocks are measured."""

    least: Annotated[int, scalars.whole(4, 1000)] = 20
    most: Annotated[int, scalars.whole(4, 1000)] = 80


class ComparePart(Part):
    """Performance regression against the release in production."""

    requests: Annotated[
        tuple[_Request, ...], Field(min_length=1, max_length=50), Words("a list of at least one request")
    ]
    rate: Annotated[float, scalars.number(0.1, 100_000)] = 50.0
    block: Annotated[float, scalars.duration("100ms", "10m")] = 1.0
    warmup: Annotated[float, scalars.duration("0s", "10m")] = 1.0
    margins: Annotated[
        dict[Annotated[str, scalars.QUANTILE], Annotated[float, scalars.share("0.1%", "1000%")]],
        Field(min_length=1),
        Words("a mapping of quantiles to percentages"),
    ] = Field(default_factory=lambda: {"p50": 0.05, "p95": 0.05})
    blocks: BlocksPart = Field(default_factory=BlocksPart)
    restarts: Annotated[int, scalars.whole(3, 50)] = 3
    inconclusive: Annotated[str, scalars.choice("fail", "pass")] = "fail"
    env: _Variables = Field(default_factory=dict)

    def compare(self) -> Compare:
        return Compare(
            requests=tuple(one.requests() for one in self.requests),
            rate=self.rate,
            block=self.block,
            warmup=self.warmup,
            margins=tuple(self.margins.items()),
            floor=self.blocks.least,
            most=self.blocks.most,
            restarts=self.restarts,
            inconclusive=self.inconclusive,
            env=tuple(sorted(self.env.items())),
        )


class LoadLimitsPart(Part):
    """What the release under load must keep to."""

    error_rate: Annotated[float | None, scalars.share("0%", "100%", none=True)] = 0.01
    p50: Annotated[float | None, scalars.duration("1ms", "10m", none=True)] = None
    p95: Annotated[float | None, scalars.duration("1ms", "10m", none=True)] = None
    p99: Annotated[float | None, scalars.duration("1ms", "10m", none=True)] = None


class LoadPart(Part):
    """Load at the expected peak."""

    like: Annotated[str, scalars.NAME] = "production"
    factor: Annotated[float, scalars.number(0.01, 100)] = 1.5
    rate: Annotated[float | None, scalars.number(0.1, 100_000)] = None
    requests: Annotated[tuple[_Request, ...], Field(max_length=50), Words("a list of requests")] = ()
    duration: Annotated[float, scalars.duration("1s", "1h")] = 30.0
    limits: LoadLimitsPart = Field(default_factory=LoadLimitsPart)

    def load(self) -> Load:
        return Load(
            like=self.like,
            factor=self.factor,
            rate=self.rate,
            requests=tuple(one.requests() for one in self.requests),
            duration=self.duration,
            error_rate=self.limits.error_rate,
            p50=self.limits.p50,
            p95=self.limits.p95,
            p99=self.limits.p99,
        )


class SmokePart(Part):
    """A critical flow of users."""

    name: Annotated[str, scalars.LABEL]
    checks: Annotated[tuple[FlowCheckPart, ...], Field(min_length=1, max_length=50), CHECKS]

    def flow(self) -> SmokeFlow:
        return SmokeFlow(self.name, tuple(check.check(check.capture) for check in self.checks))


class StagePart(Part):
    """One stage. All have the same keys here; `pipeline_rules` says which are only for some."""

    timeout: Annotated[float, scalars.duration("1s", "7d")] = 3600.0
    env: _Variables = Field(default_factory=dict)
    services: Annotated[
        dict[Annotated[str, scalars.NAME], DependentPart],
        Field(max_length=MOST_SERVICES),
        Words("a mapping of names to services"),
    ] = Field(default_factory=dict)
    steps: Annotated[
        dict[Annotated[str, scalars.NAME], _Step],
        Field(max_length=MOST_STEPS),
        Words("a mapping of names to steps"),
    ] = Field(default_factory=dict)
    gates: Annotated[
        dict[Annotated[str, scalars.NAME], GatePart],
        Field(max_length=MOST_GATES),
        Words("a mapping of names to gates"),
    ] = Field(default_factory=dict)
    compare: Annotated[ComparePart | None, GIVEN] = None
    environment: Annotated[str, scalars.NAME] = ""
    smoke: Annotated[tuple[SmokePart, ...], Field(max_length=50), Words("a list of flows")] = ()
    load: Annotated[LoadPart | None, GIVEN] = None

    def stage(self, name: StageName) -> Stage:
        """Raises Invalid for what `pipeline_rules` finds too."""
        return Stage(
            name=name,
            nodes=nodes_of(
                name,
                {step: (part.step(), part.needs) for step, part in self.steps.items()},
                {gate: (part.gate(), part.after) for gate, part in self.gates.items()},
                compare=self.compare.compare() if self.compare is not None else None,
                smoke=tuple(flow.flow() for flow in self.smoke),
                load=self.load.load() if self.load is not None else None,
            ),
            services=tuple(part.dependent(service) for service, part in self.services.items()),
            environment=(self.environment or name.value) if name.deploys else "",
            timeout=self.timeout,
            env=tuple(sorted(self.env.items())),
        )


class StagesPart(Part):
    """The stages, each of which may be left out."""

    commit: Annotated[StagePart | None, GIVEN] = None
    integration: Annotated[StagePart | None, GIVEN] = None
    staging: Annotated[StagePart | None, GIVEN] = None
    production: Annotated[StagePart | None, GIVEN] = None


class PipelinePart(Part):
    """What a commit goes through until it is in production."""

    branches: Annotated[tuple[str, ...], own.BRANCHES] = ("main", "master")
    queue: Annotated[str, scalars.choice(*QueuePolicy)] = QueuePolicy.LATEST.value
    supersede: Annotated[bool, scalars.FLAG] = True
    parallel: Annotated[int, scalars.whole(1, 64)] = 4
    stages: StagesPart

    def pipeline(self, service: str) -> Pipeline:
        """The stages in their order. There is always a commit stage: it makes the artifact. Raises Invalid."""
        parts = {name: getattr(self.stages, name.value) for name in StageName}
        parts[StageName.COMMIT] = parts[StageName.COMMIT] or StagePart()
        return Pipeline(
            service=service,
            stages=tuple(part.stage(name) for name, part in parts.items() if part is not None),
            branches=self.branches,
            queue=QueuePolicy(self.queue),
            supersede=self.supersede,
            parallel=self.parallel,
        )


class FreezePart(Part):
    """A time in which nothing is deployed to an environment."""

    name: Annotated[str, scalars.LABEL]
    days: Annotated[tuple[str, ...], own.WEEKDAYS] = ()
    begins: Annotated[str, own.CLOCK] = Field(default="00:00", alias="from")
    ends: Annotated[str, own.CLOCK] = Field(default="24:00", alias="to")
    dates: Annotated[tuple[str, str] | None, own.DATES] = None
    zone: Annotated[str, own.ZONE] = "UTC"

    def freeze(self) -> Freeze:
        return Freeze(self.name, self.days, self.begins, self.ends, self.dates, self.zone)
