"""What breaks the clients of an HTTP API from one OpenAPI document to the next.

Compared are operations, parameters, bodies, responses with their headers, and what authentication they need; not
servers, callbacks, webhooks and links. More than the specification strictly says counts as breaking where a client
would lose what it uses: a parameter or property that was removed, even an optional one. Values: `domain.pipeline.schema`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from crossfade.domain.pipeline.plan import Outcome
from crossfade.domain.pipeline.schema import Comparison, Way, pointer

METHODS: Final = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
MOST_SHOWN: Final = 50

_UNWRITTEN_HEADERS: Final = ("accept", "content-type", "authorization")
"""Header parameters that OpenAPI says to ignore."""


@dataclass(frozen=True, slots=True)
class Change:
    """One breaking change. ``place`` leads to it: ``("response 200", "[].price")``; ``name`` as in `Difference`."""

    operation: str
    place: tuple[str, ...]
    kind: str
    what: str
    name: str = ""

    @property
    def id(self) -> str:
        """What `allow` names it by: ``GET /books#response.200.price:property-removed``."""
        where = ".".join(part.removeprefix(".").replace(" ", ".") for part in self.place if part)
        return f"{self.operation}{'#' if where else ''}{where}:{self.kind}"

    @property
    def sentence(self) -> str:
        *outer, last = self.place or ("",)
        # A property is named in what happened to it, and that it is one of a list's items needs no saying.
        shown = last.removesuffix(f".{self.name}") if self.name else last
        path = shown.removeprefix(".") if shown.strip("[]") else ""
        return ": ".join(part for part in (self.operation, *outer, path, self.what) if part)


def tolerated(change: Change, allow: Iterable[str]) -> bool:
    """Whether the list names the change, or a place that it is in: ``GET /books`` tolerates all there."""
    for entry in allow:
        if entry in (change.id, change.operation):
            return True
        # Paths have dots and colons too: only behind the operation are they what parts places.
        inside = entry.startswith(f"{change.operation}#") and change.id.startswith(entry)
        if inside and (entry.endswith("#") or change.id[len(entry)] in ".:"):
            return True
    return False


def breaking_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Change, ...]:
    """All of them, in the order of the earlier document. Raises Invalid for references that lead nowhere."""
    return tuple(_Contract(before, after).changes())


def decide_contract(
    path: str, before: Mapping[str, Any], after: Mapping[str, Any], label: str, allow: Sequence[str]
) -> Outcome:
    """The outcome for a document at ``path``; ``label`` is the release in production. Raises Invalid as above."""
    found = breaking_changes(before, after)
    counted = [change for change in found if not tolerated(change, allow)]
    accepted = len(found) - len(counted)
    aside = f" ({accepted} allowed)" if accepted else ""
    numbers = {"breaking": len(counted), "allowed": accepted, "operations": len(_operations(after))}
    if not counted:
        return Outcome(True, f"{path} breaks nothing that {label} promised{aside}", numbers=numbers)
    plural = "change" if len(counted) == 1 else "changes"
    details = [f"{change.sentence}  [allow: {change.id}]" for change in counted[:MOST_SHOWN]]
    if len(counted) > MOST_SHOWN:
        details.append(f"and {len(counted) - MOST_SHOWN} more")
    sentence = f"{path} has {len(counted)} breaking {plural} against {label}{aside}: {counted[0].sentence}"
    return Outcome(False, sentence, details=tuple(details), numbers=numbers)


Operations = dict[tuple[str, str], tuple[str, Mapping[str, Any], Mapping[str, Any]]]


