"""Rules that look across the keys of a pipeline. They read the plain data, so that they speak even while other keys are wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from crossfade.domain.errors import Invalid, Problem
from crossfade.domain.pipeline.plan import DependentKind, GateKind, NodeKind, StageName, in_order
from crossfade.spec.pipeline import StagePart
from crossfade.spec.problems import Place, shown
from crossfade.spec.scalars import NAME, NotAllowed
from crossfade.spec.shape import Path, shape_of

BUILT_IN: Final = tuple(sorted(kind.value for kind in NodeKind if kind not in (NodeKind.COMMAND, NodeKind.GATE)))
"""Names that the pipeline gives to nodes of its own."""

_TESTS: Final = ("allow", "least")
_LIMITS: Final = ("least", "error_rate", "p50", "p95", "p99")
OPTIONS: Final[Mapping[GateKind, tuple[str, ...]]] = {
    GateKind.JUNIT: _TESTS,
    GateKind.TAP: _TESTS,
    GateKind.COVERAGE: ("minimum", "changed"),
    GateKind.SARIF: ("level", "baseline", "allow"),
    GateKind.AUDIT: ("allow",),
    GateKind.OPENAPI: ("allow",),
    GateKind.PACT: ("provider", "allow", "least"),
    GateKind.SCHEMATHESIS: _TESTS,
    GateKind.LOAD: _LIMITS,
    GateKind.BENCHMARK: ("margin", "allow", "least"),
}
"""What may be said of a gate besides ``kind``, ``report`` and ``after``."""

_COMMAND_ONLY: Final = ("run", "health", "env", "artifact")
_DEPLOYING: Final = ("environment", "smoke", "load")


def pipeline_breaches(value: Any, environments: Any, place: Place) -> list[Problem]:
    """Every rule that the pipeline breaks. A value that is wrong by itself breaks no rule here."""
    known = list(environments) if isinstance(environments, dict) and all(map(_is_name, environments)) else []
    stages = {name: found for name in StageName if (found := _stages(value).get(name.value)) is not None}
    problems: list[Problem] = []
    if "stages" in _mapping(value) and value["stages"] == {}:
        problems.append(place.problem(("pipeline", "stages"), "no stage", f"at least one of {', '.join(StageName)}"))
    deployed: dict[str, str] = {}
    for name, stage in stages.items():
        path = ("pipeline", "stages", name.value)
        problems += _names(_mapping(stage), path, place)
        problems += _services(_mapping(stage), name, path, place)
        problems += _gates(_mapping(stage), path, place)
        if _known(_mapping(stage)):  # a misspelt key or name is told once, not also as what then is not there
            problems += _graph(_mapping(stage), name, path, place)
            problems += _providers(_mapping(stage), path, place)
        problems += _caches(_mapping(stage), name, path, place)
        problems += _belongs(_mapping(stage), name, known, stages, path, place)
        problems += _flows(_mapping(stage), path, place)
        if name.deploys and isinstance(stage, dict):
            problems += _where(stage, name, known, deployed, path, place)
    return problems


def pipeline_checks(value: Any) -> Iterator[tuple[Path, dict[Any, Any]]]:
    """The checks in a pipeline, each with its path."""
    for name, stage in _stages(value).items():
        path = ("pipeline", "stages", name)
        for service, part in _mapping(_mapping(stage).get("services")).items():
            yield (*path, "services", service, "health"), _mapping(_mapping(part).get("health"))
        for index, flow in enumerate(_items(_mapping(stage).get("smoke"))):
            for number, check in enumerate(_items(_mapping(flow).get("checks"))):
                yield (*path, "smoke", index, "checks", number), _mapping(check)


def _mapping(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


def _items(value: Any) -> list[Any] | tuple[Any, ...]:
    return value if isinstance(value, list | tuple) else []


def _stages(value: Any) -> dict[str, Any]:
    stages = _mapping(_mapping(value).get("stages"))
    return {name: stage for name, stage in stages.items() if isinstance(name, str)}


def _named(value: Any) -> list[str]:
    """The names of a mapping with free names."""
    return [name for name in _mapping(value) if isinstance(name, str)]


def _texts(value: Any) -> list[tuple[int, str]]:
    return [(number, item) for number, item in enumerate(_items(value)) if isinstance(item, str)]


def _among(names: list[str], but: str = "") -> str:
    others = [name for name in names if name != but]
    return f"one of {', '.join(others)}" if others else "nothing: the stage has no other step"


def _is_name(value: Any) -> bool:
    try:
        NAME.read(value)
    except NotAllowed:
        return False
    return True


def _known(stage: dict[Any, Any]) -> bool:
    """Whether every key of a stage is one that can be, and every step and service has a name that can be."""
    named = (*_mapping(stage.get("steps")), *_mapping(stage.get("services")))
    return set(stage) <= set(shape_of(StagePart).keys) and all(map(_is_name, named))


def _names(stage: dict[Any, Any], path: Path, place: Place) -> Iterator[Problem]:
    """Names that are nodes of the pipeline's own, and names twice."""
    steps, gates = _named(stage.get("steps")), _named(stage.get("gates"))
    for part, names in (("steps", steps), ("gates", gates)):
        for given in names:
            if given in BUILT_IN:
                allowed = f"a name other than {', '.join(BUILT_IN)}"
                yield place.problem((*path, part, given), f"the name {given!r}", allowed)
    for given in gates:
        if given in steps:
            yield place.problem((*path, "gates", given), f"the name {given!r}", "a name that no step of the stage has")


