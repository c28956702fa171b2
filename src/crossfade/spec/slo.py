"""The `slo:`, `drills:` and `proofs:` sections, as validated values.

What each key means is written once, in `reference.yaml`; what keys mean together is in `slo_rules`.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import Field

from crossfade.domain.analysis.policy import Source
from crossfade.domain.drill import DrillPlan, Fault, ProofPolicy
from crossfade.domain.slo import Exhausted, Kind, Objective, OnBurn, Probe, SloPolicy
from crossfade.spec import pipeline_scalars as own
from crossfade.spec import scalars
from crossfade.spec.analysis import SourcePart
from crossfade.spec.health import Part
from crossfade.spec.scalars import NotAllowed, Words

MOST_OBJECTIVES: Final = 20
MOST_DRILLS: Final = 20

_SHARE: Final = scalars.share("1%", "100%")
_BELOW: Final = scalars.share("1%", "99.9999%")
_ANY_WINDOW: Final = scalars.duration("1s", "100000d")
_KEPT: Final = scalars.duration("1h", "35d")


def _target(value: Any) -> float:
    if _SHARE.read(value) >= 1:
        raise NotAllowed(
            "at most 99.9999%: with 100% there is no error budget, and each failed request would be an alarm"
        )
    return float(_BELOW.read(value))


def _window(value: Any) -> float:
    if _ANY_WINDOW.read(value) > 35 * 86_400.0:
        raise NotAllowed("at most 35d: what was counted is kept so long")
    return float(_KEPT.read(value))


def never_or(low: str, high: str) -> scalars.Kind:
    """``0s`` for never, or how often."""
    some = scalars.duration(low, high)

    def read(value: Any) -> float:
        seconds = float(scalars.duration("0s", high).read(value))
        return seconds if seconds == 0 else float(some.read(value))

    return scalars.Kind(f"0s for never, or {some.allowed}", read, some.write, some.schema)


def _name(value: Any) -> str:
    if isinstance(value, str) and value.startswith("@"):
        raise NotAllowed("a name without '@': names with it are Crossfade's own")
    return str(scalars.METRIC_NAME.read(value))


TARGET: Final = scalars.Kind(_BELOW.allowed, _target, _BELOW.write, _BELOW.schema)
WINDOW: Final = scalars.Kind(_KEPT.allowed, _window, _KEPT.write, _KEPT.schema)
UNDER: Final = scalars.duration("1ms", "5m")
OBJECTIVE_NAME: Final = scalars.Kind(scalars.METRIC_NAME.allowed, _name, schema=scalars.METRIC_NAME.schema)


class ObjectivePart(Part):
    """One promise."""

    name: Annotated[str, OBJECTIVE_NAME]
    target: Annotated[float, TARGET]
    kind: Annotated[str, scalars.choice(*Kind)] = Kind.AVAILABILITY.value
    window: Annotated[float, WINDOW] = 30 * 86_400.0
    under: Annotated[float | None, UNDER] = None
    signal: Annotated[str, scalars.METRIC_NAME] = ""

    def objective(self) -> Objective:
        return Objective(self.name, self.target, Kind(self.kind), self.window, self.under, self.signal)


class ProbePart(Part):
    """The prober that asks the edge from outside."""

    every: Annotated[float, never_or("1s", "1h")] = 10.0
    path: Annotated[str, scalars.PATH] = ""
    timeout: Annotated[float, scalars.duration("100ms", "1m")] = 5.0

    def probe(self) -> Probe:
        return Probe(self.every, self.path, self.timeout)


class SloPolicyPart(Part):
    """What an environment is held to, and what follows."""

    objectives: Annotated[
        tuple[ObjectivePart, ...], Field(max_length=MOST_OBJECTIVES), Words("a list of at most 20 objectives")
    ] = ()
    sources: dict[Annotated[str, scalars.METRIC_NAME], SourcePart] = Field(default_factory=dict)
    openslo: Annotated[tuple[str, ...], own.PLAIN_FILES] = ()
    watch: Annotated[float, scalars.duration("0s", "7d")] = 1800.0
    on_burn: Annotated[str, scalars.choice(*OnBurn)] = OnBurn.ROLLBACK.value
    exhausted: Annotated[str, scalars.choice(*Exhausted)] = Exhausted.FREEZE.value
    probe: ProbePart = Field(default_factory=ProbePart)

    def policy(self) -> SloPolicy:
        return SloPolicy(
            tuple(objective.objective() for objective in self.objectives),
            self.watch,
            OnBurn(self.on_burn),
            Exhausted(self.exhausted),
            self.probe.probe(),
        )

    def own_sources(self) -> tuple[Source, ...]:
        """In order of their names."""
        return tuple(part.source(name) for name, part in sorted(self.sources.items()))


class DrillPart(Part):
    """One rehearsed rollback."""

    name: Annotated[str, scalars.NAME]
    schedule: Annotated[str, scalars.CRON] = ""
    zone: Annotated[str, own.ZONE] = "UTC"
    back: Annotated[int, scalars.whole(1, 10)] = 1
    hold: Annotated[float, scalars.duration("0s", "1h")] = 30.0
    fault: Annotated[str | None, scalars.choice(*Fault)] = None

    def plan(self) -> DrillPlan:
        fault = None if self.fault is None else Fault(self.fault)
        return DrillPlan(self.name, self.schedule, self.zone, self.back, self.hold, fault)


class ProofsPart(Part):
    """How the rollback window is proven."""

    every: Annotated[float, never_or("1s", "35d")] = 86_400.0
    where: Annotated[str, scalars.NAME] = Field(default="", alias="in")

    def policy(self) -> ProofPolicy:
        return ProofPolicy(self.every, self.where)


Drills = Annotated[tuple[DrillPart, ...], Field(max_length=MOST_DRILLS), Words("a list of at most 20 drills")]
