"""Rules that look across the keys of objectives, drills and proofs. They read the plain data, as all rules do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from crossfade.domain.errors import Problem
from crossfade.domain.slo import Kind
from crossfade.spec.problems import Place, shown
from crossfade.spec.scalars import METRIC, NAME, WINDOW, NotAllowed
from crossfade.spec.shape import Path, shape_of
from crossfade.spec.slo import SloPolicyPart

USUAL_WINDOW: Final = 5
"""`rollback.window` where a file has none."""


def slo_breaches(data: dict[Any, Any], place: Place) -> list[Problem]:
    """Every rule that `slo`, `drills` and `proofs` break, wherever they stand."""
    environments = _mapping(data.get("environments"))
    names = [name for name in environments if isinstance(name, str)]
    # A misspelt name or key is told once, not also as what then is not there.
    spelt = bool(names) and all(_is(NAME, name) for name in names)
    window = _mapping(data.get("rollback")).get("window", USUAL_WINDOW)
    problems: list[Problem] = []
    for around, here in (((), data), *((("environments", name), _mapping(environments[name])) for name in names)):
        slo = _mapping(here.get("slo"))
        for number, objective in enumerate(_items(slo.get("objectives")) if well_spelt(slo) else ()):
            problems += _objective(_mapping(objective), (*around, "slo", "objectives", number), place)
        problems += _drills(here.get("drills"), window, (*around, "drills"), place)
        where = _mapping(here.get("proofs")).get("in")
        if isinstance(where, str) and where not in names and spelt:
            allowed = f"one of the environments of this file: {', '.join(names)}"
            problems.append(place.problem((*around, "proofs", "in"), shown(where, ()), allowed))
    for name in names:
        problems += _signals(data, name, place)
    return problems


def well_spelt(slo: dict[Any, Any]) -> bool:
    """Whether each key of a block is one that can be."""
    keys = shape_of(SloPolicyPart).keys
    sources, objectives = keys["sources"].each, keys["objectives"].each
    assert sources is not None and objectives is not None  # a mapping, and a list
    parts = [(slo, keys)]
    parts += [(_mapping(one), sources.keys) for one in _mapping(slo.get("sources")).values()]
    parts += [(_mapping(one), objectives.keys) for one in _items(slo.get("objectives"))]
    named = all(isinstance(name, str) and METRIC.fullmatch(name) for name in _mapping(slo.get("sources")))
    return named and all(set(part) <= set(known) for part, known in parts)


def _objective(objective: dict[Any, Any], path: Path, place: Place) -> Iterator[Problem]:
    kind = objective.get("kind", Kind.AVAILABILITY.value)
    if kind == Kind.LATENCY.value and "under" not in objective:
        yield place.problem((*path, "under"), "nothing", "required with kind: latency: how long a good answer may take")
    elif kind == Kind.AVAILABILITY.value and "under" in objective:
        yield place.problem((*path, "under"), shown(objective["under"], path), "only with kind: latency")


def _drills(drills: Any, window: Any, path: Path, place: Place) -> Iterator[Problem]:
    if isinstance(window, bool) or not isinstance(window, int) or not _is(WINDOW, window):
        return
    for number, drill in enumerate(_items(drills)):
        back = _mapping(drill).get("back", 1)
        if isinstance(back, int) and not isinstance(back, bool) and window < back <= 10:
            allowed = f"at most rollback.window ({window}): releases beyond it are not kept"
            yield place.problem((*path, number, "back"), shown(back, path), allowed)


def _signals(data: dict[Any, Any], name: str, place: Place) -> Iterator[Problem]:
    """What the objectives of an environment are counted by, among the sources that count there."""
    own = _mapping(_mapping(data.get("environments")).get(name))
    at: Path = ("environments", name, "slo") if "slo" in own else ("slo",)
    slo = _mapping(own.get("slo") if "slo" in own else data.get("slo"))
    analysis = _mapping(own.get("analysis") if "analysis" in own else data.get("analysis"))
    judged, counted = _mapping(analysis.get("sources")), _mapping(slo.get("sources"))
    for twice in sorted(str(one) for one in judged.keys() & counted.keys()):
        yield place.problem((*at, "sources", twice), f"the name {twice!r}", "a name that no source of analysis has")
    sources = {**judged, **counted}
    for number, one in enumerate(_items(slo.get("objectives")) if well_spelt(slo) else ()):
        objective = _mapping(one)
        signal = objective.get("signal")
        if not isinstance(signal, str) or not METRIC.fullmatch(signal):
            continue
        latency = objective.get("kind") == Kind.LATENCY.value
        wanted, what = ("histogram", "a histogram") if latency else ("requests", "requests and errors")
        if wanted not in _mapping(sources.get(signal)):
            whose = f" of {name}" if "analysis" in own else ""
            allowed = f"one of slo.sources, or of analysis.sources{whose}, that has {what}"
            yield place.problem((*at, "objectives", number, "signal"), shown(signal, at), allowed)


def _is(kind: Any, value: Any) -> bool:
    try:
        kind.read(value)
    except NotAllowed:
        return False
    return True


def _mapping(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


def _items(value: Any) -> list[Any] | tuple[Any, ...]:
    return value if isinstance(value, list | tuple) else []