def _graph(stage: dict[Any, Any], name: StageName, path: Path, place: Place) -> Iterator[Problem]:
    """Needs of strangers, circles."""
    steps, gates = _named(stage.get("steps")), _named(stage.get("gates"))
    needs: dict[str, list[str]] = {}
    for step in steps:
        here = (*path, "steps", step, "needs")
        needs[step] = []
        for number, other in _texts(_mapping(stage["steps"][step]).get("needs")):
            if other == step or other not in steps:
                yield place.problem((*here, number), shown(other, here), _among(steps, step))
            else:
                needs[step].append(other)
    try:
        in_order(name.value, needs)
    except Invalid as circle:
        first = _loop(circle).partition(" ")[0]
        yield place.problem((*path, "steps", first, "needs"), _loop(circle), "steps that need each other in no circle")
    for gate in gates:
        here = (*path, "gates", gate, "after")
        for number, other in _texts(_mapping(stage["gates"][gate]).get("after")):
            if other not in steps:
                yield place.problem((*here, number), shown(other, here), _among(steps))


def _loop(circle: Invalid) -> str:
    """``a -> b -> a``, without the quotes around it."""
    return str(circle.fields["found"]).strip("'")


def _services(stage: dict[Any, Any], name: StageName, path: Path, place: Place) -> Iterator[Problem]:
    for service, part in _mapping(stage.get("services")).items():
        found, here = _mapping(part), (*path, "services", service)
        if service == "crossfade":
            yield place.problem(here, "the name 'crossfade'", "a name whose variables are not Crossfade's own")
        kind = found.get("kind")
        if kind == DependentKind.COMMAND.value:
            for key, what in (("run", "a command"), ("health", "a check that passes once it is up")):
                if key not in found:
                    yield place.problem((*here, key), "nothing", f"required with kind: command: {what}")
            if found.get("artifact") is True and name is StageName.COMMIT:
                yield place.problem((*here, "artifact"), "true", "false in stage commit, which makes the artifact")
        elif isinstance(kind, str) and kind in tuple(DependentKind):
            for key in _COMMAND_ONLY:
                if key in found:
                    yield place.problem((*here, key), shown(found[key], (*here, key)), "only with kind: command")


def _gates(stage: dict[Any, Any], path: Path, place: Place) -> Iterator[Problem]:
    for name, part in _mapping(stage.get("gates")).items():
        gate, here = _mapping(part), (*path, "gates", name)
        kind = gate.get("kind")
        if not isinstance(kind, str) or kind not in tuple(GateKind):
            continue
        meant = OPTIONS[GateKind(kind)]
        for key in {option for options in OPTIONS.values() for option in options} & set(gate):
            if key not in meant:
                owners = " or ".join(other for other, options in OPTIONS.items() if key in options)
                yield place.problem((*here, key), shown(gate[key], (*here, key)), f"only with kind: {owners}")
        if kind == GateKind.PACT.value and "provider" not in gate:
            yield place.problem((*here, "provider"), "nothing", "required with kind: pact: one of the stage's services")


