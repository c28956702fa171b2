"""What `crossfade.yaml` says, as validated values, and how an environment's configuration is made of it.

Lengths of time are seconds here, percentages are `Weight`. What each key means is written once, in `reference.yaml`.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Discriminator, Field, Tag, ValidationError

from crossfade.domain.access import Role
from crossfade.domain.analysis.policy import Analysis
from crossfade.domain.errors import InvalidConfig, NotFound, Problem
from crossfade.domain.health import Flow
from crossfade.domain.pipeline.plan import Pipeline
from crossfade.domain.release import BlueGreen, Canary, DatabaseUse, Limits, ReleaseConfig, Step, Strategy
from crossfade.domain.traffic import Sticky, StickyBy
from crossfade.domain.values import Weight
from crossfade.spec import scalars
from crossfade.spec.analysis import ANALYSIS_WORDS, GIVEN, AnalysisPart, unmeant
from crossfade.spec.health import CHECKS, CheckPart, FlowCheckPart, Part
from crossfade.spec.pipeline import FreezePart, PipelinePart
from crossfade.spec.problems import Place, explain
from crossfade.spec.rules import MOVED, breaches
from crossfade.spec.scalars import Words
from crossfade.spec.slo import Drills, ProofsPart, SloPolicyPart

FILE_NAME: Final = "crossfade.yaml"

ALWAYS_IGNORED: Final = (".git", "__pycache__", ".venv", ".crossfade", "*.pyc", ".env", ".env.*")
"""Names that are never part of an artifact: history, caches, what belongs to one machine, and secrets."""


class Build(Part):
    """How the artifact is made."""

    command: Annotated[tuple[str, ...], scalars.COMMAND] = ()
    output: Annotated[str, scalars.FOLDER] = "."
    also_ignore: Annotated[tuple[str, ...], scalars.PATTERNS] = Field(default=(), alias="ignore")

    @property
    def ignore(self) -> tuple[str, ...]:
        """Shell patterns of everything that stays out of the artifact."""
        return (*ALWAYS_IGNORED, *self.also_ignore)


class Run(Part):
    """How one replica runs."""

    command: Annotated[tuple[str, ...], scalars.COMMAND]
    env: dict[Annotated[str, scalars.VARIABLE], Annotated[str, scalars.SETTING]] = Field(default_factory=dict)
    env_file: Annotated[str | None, scalars.FILE] = None
    replicas: Annotated[int, scalars.whole(1, 100)] = 1
    start_timeout: Annotated[float, scalars.duration("100ms", "1h")] = 60.0
    stop_timeout: Annotated[float, scalars.duration("100ms", "1h")] = 10.0


class FlowPart(Part):
    """Session continuity."""

    name: Annotated[str, scalars.LABEL]
    opening: Annotated[tuple[FlowCheckPart, ...], Field(min_length=1, max_length=50), CHECKS] = Field(alias="open")
    continuing: Annotated[tuple[FlowCheckPart, ...], Field(min_length=1, max_length=50), CHECKS] = Field(
        alias="continue"
    )

    def flow(self) -> Flow:
        return Flow(
            self.name,
            tuple(check.check(check.capture) for check in self.opening),
            tuple(check.check(check.capture) for check in self.continuing),
        )


class LimitsPart(Part):
    """What a candidate must keep to."""

    error_rate: Annotated[Weight | None, scalars.percentage(none=True)] = Weight(100)
    p99: Annotated[float | None, scalars.duration("1ms", "10m", none=True)] = None
    min_requests: Annotated[int, scalars.whole(1, 1_000_000_000)] = 50

    def limits(self) -> Limits:
        rate = None if self.error_rate is None else self.error_rate.bp / 10_000
        return Limits(rate, self.p99, self.min_requests)


class BlueGreenPart(Part):
    """The strategy that moves all traffic at once."""

    kind: Literal["blue-green"] = "blue-green"
    watch: Annotated[float, scalars.duration("0s", "7d")] = 10.0
    manual: Annotated[bool, scalars.FLAG] = False
    limits: LimitsPart = Field(default_factory=LimitsPart)

    def strategy(self) -> Strategy:
        return BlueGreen(self.watch, self.limits.limits(), self.manual)


class StepPart(Part):
    """One rung of a canary."""

    weight: Annotated[Weight, scalars.percentage(zero=False)]
    duration: Annotated[float, scalars.duration("100ms", "30d")]


class CanaryPart(Part):
    """The strategy that moves traffic in steps."""

    kind: Literal["canary"]
    steps: Annotated[tuple[StepPart, ...], Field(min_length=1, max_length=50), Words("a list of at least one step")]
    limits: LimitsPart = Field(default_factory=LimitsPart)

    def strategy(self) -> Strategy:
        return Canary(tuple(Step(step.weight, step.duration) for step in self.steps), self.limits.limits())


def _strategy_kind(value: Any) -> Any:
    if isinstance(value, BlueGreenPart | CanaryPart):
        return value.kind
    if isinstance(value, dict):
        named = value.get("kind", "blue-green")
        return named if isinstance(named, str) else ""
    return None


StrategyPart = Annotated[
    Annotated[BlueGreenPart, Tag("blue-green")] | Annotated[CanaryPart, Tag("canary")],
    Discriminator(_strategy_kind),
    Words("a mapping with kind: blue-green or kind: canary"),
]


class StickyPart(Part):
    """What a client is known by."""

    by: Annotated[str, scalars.choice(*StickyBy)] = StickyBy.EDGE_COOKIE.value
    name: Annotated[str, scalars.HEADER_NAME] = ""


class Drain(Part):
    """How replicas leave traffic."""

    timeout: Annotated[float, scalars.duration("0s", "1d")] = 30.0


class Rollback(Part):
    """What one can go back to."""

    window: Annotated[int, scalars.WINDOW] = 5


class DatabasePart(Part):
    """The database that replicas use, and its migrations."""

    url: Annotated[str, scalars.VARIABLE] = "DATABASE_URL"
    pass_as: Annotated[str | None, scalars.VARIABLE] = None
    migrations: Annotated[str, scalars.FOLDER] = "migrations"
    schema_name: Annotated[str, scalars.LABEL] = Field(default="public", alias="schema")
    backfill_duty: Annotated[Weight, scalars.percentage(zero=False)] = Weight(10_000)
    contract: Annotated[str, scalars.choice("automatic", "manual")] = "automatic"

    def use(self) -> DatabaseUse:
        return DatabaseUse(
            self.url,
            self.pass_as or self.url,
            self.migrations,
            self.schema_name,
            self.backfill_duty.bp / 10_000,
            self.contract == "automatic",
        )


class EnvironmentPart(Part):
    """One environment; what is None is as the service says."""

    bind: Annotated[str, scalars.ADDRESS] = "127.0.0.1"
    port: Annotated[int, scalars.PORT] = 8080
    runtime: Annotated[str, scalars.choice("process")] = "process"
    replicas: Annotated[int | None, scalars.whole(1, 100)] = None
    env: dict[Annotated[str, scalars.VARIABLE], Annotated[str, scalars.SETTING]] = Field(default_factory=dict)
    env_file: Annotated[str | None, scalars.FILE] = None
    # Counts only when the file has it: a default would hide the service's own strategy.
    strategy: StrategyPart = Field(default_factory=BlueGreenPart)
    analysis: Annotated[AnalysisPart | None, GIVEN, ANALYSIS_WORDS] = None
    warm_for: Annotated[float | None, scalars.duration("0s", "30d")] = None
    approval: Annotated[str, scalars.choice("none", "operator", "admin")] = "none"
    freeze: Annotated[tuple[FreezePart, ...], Field(max_length=50), Words("a list of freezes")] = ()
    provenance: Annotated[str, scalars.choice("optional", "required")] = "optional"
    slo: Annotated[SloPolicyPart | None, GIVEN] = None
    # As with strategy: an empty list is said, and means none.
    drills: Drills = ()
    proofs: Annotated[ProofsPart | None, GIVEN] = None


class Spec(Part):
    """A whole `crossfade.yaml`."""

    service: Annotated[str, scalars.NAME]
    build: Build = Field(default_factory=Build)
    run: Run
    health: Annotated[tuple[CheckPart, ...], Field(min_length=1, max_length=50), CHECKS]
    continuity: Annotated[tuple[FlowPart, ...], Field(max_length=50), Words("a list of flows")] = ()
    strategy: StrategyPart = Field(default_factory=BlueGreenPart)
    analysis: Annotated[AnalysisPart | None, GIVEN, ANALYSIS_WORDS] = None
    sticky: StickyPart = Field(default_factory=StickyPart)
    drain: Drain = Field(default_factory=Drain)
    warm_for: Annotated[float, scalars.duration("0s", "30d")] = 600.0
    rollback: Rollback = Field(default_factory=Rollback)
    lease: Annotated[float, scalars.duration("2s", "10m")] = 15.0
    request_timeout: Annotated[float, scalars.duration("100ms", "1d")] = 60.0
    database: Annotated[DatabasePart | None, GIVEN] = None
    slo: SloPolicyPart = Field(default_factory=SloPolicyPart)
    drills: Drills = ()
    proofs: ProofsPart = Field(default_factory=ProofsPart)
    environments: Annotated[
        dict[Annotated[str, scalars.NAME], EnvironmentPart],
        Field(min_length=1, max_length=50),
        Words("a mapping with at least one environment, for example production: {port: 8080}"),
    ]
    pipeline: Annotated[PipelinePart | None, GIVEN] = None

    @classmethod
    def from_data(cls, data: Any, place: Place | None = None) -> Self:
        """From plain data, as JSON or `loader` gives it. Raises InvalidConfig with every problem at once."""
        place = place or Place(FILE_NAME)
        spec, problems = cls.examine(data, place)
        if spec is None or problems:
            raise InvalidConfig(place.in_order(problems))
        return spec

    @classmethod
    def examine(cls, data: Any, place: Place) -> tuple[Self | None, list[Problem]]:
        """The spec, if it can be read at all, and everything that is wrong with it, in no order."""
        spec: Self | None = None
        problems: list[Problem] = []
        try:
            spec = cls.model_validate(data)
        except ValidationError as error:
            problems = explain(error, cls, data, place)
        more = breaches(data, place)
        moved = {problem.key for problem in more if problem.found == MOVED}
        problems = [problem for problem in problems if problem.key not in moved]
        said = {problem.key for problem in problems}
        problems += [problem for problem in more if problem.key not in said]
        if spec is not None and not problems:
            problems = unmeant(spec.analysis, ("analysis",), place)
            for name, own in spec.environments.items():
                problems += unmeant(own.analysis, ("environments", name, "analysis"), place)
        return spec, problems

    def to_data(self) -> dict[str, Any]:
        """Plain JSON data that `from_data` reads as the same spec; it has the keys that were given."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)

    def env_files(self, environment: str) -> tuple[str, ...]:
        """Files of secret variables, relative to the project; a later one overrides. Raises NotFound."""
        return tuple(file for file in (self.run.env_file, self._own(environment).env_file) if file is not None)

    def unread(self) -> tuple[str, ...]:
        """Files of objectives that are named and were not read with the rest: see `loader.parse`."""
        parts = (self.slo, *(own.slo for own in self.environments.values() if own.slo is not None))
        return tuple(file for part in parts for file in part.openslo)

    def for_environment(self, name: str) -> ReleaseConfig:
        """What a release runs with in one environment; ``secrets`` stays empty. Raises NotFound, naming those there are."""
        own = self._own(name)
        strategy = own.strategy if "strategy" in own.model_fields_set else self.strategy
        part = self.analysis if own.analysis is None else own.analysis
        analysis = part.analysis() if part is not None else Analysis()
        slo = self.slo if own.slo is None else own.slo
        drills = own.drills if "drills" in own.model_fields_set else self.drills
        proofs = self.proofs if own.proofs is None else own.proofs
        return ReleaseConfig(
            command=self.run.command,
            env=tuple(sorted((self.run.env | own.env).items())),
            replicas=self.run.replicas if own.replicas is None else own.replicas,
            start_timeout=self.run.start_timeout,
            stop_timeout=self.run.stop_timeout,
            checks=tuple(check.check() for check in self.health),
            flows=tuple(flow.flow() for flow in self.continuity),
            runtime=own.runtime,
            bind=own.bind,
            port=own.port,
            sticky=Sticky(StickyBy(self.sticky.by), self.sticky.name),
            drain_timeout=self.drain.timeout,
            warm_for=self.warm_for if own.warm_for is None else own.warm_for,
            window=self.rollback.window,
            lease=self.lease,
            request_timeout=self.request_timeout,
            strategy=strategy.strategy(),
            analysis=replace(analysis, sources=(*analysis.sources, *slo.own_sources())),
            approval=None if own.approval == "none" else Role(own.approval),
            freezes=tuple(freeze.freeze() for freeze in own.freeze),
            provenance_required=own.provenance == "required",
            database=self.database.use() if self.database is not None else None,
            slo=slo.policy(),
            drills=tuple(drill.plan() for drill in drills),
            proofs=proofs.policy(),
        )

    def for_pipeline(self) -> Pipeline | None:
        """The pipeline that a commit goes through; None when the file has none."""
        return None if self.pipeline is None else self.pipeline.pipeline(self.service)

    def _own(self, name: str) -> EnvironmentPart:
        own = self.environments.get(name)
        if own is None:
            raise NotFound(
                f"{self.service} has no environment {name!r}.",
                hint=f"Its {FILE_NAME} has: {', '.join(self.environments)}.",
                environments=list(self.environments),
            )
        return own


@cache
def _json_schema() -> dict[str, Any]:
    from crossfade.spec.schema import for_editors  # noqa: PLC0415 - reads reference.yaml, which few commands need

    return for_editors(Spec)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of `crossfade.yaml` for editors: what can be said of a file without looking across keys."""
    return copy.deepcopy(_json_schema())
