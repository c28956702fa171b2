"""OpenSLO files (openslo/v1): what of them can be counted, as objectives and sources of a `crossfade.yaml`.

Read are SLO, SLI and DataSource. The kinds that are about alerts and catalogues are known and left out: Crossfade has rules
and alerts of its own. All else is refused with its line, rather than counted as something that was not meant.
https://github.com/OpenSLO/OpenSLO
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

from crossfade.domain.errors import InvalidConfig, NotFound, Problem
from crossfade.domain.slo import Kind
from crossfade.spec import openslo_queries as queries
from crossfade.spec import pipeline_scalars, scalars
from crossfade.spec.openslo_objects import LEFT_OUT, Object, Wrong, objects
from crossfade.spec.problems import Place, shown
from crossfade.spec.scalars import NotAllowed, show_seconds
from crossfade.spec.shape import Path
from crossfade.spec.slo import OBJECTIVE_NAME, TARGET, UNDER, WINDOW
from crossfade.spec.written import comments, scalar

SOMEWHERE: Final = "http://127.0.0.1:9090"
"""Where Prometheus is when nothing says so: its own default."""

_SLO_KEYS: Final = (
    "description",
    "service",
    "indicator",
    "indicatorRef",
    "timeWindow",
    "budgetingMethod",
    "objectives",
    "alertPolicies",
)
_OBJECTIVE_KEYS: Final = ("displayName", "op", "value", "target", "targetPercent", "timeSliceTarget", "timeSliceWindow")
_RATIO_KEYS: Final = ("counter", "good", "bad", "total", "raw", "rawType")
_WHERE: Final = ("url", "URL", "uri", "address", "endpoint")
"""Keys under which files have the URL of a DataSource: the specification leaves that open."""
_DURATION: Final = re.compile(r"([1-9][0-9]{0,5})([mhdwMQY])")


@dataclass(slots=True)
class Converted:
    """Plain data of a `slo:` block. ``ignored`` names what was left out; ``places`` says where each objective stands."""

    objectives: list[dict[str, Any]] = field(default_factory=list)
    sources: dict[str, dict[str, Any]] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)
    places: dict[str, tuple[Place, Path]] = field(default_factory=dict)


def read(files: Sequence[tuple[str, str]], url: str = "") -> Converted:
    """From the names and texts of files, which may refer to each other. Raises InvalidConfig with every problem.

    ``url``: where Prometheus answers for those that do not say where their numbers are.
    """
    problems: list[Problem] = []
    there = [found for file, text in files for found in objects(file, text, problems)]
    reader = _Reader(there, url)
    for one in there:
        try:
            reader.take(one)
        except Wrong as wrong:
            problems.append(wrong.problem)
    if problems:
        order = {file: number for number, (file, _) in enumerate(files)}
        raise InvalidConfig(sorted(dict.fromkeys(problems), key=lambda p: (order.get(p.file, 0), p.line)))
    return reader.made


def convert(text: str, file: str) -> str:
    """The `slo:` block for a `crossfade.yaml`, as YAML with comments. Raises InvalidConfig with every problem."""
    found = read([(file, text)], SOMEWHERE)
    notes = [f"From {file}."]
    if found.ignored:
        notes.append(f"Left out: {', '.join(found.ignored)}.")
    if any(source["url"] == SOMEWHERE for source in found.sources.values()):
        notes.append(f"Check url: {SOMEWHERE} is where Prometheus is by default.")
    lines = [*comments("", notes), "slo:"]
    lines += ["  objectives:" if found.objectives else "  objectives: []"]
    for one in found.objectives:
        inside = ", ".join(f"{key}: {_written(value)}" for key, value in one.items())
        lines.append(f"    - {{{inside}}}")
    if found.sources:
        lines.append("  sources:")
    for name, source in found.sources.items():
        lines.append(f"    {name}:")
        lines += [f"      {key}: {_written(value)}" for key, value in source.items()]
    return "\n".join(lines) + "\n"


def _written(value: str) -> str:
    return value if re.fullmatch(r"[0-9.]+[a-z%]+", value) else scalar(value)


def resolve(
    data: dict[str, Any], place: Place, content: Callable[[str], bytes]
) -> tuple[dict[str, Any], list[Problem]]:
    """A `crossfade.yaml` with the objectives of the files that it names, and what is wrong with them.

    ``content`` gives what a file inside the project holds; it raises NotFound, InvalidConfig.
    """
    problems: list[Problem] = []
    if "slo" in data:
        data = {**data, "slo": _resolved(data, data["slo"], ("slo",), place, content, problems)}
    environments = data.get("environments")
    for name, own in environments.items() if isinstance(environments, dict) else ():
        if isinstance(own, dict) and "slo" in own:
            path = ("environments", name, "slo")
            around = {"analysis": data.get("analysis"), **own}
            fresh = {**own, "slo": _resolved(around, own["slo"], path, place, content, problems)}
            data = {**data, "environments": {**data["environments"], name: fresh}}
    return data, problems


def _resolved(
    around: Mapping[str, Any],
    slo: Any,
    path: Path,
    place: Place,
    content: Callable[[str], bytes],
    problems: list[Problem],
) -> Any:
    try:
        names = pipeline_scalars.PLAIN_FILES.read(slo["openslo"])
    except (NotAllowed, KeyError, TypeError):
        return slo  # it has none, or what is wrong with it is told with the rest
    texts: list[tuple[str, str]] = []
    for number, name in enumerate(names):
        try:
            texts.append((name, content(name).decode("utf-8-sig")))
        except NotFound:
            problems.append(place.problem((*path, "openslo", number), f"{name!r}, which is not there", "a file"))
        except UnicodeDecodeError:
            problems.append(Problem(name, 0, "the file", "bytes that are not UTF-8", "text in UTF-8"))
        except InvalidConfig as error:
            problems += error.problems
    objectives, sources = slo.get("objectives", []), slo.get("sources", {})
    if len(texts) < len(names) or not isinstance(objectives, list) or not isinstance(sources, dict):
        return slo
    try:
        found = read(texts, _prometheus(_mapping(_mapping(around.get("analysis")).get("sources")), sources))
    except InvalidConfig as error:
        problems += error.problems
        return slo
    taken = {one.get("name") for one in objectives if isinstance(one, dict)}
    judged = _mapping(_mapping(around.get("analysis")).get("sources"))
    for name, (where, at) in found.places.items():
        if name in taken or (name in found.sources and (name in sources or name in judged)):
            problems.append(where.problem(at, shown(name, ()), f"a name that nothing in {place.file} has"))
    rest = {key: value for key, value in slo.items() if key != "openslo"}
    merged = {"objectives": [*objectives, *found.objectives], "sources": {**found.sources, **sources}}
    return {**rest, **{key: value for key, value in merged.items() if value}}


def _prometheus(*sources: Mapping[str, Any]) -> str:
    """The URL of the only Prometheus that others are read from; empty when there is none, or several."""
    found = {
        str(source.get("url"))
        for each in sources
        for source in each.values()
        if isinstance(source, dict) and source.get("kind") == "prometheus"
    }
    return found.pop() if len(found) == 1 else ""


# --- objects


class _Reader:
    """Makes objectives of the SLOs among some objects."""

    def __init__(self, there: Sequence[Object], url: str) -> None:
        self.made = Converted()
        self._url = url
        self._known: dict[tuple[str, str], Object] = {}
        for one in there:
            self._known.setdefault((one.kind, one.name), one)

    def take(self, one: Object) -> None:
        """Raises Wrong."""
        if one.kind in LEFT_OUT:
            self.made.ignored.append(f"{one.kind} {_printable(one.name)}")
            return
        if self._known[one.kind, one.name] is not one:
            raise one.problem(("metadata", "name"), shown(one.name, ()), f"a name that no other {one.kind} has")
        if one.kind == "SLO":
            self._slo(one)

    def _slo(self, slo: Object) -> None:
        _only(slo, ("spec",), slo.spec, _SLO_KEYS)
        method = slo.spec.get("budgetingMethod", "Occurrences")
        if method != "Occurrences":
            allowed = "Occurrences: requests are counted, not slices of time"
            raise slo.problem(("spec", "budgetingMethod"), shown(method, ()), allowed)
        window = _window(slo)
        objectives = _items(slo.spec.get("objectives"))
        if not objectives:
            found = shown(slo.spec.get("objectives"), ())
            raise slo.problem(("spec", "objectives"), found, "a list of at least one objective")
        source, latency = self._indicator(slo)
        for number, one in enumerate(objectives):
            path: Path = ("spec", "objectives", number)
            if not isinstance(one, dict):
                raise slo.problem(path, shown(one, ()), f"a mapping of {', '.join(_OBJECTIVE_KEYS)}")
            _only(slo, path, one, _OBJECTIVE_KEYS)
            target = _target(slo, one, path)
            name = _name(slo, target if len(objectives) > 1 else "")
            if name in self.made.places:
                other = self.made.places[name][0].file
                raise slo.problem(("metadata", "name"), shown(slo.name, ()), f"a name that is not {name} as in {other}")
            under = {"kind": Kind.LATENCY.value, "under": _under(slo, one, path)} if latency else {}
            self.made.places[name] = slo.place, slo.at("metadata", "name")
            signal = self._signal(name if len(objectives) == 1 else _name(slo, ""), source)
            self.made.objectives.append({"name": name, **under, "target": target, **window, "signal": signal})

    def _signal(self, name: str, source: dict[str, Any]) -> str:
        """The name of a source; two that are read alike are one."""
        for known, other in self.made.sources.items():
            if other == source:
                return known
        self.made.sources[name] = source
        return name

    def _indicator(self, slo: Object) -> tuple[dict[str, Any], bool]:
        """The source that counts, and whether it counts latencies."""
        reference, inline = slo.spec.get("indicatorRef"), slo.spec.get("indicator")
        if (reference is None) == (inline is None):
            found = "neither" if reference is None else "both"
            raise slo.problem(("spec", "indicator"), found, "one of indicator and indicatorRef")
        if inline is not None:
            path: Path = ("spec", "indicator", "spec")
            return self._sli(slo, path, _mapping(_mapping(inline).get("spec")))
        sli = self._known.get(("SLI", reference)) if isinstance(reference, str) else None
        if sli is None:
            raise slo.problem(
                ("spec", "indicatorRef"), shown(reference, ()), f"the name of an SLI: {self._names('SLI')}"
            )
        return self._sli(sli, ("spec",), sli.spec)

    def _sli(self, one: Object, path: Path, spec: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
        _only(one, path, spec, ("description", "thresholdMetric", "ratioMetric"))
        if ("thresholdMetric" in spec) == ("ratioMetric" in spec):
            found = "both" if "ratioMetric" in spec else "neither"
            raise one.problem(path, found, "one of ratioMetric and thresholdMetric")
        if "ratioMetric" in spec:
            return self._ratio(one, (*path, "ratioMetric"), _mapping(spec["ratioMetric"])), False
        return self._threshold(one, (*path, "thresholdMetric"), _mapping(spec["thresholdMetric"])), True

    def _ratio(self, one: Object, path: Path, ratio: Mapping[str, Any]) -> dict[str, Any]:
        _only(one, path, ratio, _RATIO_KEYS)
        if "raw" in ratio:
            allowed = "total with good or bad: a ratio does not say how many requests there were"
            raise one.problem((*path, "raw"), "a ratio that was worked out already", allowed)
        parts = [part for part in ("good", "bad") if part in ratio]
        if len(parts) != 1 or "total" not in ratio:
            found = ", ".join(part for part in ("good", "bad", "total") if part in ratio) or "nothing"
            raise one.problem(path, found, "total, and either good or bad")
        counter = ratio.get("counter", True)
        total, url, _ = self._counter(one, (*path, "total"), ratio["total"], counter)
        part, other, _ = self._counter(one, (*path, parts[0]), ratio[parts[0]], counter)
        if url != other:
            raise one.problem((*path, parts[0]), "another Prometheus than that of total", "the same for both")
        errors = part if parts[0] == "bad" else queries.rest(total, part)
        return {"kind": "prometheus", "url": url, "requests": total, "errors": errors}

    def _threshold(self, one: Object, path: Path, metric: Mapping[str, Any]) -> dict[str, Any]:
        counter, url, steps = self._counter(one, path, metric, True)
        name = queries.name_of(counter)
        allowed = "the _bucket series of a histogram in seconds: single values do not say how many requests there were"
        if not name.endswith("_bucket"):
            raise one.problem(steps, shown(counter, ()), allowed)
        if re.search(r"_(ms|milliseconds|millis|us|microseconds|ns|nanoseconds)(_|$)", name):
            raise one.problem(steps, shown(counter, ()), "a histogram in seconds")
        return {"kind": "prometheus", "url": url, "histogram": counter}

    def _counter(self, one: Object, path: Path, metric: Any, counter: Any) -> tuple[str, str, Path]:
        """The selector of a metric's counter, where it is asked, and the place of its query."""
        path = (*path, "metricSource")
        source = _mapping(_mapping(metric).get("metricSource"))
        if not source:
            raise one.problem(path, "nothing", "required: a mapping of metricSourceRef, type, spec")
        kind, url = self._data_source(one, path, source)
        if kind is not None and str(kind).lower() != "prometheus":
            raise one.problem((*path, "type"), shown(kind, ()), "Prometheus")
        spec: Any = source.get("spec")
        steps: Path = (*path, "spec")
        for key in ("query", "promql"):
            if isinstance(spec, dict) and key in spec:
                spec, steps = spec[key], (*steps, key)
        if not isinstance(spec, str):
            raise one.problem((*path, "spec", "query"), shown(None if isinstance(spec, dict) else spec, ()), "a query")
        selector = queries.counter(spec) if len(spec) <= 4000 else None
        if selector is None:
            allowed = queries.COUNTERS
            if "histogram_quantile" in spec:
                allowed = f"{allowed}; a quantile does not say how many requests were slower"
            raise one.problem(steps, shown(spec, ()), allowed)
        if counter is False and selector == spec.strip():
            raise one.problem((*path[:-2], "counter"), "false", "true: requests are counted by counters")
        return selector, url, steps

    def _data_source(self, one: Object, path: Path, source: Mapping[str, Any]) -> tuple[Any, str]:
        """Of which type it is, None when nothing says so, and its URL."""
        reference = source.get("metricSourceRef")
        there = [other for other in self._known.values() if other.kind == "DataSource"]
        if reference is not None:
            there = [other for other in there if other.name == reference]
        known = there[0] if len(there) == 1 else None
        if known is None:
            if not self._url:
                found = "no DataSource" if reference is None else shown(reference, ())
                allowed = f"the name of a DataSource with connectionDetails.url: {self._names('DataSource')}"
                raise one.problem((*path, "metricSourceRef"), found, allowed)
            return source.get("type"), self._url
        kind = source.get("type", known.spec.get("type"))
        details = _mapping(known.spec.get("connectionDetails"))
        key = next((key for key in _WHERE if key in details), "url")
        try:
            return kind, str(scalars.URL.read(details.get(key)))
        except NotAllowed:
            if key not in details and self._url:
                return kind, self._url
            at: Path = ("spec", "connectionDetails", key)
            raise known.problem(at, shown(details.get(key), ("url",)), scalars.URL.allowed) from None

    def _names(self, kind: str) -> str:
        return ", ".join(_printable(name) for each, name in self._known if each == kind) or "there is none"