def _providers(stage: dict[Any, Any], path: Path, place: Place) -> Iterator[Problem]:
    services = list(_mapping(stage.get("services")))
    for name, part in _mapping(stage.get("gates")).items():
        gate, here = _mapping(part), (*path, "gates", name, "provider")
        provider = gate.get("provider")
        if gate.get("kind") == GateKind.PACT.value and isinstance(provider, str) and provider not in services:
            allowed = (
                f"one of {', '.join(services)}" if services else "one of the stage's services, of which it has none"
            )
            yield place.problem(here, shown(provider, here), allowed)


def _caches(stage: dict[Any, Any], name: StageName, path: Path, place: Place) -> Iterator[Problem]:
    for step, part in _mapping(stage.get("steps")).items():
        found = _mapping(part)
        if "cache" not in found:
            continue
        here = (*path, "steps", step, "cache")
        for key in ("needs", "secrets"):
            if found.get(key):
                allowed = f"a cache only on a step without {key}: only what a step says it is made from may count"
                yield place.problem(here, shown(found["cache"], here), allowed)
        if name.deploys:
            allowed = "a cache only in a stage that does not deploy: what is tried here is not among its inputs"
            yield place.problem(here, shown(found["cache"], here), allowed)


def _belongs(
    stage: dict[Any, Any],
    name: StageName,
    environments: list[str],
    stages: Mapping[StageName, Any],
    path: Path,
    place: Place,
) -> Iterator[Problem]:
    """What only some stages have."""
    if not name.deploys:
        for key in _DEPLOYING:
            if key in stage:
                allowed = "only in stage staging or production, which deploy"
                yield place.problem((*path, key), shown(stage[key], path), allowed)
    if "compare" in stage and name is not StageName.INTEGRATION:
        yield place.problem((*path, "compare"), shown(stage["compare"], path), "only in stage integration")
    elif (
        "compare" in stage and StageName.PRODUCTION not in stages and environments and "production" not in environments
    ):
        allowed = "only with a stage or an environment production, whose release it compares with"
        yield place.problem((*path, "compare"), shown(stage["compare"], path), allowed)
    blocks = _mapping(_mapping(stage.get("compare")).get("blocks"))
    least, most = blocks.get("least", 20), blocks.get("most", 80)
    if isinstance(least, int) and isinstance(most, int) and least > most:
        key = "least" if "least" in blocks else "most"
        allowed = f"at most most ({most})" if key == "least" else f"at least least ({least})"
        yield place.problem((*path, "compare", "blocks", key), shown(blocks[key], path), allowed)
    load = _mapping(stage.get("load"))
    if name.deploys and isinstance(stage.get("load"), dict) and not ("rate" in load and load.get("requests")):
        like = load.get("like", "production")
        if environments and isinstance(like, str) and like not in environments:
            allowed = f"one of {', '.join(environments)}, or rate and requests, which then count instead"
            yield place.problem((*path, "load", "like"), shown(like, path), allowed)


def _flows(stage: dict[Any, Any], path: Path, place: Place) -> Iterator[Problem]:
    seen: set[str] = set()
    for number, flow in enumerate(_items(stage.get("smoke"))):
        name = _mapping(flow).get("name")
        if isinstance(name, str) and name.strip():
            if name.strip() in seen:
                here = (*path, "smoke", number, "name")
                yield place.problem(here, shown(name, here), "a name that no other here has")
            seen.add(name.strip())


def _where(
    stage: dict[Any, Any],
    name: StageName,
    environments: list[str],
    deployed: dict[str, str],
    path: Path,
    place: Place,
) -> Iterator[Problem]:
    """A stage that deploys does so to an environment that there is, and to one of its own."""
    where = stage.get("environment", name.value)
    if not isinstance(where, str):
        return
    here = (*path, "environment")
    if environments and where not in environments:
        yield place.problem(here, shown(where, here), f"one of {', '.join(environments)}")
    elif where in deployed:
        yield place.problem(here, shown(where, here), f"another environment: stage {deployed[where]} deploys there")
    deployed.setdefault(where, name.value)
