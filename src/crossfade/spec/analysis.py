"""The `analysis:` block: how a candidate is judged, as validated values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from crossfade.domain.analysis.policy import (
    EDGE,
    ERROR_RATE,
    QUANTILES,
    Advance,
    Against,
    Analysis,
    Direction,
    Metric,
    Objective,
    Per,
    Shape,
    Source,
    SourceKind,
    WhenUnsure,
)
from crossfade.domain.errors import Invalid, InvalidConfig, Problem
from crossfade.spec import scalars, tree
from crossfade.spec.problems import Place, explain
from crossfade.spec.scalars import Words
from crossfade.spec.shape import FREE, shape_of
from crossfade.spec.shape import Path as Keys

RATE_MARGIN: Final = scalars.share("0%", "99%")
WIDE_MARGIN: Final = scalars.share("0%", "10000%")
RATIO: Final = scalars.number(1, 1000, none=True)
WEIGHT: Final = scalars.number(0.001, 1000)


def _given(value: Any) -> Any:
    if value is None:
        raise PydanticCustomError("nothing", "nothing")
    return value


GIVEN: Final = BeforeValidator(_given)


@dataclass(frozen=True)
class _OrNone:
    """The word none stands where a mapping may; nothing at all does not."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        inner = handler(source)
        return core_schema.no_info_wrap_validator_function(
            lambda value, read: None if value == "none" else read(_given(value)),
            inner,
            serialization=core_schema.wrap_serializer_function_ser_schema(
                lambda part, write: "none" if part is None else write(part), schema=inner
            ),
        )

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        part = handler(core)
        parts = [one for one in part.get("anyOf", [part]) if one != {"type": "null"}]
        return {"anyOf": [*parts, {"const": "none"}]}


"""What may be left out, but not be empty."""


class JudgedPart(BaseModel):
    """What every metric has."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    required: Annotated[bool, scalars.FLAG] = True
    dry_run: Annotated[bool, scalars.FLAG] = False
    weight: Annotated[float, WEIGHT] = 1.0


class ErrorRatePart(JudgedPart):
    """The share of failed requests."""

    margin: Annotated[float, RATE_MARGIN] = ERROR_RATE.margin
    or_ratio: Annotated[float | None, RATIO] = ERROR_RATE.ratio
    signal: Annotated[str, scalars.METRIC_NAME] = EDGE

    def metric(self) -> Metric:
        return Metric(
            ERROR_RATE.name,
            Shape.RATE,
            self.margin,
            self.signal,
            self.or_ratio,
            required=self.required,
            dry_run=self.dry_run,
            weight=self.weight,
        )


class QuantilePart(JudgedPart):
    """One quantile of the latency."""

    margin: Annotated[float, WIDE_MARGIN] = 0.2

    def metric(self, quantile: str) -> Metric:
        return Metric(
            f"latency.{quantile}",
            Shape.HISTOGRAM,
            self.margin,
            quantile=quantile,
            required=self.required,
            dry_run=self.dry_run,
            weight=self.weight,
        )


class MetricPart(JudgedPart):
    """A metric of one's own."""

    signal: Annotated[str, scalars.METRIC_NAME]
    margin: Annotated[float, WIDE_MARGIN]
    direction: Annotated[str | None, scalars.choice(*Direction)] = None
    or_ratio: Annotated[float | None, RATIO] = None
    quantile: Annotated[str, scalars.choice(*QUANTILES)] = ""

    def metric(self, name: str, source: Source) -> Metric:
        usual = Direction.EITHER if source.shape is Shape.MEAN else Direction.RISE
        return Metric(
            name,
            source.shape,
            self.margin,
            self.signal,
            self.or_ratio,
            self.quantile,
            Direction(self.direction) if self.direction else usual,
            self.required,
            self.dry_run,
            self.weight,
        )


class SloPart(BaseModel):
    """The cap that an objective sets."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    target: Annotated[float, scalars.share("1%", "99.9999%")]
    period: Annotated[float, scalars.duration("1h", "400d")] = 30 * 86_400.0
    share: Annotated[float, scalars.share("0.01%", "100%")] = 0.01
    burn: Annotated[float, scalars.number(1, 1000)] = 14.4

    def objective(self) -> Objective:
        return Objective(self.target, self.period, self.share, self.burn)


class SourcePart(BaseModel):
    """Where a signal comes from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Annotated[str, scalars.choice(*SourceKind)]
    url: Annotated[str, scalars.URL] = ""
    requests: Annotated[str, scalars.QUERY] = ""
    errors: Annotated[str, scalars.QUERY] = ""
    histogram: Annotated[str, scalars.QUERY] = ""
    value: Annotated[str, scalars.QUERY] = ""
    count: Annotated[str, scalars.QUERY] = ""
    sum: Annotated[str, scalars.QUERY] = ""
    sum_squares: Annotated[str, scalars.QUERY] = ""
    per: Annotated[str, scalars.choice(*Per)] = Per.REQUEST.value
    timeout: Annotated[float, scalars.duration("100ms", "30s")] = 2.0
    stale_after: Annotated[float, scalars.duration("1s", "1h")] = 60.0

    def source(self, name: str) -> Source:
        return Source(
            name,
            SourceKind(self.kind),
            self.url,
            self.requests,
            self.errors,
            self.histogram,
            self.value,
            self.count,
            self.sum,
            self.sum_squares,
            Per(self.per),
            self.timeout,
            self.stale_after,
        )


