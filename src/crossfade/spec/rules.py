"""Rules that look across keys. They read the plain data, so that they speak even while other keys are wrong."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Any, Final

from crossfade.domain.analysis.policy import ERROR_RATE, QUANTILES
from crossfade.domain.errors import Invalid, Problem
from crossfade.domain.traffic import StickyBy
from crossfade.domain.values import Weight, parse_duration
from crossfade.ports import PLACEHOLDERS
from crossfade.spec.analysis import RATE_MARGIN, WIDE_MARGIN, AnalysisPart
from crossfade.spec.pipeline_rules import pipeline_breaches, pipeline_checks
from crossfade.spec.problems import Place, data_at, shown
from crossfade.spec.scalars import JSON_PATH, METRIC, Kind, NotAllowed
from crossfade.spec.shape import Path, shape_of
from crossfade.spec.slo_rules import slo_breaches, well_spelt

MOVED: Final = "a key that has moved"
BUILT_IN: Final = (ERROR_RATE.name, *(f"latency.{quantile}" for quantile in QUANTILES))
"""Names that a metric of one's own cannot have."""


def breaches(data: Any, place: Place) -> list[Problem]:
    """Every rule that ``data`` breaks. A value that is wrong by itself breaks no rule here."""
    if not isinstance(data, dict):
        return []
    problems = [
        *_nothing(data, (), place),
        *_names(data.get("health"), ("health",), place),
        *_names(data.get("continuity"), ("continuity",), place),
        *_rising(data.get("strategy"), ("strategy",), place),
        *analysis_breaches(data.get("analysis"), ("analysis",), place),
        *_sticky(data.get("sticky"), place),
        *_ports(data.get("environments"), place),
    ]
    problems += _moved(data.get("strategy"), ("strategy",), place)
    problems += pipeline_breaches(data.get("pipeline"), data.get("environments"), place)
    problems += slo_breaches(data, place)
    for path, check in _checks(data):
        problems += _check(check, path, place)
    for name, environment in _mapping(data.get("environments")).items():
        own = _mapping(environment)
        problems += _rising(own.get("strategy"), ("environments", name, "strategy"), place)
        problems += _moved(own.get("strategy"), ("environments", name, "strategy"), place)
        problems += analysis_breaches(own.get("analysis"), ("environments", name, "analysis"), place)
        problems += _names(own.get("freeze"), ("environments", name, "freeze"), place)
    for around in ((), *(("environments", name) for name in _mapping(data.get("environments")))):
        here = _mapping(data_at(data, around))
        slo = _mapping(here.get("slo"))
        problems += _names(slo.get("objectives"), (*around, "slo", "objectives"), place)
        problems += _names(here.get("drills"), (*around, "drills"), place)
        for name, source in _mapping(slo.get("sources")).items() if well_spelt(slo) else ():
            problems += _source(_mapping(source), (*around, "slo", "sources", name), place)
    return problems


