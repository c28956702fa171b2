"""Rules that look across keys. They read the plain data, so that they speak even while other keys are wrong."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Any

from crossfade.domain.errors import Invalid, Problem
from crossfade.domain.traffic import StickyBy
from crossfade.domain.values import Weight, parse_duration
from crossfade.spec.problems import Place, shown
from crossfade.spec.shape import Path


def breaches(data: Any, place: Place) -> list[Problem]:
    """Every rule that ``data`` breaks. A value that is wrong by itself breaks no rule here."""
    if not isinstance(data, dict):
        return []
    problems = [
        *_nothing(data, (), place),
        *_names(data.get("health"), ("health",), place),
        *_names(data.get("continuity"), ("continuity",), place),
        *_rising(data.get("strategy"), ("strategy",), place),
        *_sticky(data.get("sticky"), place),
        *_ports(data.get("environments"), place),
    ]
    for path, check in _checks(data):
        problems += _check(check, path, place)
    for name, environment in _mapping(data.get("environments")).items():
        problems += _rising(_mapping(environment).get("strategy"), ("environments", name, "strategy"), place)
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