class AnalysisPart(BaseModel):
    """The whole block."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    false_alarm: Annotated[float, scalars.share("0.0001%", "49%")] = 0.01
    false_pass: Annotated[float, scalars.share("0.0001%", "49%")] = 0.05
    warmup: Annotated[float, scalars.duration("0s", "1d")] = 0.0
    deadline: Annotated[float, scalars.duration("1s", "30d")] = 900.0
    min_duration: Annotated[float, scalars.duration("0s", "1d")] = 0.0
    when_unsure: Annotated[str, scalars.choice(*WhenUnsure)] = WhenUnsure.HOLD.value
    advance: Annotated[str, scalars.choice(*Advance)] = Advance.TIMED.value
    strict: Annotated[bool, scalars.FLAG] = False
    baseline: Annotated[str, scalars.choice(*Against)] = Against.LIVE.value
    error_rate: Annotated[ErrorRatePart | None, _OrNone(), Words(f"{shape_of(ErrorRatePart).allowed}, or none")] = (
        Field(default_factory=ErrorRatePart)
    )
    latency: dict[Annotated[str, scalars.QUANTILE], QuantilePart] = Field(default_factory=dict)
    metrics: dict[Annotated[str, scalars.METRIC_NAME], MetricPart] = Field(default_factory=dict)
    slo: Annotated[SloPart | None, GIVEN] = None
    sources: dict[Annotated[str, scalars.METRIC_NAME], SourcePart] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _own_metrics(cls, data: Any) -> Any:
        """A metric of one's own may stand in the block itself: whatever has a signal is one."""
        if not isinstance(data, dict):
            return data
        free = {k: v for k, v in data.items() if k not in cls.model_fields and isinstance(v, dict) and "signal" in v}
        if not free:
            return data
        listed = data.get(FREE, {})
        rest = {k: v for k, v in data.items() if k not in free}
        return {**rest, FREE: {**listed, **free}} if isinstance(listed, dict) else rest

    def analysis(self) -> Analysis:
        """As the domain's values. Raises Invalid for what cannot be meant and passed all `rules`."""
        sources = tuple(part.source(name) for name, part in sorted(self.sources.items()))
        described = {source.name: source for source in sources}
        metrics = [self.error_rate.metric()] if self.error_rate is not None else []
        metrics += [self.latency[q].metric(q) for q in QUANTILES if q in self.latency]
        metrics += [
            part.metric(name, described.get(part.signal, Source(part.signal)))
            for name, part in sorted(self.metrics.items())
        ]
        found = Analysis(
            self.false_alarm,
            self.false_pass,
            self.warmup,
            self.deadline,
            self.min_duration,
            WhenUnsure(self.when_unsure),
            Advance(self.advance),
            self.strict,
            Against(self.baseline),
            tuple(metrics),
            self.slo.objective() if self.slo else None,
            sources,
        )
        found.check()
        return found


ANALYSIS_WORDS: Final = Words("a mapping of the keys of analysis, and metrics of your own")
_BLOCK: Final = "a mapping: the analysis block"


class _File(BaseModel):
    """A file of its own that has the block under its name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    analysis: Annotated[AnalysisPart, ANALYSIS_WORDS]


def unmeant(part: AnalysisPart | None, path: Keys, place: Place) -> list[Problem]:
    """What the domain still refuses of a block that keeps all the rules."""
    try:
        if part is not None:
            part.analysis()
    except Invalid as error:
        found, allowed = str(error.fields["found"]), str(error.fields["allowed"])
        return [place.problem((*path, *str(error.fields["place"]).split(".")), found, allowed)]
    return []


def read(text: str, file: str) -> Analysis:
    """From YAML text: the block itself, a mapping with the one key `analysis`, or a whole `crossfade.yaml`.

    Of a whole one only its `analysis` is read. Raises InvalidConfig with every problem.
    """
    found = tree.read(text)
    place = Place(file, found.lines)
    problems = [Problem(file, f.line, place.problem(f.path, "", "").key, f.found, f.allowed) for f in found.faults]
    part: AnalysisPart | None = None
    if found.broken:
        problems = [replace(p, allowed=_BLOCK) if p.found == tree.EMPTY else p for p in problems]
    elif not isinstance(found.data, dict):
        problems.append(place.problem((), "a list" if isinstance(found.data, list) else "a single value", _BLOCK))
    elif "service" in found.data and "analysis" not in found.data:
        problems.append(place.problem(("analysis",), "nothing", f"required: {ANALYSIS_WORDS.allowed}"))
    else:
        part, more = _examine(found.data, place)
        problems += more
    if part is None or problems:
        raise InvalidConfig(place.in_order(problems))
    return part.analysis()


def _examine(data: dict[Any, Any], place: Place) -> tuple[AnalysisPart | None, list[Problem]]:
    from crossfade.spec.rules import analysis_breaches  # noqa: PLC0415 - rules reads this module's values

    part: AnalysisPart | None = None
    problems: list[Problem] = []
    wrapped = "analysis" in data
    if wrapped and "service" in data:
        data = {"analysis": data["analysis"]}
    path: Keys = ("analysis",) if wrapped else ()
    model: type[BaseModel] = _File if wrapped else AnalysisPart
    try:
        made = model.model_validate(data)
        part = made.analysis if isinstance(made, _File) else made if isinstance(made, AnalysisPart) else None
    except ValidationError as error:
        problems = explain(error, model, data, place)
    said = {problem.key for problem in problems}
    block = data["analysis"] if wrapped else data
    problems += [problem for problem in analysis_breaches(block, path, place) if problem.key not in said]
    return part, problems or unmeant(part, path, place)


def load(path: Path) -> Analysis:
    """From a file. Raises InvalidConfig, NotFound."""
    from crossfade.spec.loader import decode, read_file  # noqa: PLC0415 - it knows the models, which know this module

    hint = "It holds the analysis block of a crossfade.yaml; an empty mapping, {}, means its defaults."
    return read(decode(read_file(path, hint), str(path)), str(path))