def _mapping(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


def _items(value: Any) -> list[Any] | tuple[Any, ...]:
    return value if isinstance(value, list | tuple) else []


def _nothing(data: dict[Any, Any], path: Path, place: Place) -> Iterator[Problem]:
    """Keys of mappings must be text; JSON has no others, but plain data of a program may."""
    for key in data:
        if not isinstance(key, str):
            yield place.problem(path, f"the key {shown(key, path)}", "text as a key")


def _names(value: Any, path: Path, place: Place) -> Iterator[Problem]:
    seen: set[str] = set()
    for number, item in enumerate(_items(value)):
        name = _mapping(item).get("name")
        if isinstance(name, str) and name.strip():
            if name.strip() in seen:
                yield place.problem((*path, number, "name"), shown(name, path), "a name that no other here has")
            seen.add(name.strip())


def _rising(strategy: Any, path: Path, place: Place) -> Iterator[Problem]:
    if _mapping(strategy).get("kind") != "canary":
        return
    highest: Weight | None = None
    for number, step in enumerate(_items(_mapping(strategy).get("steps"))):
        found = _mapping(step).get("weight")
        if not isinstance(found, str):
            continue
        try:
            weight = Weight.parse(found)
        except Invalid:
            continue
        if highest is not None and weight.bp and weight <= highest:
            allowed = f"more than the step before it ({highest.bp / 100:g}%)"
            yield place.problem((*path, "steps", number, "weight"), shown(found, path), allowed)
        highest = weight if highest is None else max(weight, highest)


def analysis_breaches(value: Any, path: Path, place: Place) -> Iterator[Problem]:
    """What the keys of an analysis block, each good by itself, cannot mean together."""
    block = _mapping(value)
    warmup, least = _seconds(block.get("warmup", "0s")), _seconds(block.get("min_duration", "0s"))
    deadline = _seconds(block.get("deadline", "15m"))
    if deadline is not None and warmup is not None and deadline <= warmup:
        allowed = f"longer than warmup ({block.get('warmup', '0s')})"
        yield place.problem((*path, "deadline"), shown(block.get("deadline", "15m"), path), allowed)
    elif deadline is not None and least is not None and deadline < least:
        allowed = f"at least min_duration ({block['min_duration']})"
        yield place.problem((*path, "deadline"), shown(block.get("deadline", "15m"), path), allowed)
    if not _known(block):
        return  # a misspelt key or name is told once, not also as what it leaves without meaning
    sources = _mapping(block.get("sources"))
    for name, source in sources.items():
        yield from _source(_mapping(source), (*path, "sources", name), place)
    listed = _mapping(block.get("metrics"))
    free = {k: v for k, v in block.items() if k not in shape_of(AnalysisPart).keys}
    for where, metrics in (((*path, "metrics"), listed), (path, free)):
        for name, metric in metrics.items():
            if where == path and name in listed:
                yield place.problem((*path, name), "the same metric again", "each metric once, here or under metrics")
            if name in BUILT_IN:
                yield place.problem((*where, name), f"the name {name!r}", "a name that no built-in metric has")
            yield from _metric(_mapping(metric), sources, (*where, name), place)
    error_rate = block.get("error_rate", {})
    signal = _mapping(error_rate).get("signal")
    if isinstance(signal, str) and METRIC.fullmatch(signal) and "requests" not in _mapping(sources.get(signal)):
        allowed = "one of sources that has requests and errors"
        yield place.problem((*path, "error_rate", "signal"), shown(signal, path), allowed)
    judged = [
        *([] if error_rate == "none" else [_mapping(error_rate)]),
        *_mapping(block.get("latency")).values(),
        *listed.values(),
        *free.values(),
    ]
    if all(_mapping(metric).get("dry_run") is True for metric in judged):
        found = "only metrics in dry run" if judged else "none, and no other metric"
        yield place.problem((*path, "error_rate"), found, "at least one metric that is not in dry run")


def _known(block: dict[Any, Any]) -> bool:
    """Whether every key and name in an analysis block is one that can be."""
    keys = shape_of(AnalysisPart).keys
    free = {k: v for k, v in block.items() if k not in keys}
    own = {**_mapping(block.get("metrics")), **free}
    listed = ((own, "metrics"), (_mapping(block.get("sources")), "sources"))
    for parts, key in listed:
        each = keys[key].each
        assert each is not None
        for name, part in parts.items():
            if not isinstance(name, str) or not METRIC.fullmatch(name) or not isinstance(part, dict):
                return False
            if not set(part) <= set(each.keys) or (key == "metrics" and "signal" not in part):
                return False
    return True


def _source(source: dict[Any, Any], path: Path, place: Place) -> Iterator[Problem]:
    queries = [
        key for key in ("requests", "errors", "histogram", "value", "count", "sum", "sum_squares") if key in source
    ]
    kind = source.get("kind")
    if kind == "events":
        for key in (*queries, *(k for k in ("url",) if k in source)):
            yield place.problem((*path, key), shown(source[key], (*path, key)), "nothing with kind: events")
        return
    if kind not in ("prometheus", "http"):
        return
    if "url" not in source:
        yield place.problem((*path, "url"), "nothing", f"required with kind: {kind}: a URL")
    shapes = ({"requests", "errors"}, {"histogram"}, {"value"}, {"count", "sum", "sum_squares"})
    if not queries:
        yield place.problem(
            path, "no query", "requests and errors, or histogram, or value, or count, sum and sum_squares"
        )
    elif not any(set(queries) == shape for shape in shapes):
        found = " and ".join(queries)
        allowed = "requests and errors together, or histogram, or value, or count, sum and sum_squares together"
        yield place.problem((*path, queries[0]), found, allowed)
    if "per" in source:
        yield place.problem((*path, "per"), shown(source["per"], path), "only with kind: events")
    # In PromQL other braces are its own; in a URL and in a JSON path nothing else can be meant by them.
    for key in ("url", *(queries if kind == "http" else ())):
        stray = re.search(r"\{[^{}]*\}?|\}", _filled(source.get(key)))
        if stray is not None:
            allowed = "only " + ", ".join(f"{{{known}}}" for known in PLACEHOLDERS)
            yield place.problem((*path, key), stray[0][:40], allowed)
        elif key != "url" and isinstance(source[key], str) and _value(JSON_PATH, _filled(source[key])) is None:
            yield place.problem((*path, key), shown(source[key], path), f"with kind: http, {JSON_PATH.allowed}")


def _filled(text: Any) -> str:
    """A query or URL as it may be once the names of an arm are in it."""
    return re.sub(r"\{(" + "|".join(PLACEHOLDERS) + r")\}", "x", text) if isinstance(text, str) else ""


def _value(kind: Kind, found: Any) -> Any:
    """What ``found`` stands for; None when it is not of its kind."""
    try:
        return kind.read(found)
    except NotAllowed:
        return None


def _metric(metric: dict[Any, Any], sources: dict[Any, Any], path: Path, place: Place) -> Iterator[Problem]:
    source = _mapping(sources.get(metric["signal"])) if isinstance(metric.get("signal"), str) else {}
    histogram = "histogram" in source
    rate = "requests" in source or "errors" in source
    if histogram and "quantile" not in metric:
        yield place.problem((*path, "quantile"), "nothing", "required where the signal is a histogram: p50 to p99.9")
    elif "quantile" in metric and not histogram:
        yield place.problem(
            (*path, "quantile"), shown(metric["quantile"], path), "only where the signal is a histogram"
        )
    if "or_ratio" in metric and not rate:
        yield place.problem((*path, "or_ratio"), shown(metric["or_ratio"], path), "only where the signal has requests")
    if histogram and metric.get("direction", "rise") != "rise":
        yield place.problem(
            (*path, "direction"), shown(metric["direction"], path), "rise where the signal is a histogram"
        )
    margin = metric.get("margin")
    if rate and _value(WIDE_MARGIN, margin) is not None and _value(RATE_MARGIN, margin) is None:
        yield place.problem((*path, "margin"), shown(margin, path), "at most 99% where the signal has requests")
    elif not rate and not histogram and _value(WIDE_MARGIN, margin) == 0:
        yield place.problem((*path, "margin"), shown(margin, path), "above 0% for a mean")


def _moved(strategy: Any, path: Path, place: Place) -> Iterator[Problem]:
    limits = _mapping(_mapping(strategy).get("limits"))
    if "when_unsure" in limits:
        yield place.problem((*path, "limits", "when_unsure"), MOVED, "analysis.when_unsure")


def _sticky(value: Any, place: Place) -> Iterator[Problem]:
    sticky = _mapping(value)
    by = sticky.get("by", StickyBy.EDGE_COOKIE.value)
    if by in (StickyBy.HEADER.value, StickyBy.COOKIE.value) and "name" not in sticky:
        yield place.problem(("sticky", "name"), "nothing", f"required with by: {by}: the name of the {by}")
    elif by in (StickyBy.EDGE_COOKIE.value, StickyBy.NOTHING.value) and "name" in sticky:
        yield place.problem(("sticky", "name"), shown(sticky["name"], ()), f"no name with by: {by}")


def _ports(value: Any, place: Place) -> Iterator[Problem]:
    """Two environments may not listen at the same place; an address such as 0.0.0.0 is every place."""
    seen: list[tuple[str, str, str, int]] = []
    for name, content in _mapping(value).items():
        if not isinstance(content, dict):
            continue
        port = content.get("port", 8080)
        try:
            address = ipaddress.ip_address(content.get("bind", "127.0.0.1"))
        except ValueError:
            continue
        if isinstance(port, bool) or not isinstance(port, int) or not isinstance(content.get("bind", ""), str):
            continue
        bind = "any" if address.is_unspecified else str(address)
        for other, other_bind, other_shown, other_port in seen:
            if port == other_port and (bind == other_bind or "any" in (bind, other_bind)):
                yield place.problem(
                    ("environments", name, "port"),
                    shown(port, ()),
                    f"another port: environment {other} listens at {other_shown}:{port}",
                )
                break
        seen.append((name, bind, str(address), port))


def _checks(data: dict[Any, Any]) -> Iterator[tuple[Path, dict[Any, Any]]]:
    for number, check in enumerate(_items(data.get("health"))):
        yield ("health", number), _mapping(check)
    for index, flow in enumerate(_items(data.get("continuity"))):
        for part in ("open", "continue"):
            for number, check in enumerate(_items(_mapping(flow).get(part))):
                yield ("continuity", index, part, number), _mapping(check)
    yield from pipeline_checks(data.get("pipeline"))


def _check(check: dict[Any, Any], path: Path, place: Place) -> Iterator[Problem]:
    slowest, timeout = _seconds(check.get("max_latency")), _seconds(check.get("timeout", "5s"))
    if slowest is not None and timeout is not None and slowest > timeout:
        allowed = f"at most the check's timeout ({check.get('timeout', '5s')})"
        yield place.problem((*path, "max_latency"), shown(check["max_latency"], path), allowed)
    for at, expected in _mapping(check.get("json")).items():
        if isinstance(expected, dict):
            yield from _expected(expected, (*path, "json", at), place)


def _expected(expected: dict[Any, Any], path: Path, place: Place) -> Iterator[Problem]:
    low, high = expected.get("min"), expected.get("max")
    others = [key for key in ("equals", "min", "max") if key in expected]
    if not expected:
        yield place.problem(path, "an empty mapping", "at least one of min, max, equals, absent")
    elif expected.get("absent") is True and others:
        yield place.problem((*path, "absent"), "true", f"absent alone; {', '.join(others)} wants the value to be there")
    elif "equals" in expected and len(others) > 1:
        yield place.problem((*path, "equals"), shown(expected["equals"], path), "equals alone, without min and max")
    elif (least := _number(low)) is not None and (most := _number(high)) is not None and least > most:
        yield place.problem((*path, "min"), shown(low, path), f"at most max ({shown(high, path)})")


def _number(value: Any) -> int | float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _seconds(value: Any) -> float | None:
    try:
        return parse_duration("", value) if isinstance(value, str) else None
    except Invalid:
        return None
