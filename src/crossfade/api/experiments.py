"""Routes of an environment's experiments."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path
from fastapi.responses import Response
from pydantic import Field

from crossfade.api import cursors
from crossfade.api import flag_answers as give
from crossfade.api.answers import Page
from crossfade.api.environments import EnvironmentName, ServiceName
from crossfade.api.guard import GuardedRoute, Scope, Who, named, needs
from crossfade.api.models import Body, By, Line
from crossfade.api.problems import Json
from crossfade.domain.access import Role
from crossfade.domain.experiments.plan import UNITS, Direction, Metric, MetricKind, Plan, Window
from crossfade.domain.experiments.plots import PLOTS
from crossfade.domain.values import EnvKey
from crossfade.service import Service

Name = Annotated[str, Path(max_length=100, description="The name of an experiment.", examples=["checkout-page"])]
PlotName = Annotated[str, Path(max_length=40, description="Which.", examples=[next(iter(PLOTS))])]
Word = Annotated[str, Field(max_length=200)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class MetricBody(Body):
    """What variants are compared by."""

    name: Word = Field(description="What people call it.", examples=["orders"])
    kind: MetricKind = Field(
        description="Made of a unit's events: whether any, the sum of their values, or how many.",
        examples=["conversion"],
    )
    event: Word = Field(description="What is tracked.", examples=["paid"])
    direction: Direction = Field(default=Direction.UP, description="Where it is better.", examples=["up"])
    margin: Number = Field(default=0.0, description="A change that does not matter, as a share.", examples=[0.02])
    window: Number | None = Field(default=None, description="Seconds after its exposure that count.", examples=[3600.0])
    primary: bool = Field(default=False, description="It decides; the first one when none does.", examples=[True])
    cuped: bool = Field(default=False, description="Take out what events before the exposure tell.", examples=[False])


class WindowBody(Body):
    """A time that does not count."""

    begins: Number = Field(description="Epoch seconds.", examples=[1767225600.0])
    ends: Number = Field(description="Epoch seconds.", examples=[1767229200.0])
    why: Line = Field(default="", description="What happened.", examples=["the payment provider was away"])


class ExperimentBody(Body):
    """An experiment, as it is decided before its first unit comes."""

    name: Word = Field(description="Its name.", examples=["checkout-page"])
    flag: Word = Field(description="The flag that it tries.", examples=["new-checkout"])
    control: Word = Field(description="The variant that the others are compared with.", examples=["off"])
    treatments: list[Word] = Field(max_length=100, description="The others.", examples=[["on"]])
    metrics: list[MetricBody] = Field(max_length=100, description="What they are compared by.",
                                      examples=[[{"name": "orders", "kind": "conversion", "event": "paid"}]])  # fmt: skip
    weights: dict[Word, int] = Field(
        default_factory=dict,
        max_length=100,
        description="Basis points that each is to have; as the flag splits when absent.",
        examples=[{"off": 5000, "on": 5000}],
    )
    segments: list[Word] = Field(
        default_factory=list, max_length=100, description="Attributes to show the primary metric by.",
        examples=[["country"]],
    )  # fmt: skip
    alpha: Number = Field(
        default=0.05, description="How often an interval may ever leave out the truth.", examples=[0.05]
    )
    units: int = Field(default=UNITS, strict=True, description="How many units are expected.", examples=[10_000])
    exclude_rollouts: bool = Field(
        default=True, description="What comes while a rollout moves traffic does not count.", examples=[True]
    )
    hypothesis: Line = Field(default="", description="What is expected.", examples=["more orders"])
    by: By = ""

    def plan(self) -> Plan:
        """As the domain has it."""
        metrics = tuple(Metric(**metric.model_dump()) for metric in self.metrics)
        return Plan(
            self.name,
            self.flag,
            self.control,
            tuple(self.treatments),
            dict(self.weights),
            metrics,
            tuple(self.segments),
            self.alpha,
            units=self.units,
        )


class ExperimentCommand(Body):
    """A command for an experiment."""

    command: Literal["start", "stop", "conclude"] = Field(description="What to do.", examples=["conclude"])
    ship: Word | None = Field(
        default=None, description="With conclude: the variant that everybody gets from now on.", examples=["on"]
    )
    why: Line = Field(default="", description="For those who look later.", examples=["more orders, as expected"])
    by: By = ""


class WindowsBody(Body):
    """All times that don't count, beside rollouts."""

    windows: list[WindowBody] = Field(
        max_length=1000,
        description="In place of those before.",
        examples=[[{"begins": 1767225600.0, "ends": 1767229200.0}]],
    )
    by: By = ""


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter(route_class=GuardedRoute, tags=["experiments"])
    place = "/environments/{service_name}/{environment}/experiments"
    one = place + "/{experiment}"

    @routes.get(place, responses={200: {"model": Page[give.Experiment]}})
    @needs(Role.VIEWER, Scope.ENVIRONMENT)
    def list_experiments(service_name: ServiceName, environment: EnvironmentName) -> Json:
        """Its experiments, newest first."""
        return Json(cursors.whole(service.experiments.list(EnvKey(service_name, environment))))

    @routes.post(place, status_code=201, responses={201: {"model": give.Experiment}})
    @needs(Role.OPERATOR, Scope.ENVIRONMENT)
    def create(who: Who, service_name: ServiceName, environment: EnvironmentName, body: ExperimentBody) -> Json:
        """Make one. It is not started yet."""
        made = service.experiments.create(
            EnvKey(service_name, environment),
            body.plan(),
            named(who, body.by),
            exclude_rollouts=body.exclude_rollouts,
            hypothesis=body.hypothesis,
        )
        return Json(made, 201)

    @routes.get(one, responses={200: {"model": give.Experiment}})
    @needs(Role.VIEWER, Scope.ENVIRONMENT)
    def experiment(service_name: ServiceName, environment: EnvironmentName, experiment: Name) -> Json:
        """One experiment."""
        return Json(service.experiments.get(EnvKey(service_name, environment), experiment))

    @routes.get(f"{one}/results", responses={200: {"model": give.ExperimentResults}})
    @needs(Role.VIEWER, Scope.ENVIRONMENT)
    def results(service_name: ServiceName, environment: EnvironmentName, experiment: Name) -> Json:
        """What it has shown so far; valid whenever one looks, and however often."""
        return Json(service.experiments.results(EnvKey(service_name, environment), experiment))

    @routes.get(
        f"{one}/plots/{{plot}}",
        response_class=Response,
        responses={200: {"content": {"image/svg+xml": {"schema": {"type": "string"}}}, "description": "The plot."}},
    )
    @needs(Role.VIEWER, Scope.ENVIRONMENT)
    def plot(service_name: ServiceName, environment: EnvironmentName, experiment: Name, plot: PlotName) -> Response:
        """What it has shown so far, as SVG."""
        drawn = service.experiments.plot(EnvKey(service_name, environment), experiment, plot)
        return Response(drawn, media_type="image/svg+xml")

    @routes.post(f"{one}/commands", responses={200: {"model": give.ExperimentChanged}})
    @needs(Role.OPERATOR, Scope.ENVIRONMENT)
    def command(
        who: Who, service_name: ServiceName, environment: EnvironmentName, experiment: Name, body: ExperimentCommand
    ) -> Json:
        """Start, stop or conclude it, and ship a variant with that."""
        key, by, use = EnvKey(service_name, environment), named(who, body.by), service.experiments
        match body.command:
            case "start":
                return Json({**use.start(key, experiment, by), "change": None})
            case "stop":
                return Json({**use.stop(key, experiment, by, body.why), "change": None})
            case "conclude":
                return Json(use.conclude(key, experiment, body.ship, by, body.why))

    @routes.put(f"{one}/excluded", responses={200: {"model": give.Experiment}})
    @needs(Role.OPERATOR, Scope.ENVIRONMENT)
    def exclude(
        who: Who, service_name: ServiceName, environment: EnvironmentName, experiment: Name, body: WindowsBody
    ) -> Json:
        """Say which times don't count: incidents."""
        windows = [Window(window.begins, window.ends, window.why) for window in body.windows]
        key = EnvKey(service_name, environment)
        return Json(service.experiments.exclude(key, experiment, windows, named(who, body.by)))

    @routes.delete(one, status_code=204, responses={204: {"description": "Done."}})
    @needs(Role.OPERATOR, Scope.ENVIRONMENT)
    def remove(who: Who, service_name: ServiceName, environment: EnvironmentName, experiment: Name) -> Response:
        """Forget it with all that was counted."""
        service.experiments.remove(EnvKey(service_name, environment), experiment, who)
        return Response(status_code=204)

    return routes