def _only(one: Object, path: Path, found: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raises Wrong for a key that is not known: it could change what is meant."""
    for key in found:
        if key not in known:
            raise one.problem((*path, key), "an unknown key", ", ".join(known))


def _window(slo: Object) -> dict[str, str]:
    """Of a rolling window; nothing where none is given."""
    if "timeWindow" not in slo.spec:
        return {}
    windows = slo.spec["timeWindow"]
    if not isinstance(windows, list) or len(windows) != 1 or not isinstance(windows[0], dict):
        raise slo.problem(("spec", "timeWindow"), shown(windows, ()), "a list of one window")
    path: Path = ("spec", "timeWindow", 0)
    if "calendar" in windows[0] or windows[0].get("isRolling", True) is not True:
        raise slo.problem(path, "a window of the calendar", "isRolling: true: a budget that moves along with time")
    duration = windows[0].get("duration")
    match = _DURATION.fullmatch(duration) if isinstance(duration, str) else None
    allowed = "a number with m, h, d or w, from 1h to 35d"
    if match is None or match[2] in "MQY":
        raise slo.problem((*path, "duration"), shown(duration, ()), allowed)
    text = f"{7 * int(match[1])}d" if match[2] == "w" else match[0]
    try:
        WINDOW.read(text)
    except NotAllowed as refused:
        raise slo.problem((*path, "duration"), shown(duration, ()), refused.allowed or allowed) from None
    return {"window": text}


def _target(slo: Object, objective: Mapping[str, Any], path: Path) -> str:
    """As a percentage."""
    keys = [key for key in ("target", "targetPercent") if key in objective]
    if len(keys) != 1:
        raise slo.problem(path, " and ".join(keys) or "neither", "one of target and targetPercent")
    value = objective[keys[0]]
    try:
        number = Decimal(repr(scalars.NUMBER.read(value))) * (100 if keys[0] == "target" else 1)
        text = f"{number.normalize():f}%"
        TARGET.read(text)
    except NotAllowed as refused:
        allowed = refused.allowed or f"{TARGET.allowed}{', as a share: 0.999' if keys[0] == 'target' else ''}"
        raise slo.problem((*path, keys[0]), shown(value, ()), allowed) from None
    return text


def _under(slo: Object, objective: Mapping[str, Any], path: Path) -> str:
    """The longest that a good answer takes."""
    if objective.get("op") not in ("lt", "lte"):
        raise slo.problem((*path, "op"), shown(objective.get("op"), ()), "lt or lte: what takes longer is bad")
    value = objective.get("value")
    try:
        text = show_seconds(float(scalars.NUMBER.read(value)))
        UNDER.read(text)
    except NotAllowed:
        raise slo.problem((*path, "value"), shown(value, ()), "seconds, from 0.001 to 300") from None
    return text


def _name(slo: Object, target: str) -> str:
    """A name for an objective; of several of one SLO each has its target in it."""
    ending = f"-{target.removesuffix('%')}" if target else ""
    plain = re.sub(r"[^a-z0-9_.-]+", "-", slo.name.lower()).strip("-._")
    if plain[:1].isdigit():
        plain = f"slo-{plain}"
    try:
        return str(OBJECTIVE_NAME.read(plain[: 40 - len(ending)] + (ending if plain else "")))
    except NotAllowed:
        raise slo.problem(("metadata", "name"), shown(slo.name, ()), OBJECTIVE_NAME.allowed) from None


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)[:60]


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
