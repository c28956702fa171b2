"""The keys of `server.yaml` that say who is told of what: ``notify:`` and ``traces:``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from pydantic import Field

from crossfade.domain.alert import Severity
from crossfade.domain.errors import Invalid, Problem
from crossfade.domain.notice import KINDS, NAMES, Route, Template
from crossfade.spec import scalars
from crossfade.spec.health import Part
from crossfade.spec.problems import Place
from crossfade.spec.scalars import Kind, NotAllowed, Words

MOST_TARGETS: Final = 50
MOST_ROUTES: Final = 200
MOST_PEOPLE: Final = 50
LONGEST_TEMPLATE: Final = 4000
TRACES: Final = "traces"
"""What the record calls the collector of traces: no target may be called so."""

LOCAL: Final = ("localhost", "127.0.0.1", "::1")
_SERVER: Final = re.compile(r"(\[[0-9a-fA-F:.]{2,45}\]|[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?):([0-9]{1,5})")
_PERSON: Final = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_PLACE: Final = re.compile(r"[a-z0-9*-]{1,100}/[a-z0-9*-]{1,100}")


def _url(value: Any) -> str:
    text = str(scalars.URL.read(value))
    parts = urlsplit(text)
    if parts.fragment or (parts.scheme == "http" and parts.hostname not in LOCAL):
        raise NotAllowed
    return text


def _server(value: Any) -> tuple[str, int]:
    match = _SERVER.fullmatch(value) if isinstance(value, str) else None
    if match is None or not 1 <= int(match[2]) <= 65_535:
        raise NotAllowed
    return match[1].strip("[]"), int(match[2])


def _show_server(server: tuple[str, int]) -> str:
    host, port = server
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _person(value: Any) -> str:
    if not isinstance(value, str) or not _PERSON.fullmatch(value) or ".." in value:
        raise NotAllowed
    return value


def _place(value: Any) -> str:
    if not isinstance(value, str) or not _PLACE.fullmatch(value):
        raise NotAllowed
    return value


def _template(value: Any) -> Template:
    try:
        return Template.parse(scalars.text_of(value, LONGEST_TEMPLATE))
    except Invalid as error:
        raise NotAllowed(str(error.fields["allowed"])) from None


def _line(value: Any) -> Template:
    if isinstance(value, str) and "\n" in value.strip("\n"):
        raise NotAllowed("a subject on one line")
    return _template(value.strip("\n") if isinstance(value, str) else value)


def _show(template: Template) -> str:
    braces = {ord("{"): "{{", ord("}"): "}}"}
    return "".join(before.translate(braces) + (f"{{{name}}}" if name else "") for before, name in template.parts)


def _words(*known: str) -> Kind:
    """One of some words, or a list of them."""

    def read(value: Any) -> frozenset[str]:
        words = [value] if isinstance(value, str) else value
        if not isinstance(words, list | tuple) or not words:
            raise NotAllowed
        if not all(isinstance(word, str) and word in known for word in words):
            raise NotAllowed
        return frozenset(words)

    return Kind(f"{', '.join(known[:-1])} or {known[-1]}, or a list of them", read, sorted)


KIND: Final = scalars.choice("email", "webhook", "slack", "cdevents")
TLS: Final = scalars.choice("starttls", "tls", "none")
_NAME = scalars.NAME
_FILE = Kind("the path of a file; a relative one begins at the state folder", scalars.FILE.read)
_URL = Kind("a URL with https (http on loopback only), without a name, a password or a fragment", _url)
_SMTP = Kind("a mail server and its port, for example mail.example.org:587", _server, _show_server)
_ADDRESS = Kind("an e-mail address, for example ops@example.org", _person)
_USER = Kind("text on one line", scalars.LABEL.read)
_ENVIRONMENT = Kind("service/environment, with * for any letters, for example bookshop/*", _place)
_SUBJECT = Kind(f"text on one line; {{…}} may be {', '.join(NAMES)}", _line, _show)
_TEXT = Kind(f"text; {{…}} may be {', '.join(NAMES)}", _template, _show)
_SEVERITY = _words(*Severity)
_KINDS = _words(*KINDS)

_KEYS: Final = {
    "email": (("smtp", "from", "to"), ("user", "password_file", "tls", "ca")),
    "webhook": (("url", "secret_file"), ()),
    "slack": (("url_file",), ()),
    "cdevents": (("url",), ()),
}
"""Of each kind of target, the keys that it needs and those that it may have."""


class Target(Part):
    """Somebody who can be told. Which keys there are depends on ``kind``."""

    kind: Annotated[str, KIND]
    url: Annotated[str | None, _URL] = None
    url_file: Annotated[str | None, _FILE] = None
    secret_file: Annotated[str | None, _FILE] = None
    smtp: Annotated[tuple[str, int] | None, _SMTP] = None
    sender: Annotated[str | None, _ADDRESS] = Field(default=None, alias="from")
    to: Annotated[
        tuple[Annotated[str, _ADDRESS], ...], Field(max_length=MOST_PEOPLE), Words("a list of e-mail addresses")
    ] = ()
    user: Annotated[str | None, _USER] = None
    password_file: Annotated[str | None, _FILE] = None
    tls: Annotated[str | None, TLS] = None
    ca: Annotated[str | None, _FILE] = None


class RouteSpec(Part):
    """Whom a notice goes to."""

    to: Annotated[
        tuple[Annotated[str, _NAME], ...],
        Field(min_length=1, max_length=MOST_TARGETS),
        Words("a list of targets"),
    ]
    severity: Annotated[frozenset[str] | None, _SEVERITY] = None
    kind: Annotated[frozenset[str] | None, _KINDS] = None
    environment: Annotated[str | None, _ENVIRONMENT] = None

    def route(self) -> Route:
        """As the domain has it."""
        severities = frozenset(Severity(word) for word in self.severity or ())
        places = (self.environment,) if self.environment is not None else ()
        return Route(self.to, severities, self.kind or frozenset(), places)


class TemplatesSpec(Part):
    """In which words people are told."""

    subject: Annotated[Template | None, _SUBJECT] = None
    text: Annotated[Template | None, _TEXT] = None


class Notify(Part):
    """Who is told of what."""

    targets: Annotated[
        dict[Annotated[str, _NAME], Target],
        Field(max_length=MOST_TARGETS),
        Words("a mapping of names to targets"),
    ] = Field(default_factory=dict)
    routes: Annotated[
        tuple[RouteSpec, ...],
        Field(max_length=MOST_ROUTES),
        Words("a list of mappings of to, severity, kind, environment"),
    ] = ()
    templates: TemplatesSpec = Field(default_factory=TemplatesSpec)
    repeat: Annotated[float, scalars.duration("0s", "7d")] = 4 * 3600.0


class Traces(Part):
    """The collector that gets rollouts and runs as traces."""

    otlp: Annotated[str, _URL]
    headers_file: Annotated[str | None, _FILE] = None
    service_name: Annotated[str, scalars.LABEL] = "crossfade"


def problems_of(notify: Notify, place: Place) -> Iterator[Problem]:
    """What no key of ``notify`` can say by itself."""
    for name, target in notify.targets.items():
        at = ("notify", "targets", name)
        if name == TRACES:
            yield place.problem(at, f"the name '{TRACES}'", "another name: the collector of traces has this one")
        needed, possible = _KEYS[target.kind]
        given = target.model_dump(by_alias=True, exclude_unset=True)
        for key in needed:
            if not given.get(key):
                yield place.problem((*at, key), "nothing", f"required with kind: {target.kind}")
        for key in given:
            if key not in (*needed, *possible, "kind"):
                allowed = f"with kind: {target.kind} only {', '.join((*needed, *possible))}"
                yield place.problem((*at, key), "a key of another kind", allowed)
        if (target.user is None) != (target.password_file is None):
            missing = "user" if target.user is None else "password_file"
            yield place.problem((*at, missing), "nothing", "user and password_file belong together")
        if target.tls == "none" and target.user is not None and target.smtp and target.smtp[0] not in LOCAL:
            yield place.problem((*at, "tls"), "none", "starttls or tls: a password is not sent in the clear")
    for nth, route in enumerate(notify.routes):
        for of, name in enumerate(route.to):
            if name not in notify.targets:
                known = ", ".join(notify.targets) or "none yet"
                yield place.problem(("notify", "routes", nth, "to", of), repr(name), f"a target: {known}")