def _map(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _operations(document: Mapping[str, Any]) -> Operations:
    """By method and path without its parameters' names, which clients do not see: the path, its item, the operation."""
    found: Operations = {}
    for path, raw in _map(document.get("paths")).items():
        item = _resolved(document, raw)
        for method in METHODS:
            if isinstance(item.get(method), Mapping):
                found[method.upper(), re.sub(r"\{[^{}]*\}", "{}", str(path))] = (str(path), item, item[method])
    return found


def _resolved(document: Mapping[str, Any], node: object) -> Mapping[str, Any]:
    """A node behind its references; what stands beside one in OpenAPI 3.1 goes over it."""
    beside: dict[str, Any] = {}
    for _ in range(32):
        node = _map(node)
        if "$ref" not in node:
            break
        beside = {key: value for key, value in node.items() if key != "$ref"} | beside
        node = pointer(document, node["$ref"])
    return {**_map(node), **beside}


class _Contract:
    def __init__(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        self._before, self._after = before, after
        self._schemas = Comparison(before, after)

    def changes(self) -> Iterator[Change]:
        now = _operations(self._after)
        for key, (path, item, operation) in _operations(self._before).items():
            name = f"{key[0]} {path}"
            if key not in now:
                yield Change(name, (), "operation-removed", "the operation was removed")
                continue
            new_path, new_item, new_operation = now[key]
            yield from self._security(name, operation, new_operation)
            yield from self._parameters(name, (path, item, operation), (new_path, new_item, new_operation))
            yield from self._request_body(name, operation, new_operation)
            yield from self._responses(name, operation, new_operation)

    def _values(self, name: str, place: tuple[str, ...], old: Any, new: Any, way: Way) -> Iterator[Change]:
        for found in self._schemas.differences(old, new, way):
            yield Change(name, (*place, found.path), found.kind, found.what, found.name)

    def _security(self, name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
        was, now = (
            [_map(one) for one in _list(operation.get("security", document.get("security")))] or [{}]
            for operation, document in ((old, self._before), (new, self._after))
        )
        for one in was:
            if not any(self._enough(one, other) for other in now):
                wanted = " or ".join(" and ".join(other) or "nothing" for other in now)
                if one:
                    said = f"authentication by {' and '.join(one)} is no longer enough: {wanted} is required"
                else:
                    said = f"authentication is required now: {wanted}"
                yield Change(name, ("security",), "authentication-added" if not one else "authentication-changed", said)

    def _enough(self, held: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
        """Whether who satisfies one requirement also satisfies another."""
        return all(
            scheme in held
            and {str(scope) for scope in _list(scopes)} <= {str(scope) for scope in _list(held[scheme])}
            and self._scheme(self._before, scheme) == self._scheme(self._after, scheme)
            for scheme, scopes in wanted.items()
        )

    @staticmethod
    def _scheme(document: Mapping[str, Any], name: str) -> tuple[object, ...]:
        known = _map(_map(document.get("components")).get("securitySchemes"))
        scheme = _resolved(document, known.get(name))
        return tuple(str(scheme.get(key, "")).lower() for key in ("type", "in", "name", "scheme", "openIdConnectUrl"))

    def _parameters(
        self,
        name: str,
        old: tuple[str, Mapping[str, Any], Mapping[str, Any]],
        new: tuple[str, Mapping[str, Any], Mapping[str, Any]],
    ) -> Iterator[Change]:
        were, now = _parameters(self._before, *old), _parameters(self._after, *new)
        for key, (called, parameter) in were.items():
            place = (f"{key[0]} parameter {called}",)
            if key not in now:
                yield Change(name, place, "parameter-removed", "was removed")
                continue
            other = now[key][1]
            if other.get("required") is True and parameter.get("required") is not True:
                yield Change(name, place, "parameter-required", "is required now")
            for what in ("style", "explode"):
                if _written(key[0], parameter, what) != _written(key[0], other, what):
                    said = f"{what} is {_written(key[0], other, what)}, was {_written(key[0], parameter, what)}"
                    yield Change(name, place, f"{what}-changed", said)
            yield from self._values(name, place, _schema_of(parameter), _schema_of(other), Way.REQUEST)
        for key, (called, parameter) in now.items():
            if key not in were and parameter.get("required") is True:
                place = (f"{key[0]} parameter {called}",)
                yield Change(name, place, "parameter-required", "is new and required")

    def _request_body(self, name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
        place = ("request body",)
        was, now = _resolved(self._before, old.get("requestBody")), _resolved(self._after, new.get("requestBody"))
        if not was:
            if now.get("required") is True:
                yield Change(name, place, "body-required", "is new and required")
            return
        if not now:
            yield Change(name, place, "body-removed", "was removed")
            return
        if now.get("required") is True and was.get("required") is not True:
            yield Change(name, place, "body-required", "is required now")
        yield from self._content(name, place, was, now, Way.REQUEST)

    def _content(
        self, name: str, place: tuple[str, ...], old: Mapping[str, Any], new: Mapping[str, Any], way: Way
    ) -> Iterator[Change]:
        now = {_media_type(key): value for key, value in _map(new.get("content")).items()}
        for key, value in _map(old.get("content")).items():
            kind = _media_type(key)
            other = now.get(kind)
            if other is None and way is Way.REQUEST:
                other = now.get(f"{kind.split('/')[0]}/*", now.get("*/*"))
            if other is None:
                verb = "accepted" if way is Way.REQUEST else "offered"
                yield Change(name, (*place, kind), "content-type-removed", f"the content type is no longer {verb}")
                continue
            # JSON is what almost every body is: naming it each time says nothing.
            inner = place if kind == "application/json" else (*place, kind)
            yield from self._values(name, inner, _map(value).get("schema", True), _map(other).get("schema", True), way)

    def _responses(self, name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
        now = {str(status).upper(): response for status, response in _map(new.get("responses")).items()}
        for key, raw in _map(old.get("responses")).items():
            status = str(key).upper()
            place = (f"response {key}",)
            # Statuses may be given as a range, and a default stands for all that are not given.
            found = next((now[one] for one in (status, f"{status[:1]}XX", "DEFAULT") if one in now), None)
            if found is None:
                if status[:1] in "23":
                    yield Change(name, place, "response-removed", "the response was removed")
                continue
            was, other = _resolved(self._before, raw), _resolved(self._after, found)
            yield from self._content(name, place, was, other, Way.RESPONSE)
            headers = {str(one).lower(): value for one, value in _map(other.get("headers")).items()}
            for header, value in _map(was.get("headers")).items():
                at = (*place, f"header {header}")
                if str(header).lower() not in headers:
                    yield Change(name, at, "header-removed", "was removed")
                    continue
                one, two = _resolved(self._before, value), _resolved(self._after, headers[str(header).lower()])
                if one.get("required") is True and two.get("required") is not True:
                    yield Change(name, at, "header-optional", "may be missing now")
                yield from self._values(name, at, _schema_of(one), _schema_of(two), Way.RESPONSE)


def _parameters(
    document: Mapping[str, Any], path: str, item: Mapping[str, Any], operation: Mapping[str, Any]
) -> dict[tuple[str, str], tuple[str, Mapping[str, Any]]]:
    """By place and name, those of a path by their position: the name as written, and the parameter."""
    positions = re.findall(r"\{([^{}]*)\}", path)
    found: dict[tuple[str, str], tuple[str, Mapping[str, Any]]] = {}
    for raw in (*_list(item.get("parameters")), *_list(operation.get("parameters"))):
        parameter = _resolved(document, raw)
        called, where = str(parameter.get("name", "")), str(parameter.get("in", ""))
        key = called
        if where == "header":
            key = called.lower()
            if key in _UNWRITTEN_HEADERS:
                continue
        elif where == "path" and called in positions:
            key = str(positions.index(called))
        found[where, key] = (called, parameter)
    return found


def _schema_of(parameter: Mapping[str, Any]) -> Any:
    content = _map(parameter.get("content"))
    return _map(next(iter(content.values()), {})).get("schema", True) if content else parameter.get("schema", True)


def _written(where: str, parameter: Mapping[str, Any], what: str) -> object:
    style = parameter.get("style", "form" if where in ("query", "cookie") else "simple")
    return style if what == "style" else parameter.get("explode", style == "form")


def _media_type(key: object) -> str:
    return str(key).split(";", maxsplit=1)[0].strip().lower()
