"""What `server.yaml` in the state folder says: where the server listens, how it is reached, who may log in, who is told.

The file is optional, and so is each key of it. Lengths of time are seconds here.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from pydantic import Field, ValidationError

from crossfade.domain.access import Grant, Role
from crossfade.domain.errors import Invalid, InvalidConfig, NotFound, Problem
from crossfade.spec import scalars, tree
from crossfade.spec.health import Part
from crossfade.spec.loader import decode, read_file
from crossfade.spec.notify import Notify, Traces, problems_of
from crossfade.spec.problems import Place, explain
from crossfade.spec.scalars import Kind, NotAllowed, Words

FILE_NAME: Final = "server.yaml"

MOST_GRANTS: Final = 100

_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


def _origin(value: Any) -> str:
    """`https://crossfade.example.org`, without a slash at the end."""
    text = str(scalars.URL.read(value)).rstrip("/")
    parts = urlsplit(text)
    if parts.path or parts.query or parts.fragment:
        raise NotAllowed
    return text


def _issuer(value: Any) -> str:
    text = str(scalars.URL.read(value))
    parts = urlsplit(text)
    if parts.query or parts.fragment or (parts.scheme == "http" and parts.hostname not in _LOOPBACK):
        raise NotAllowed
    return text


def _network(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 100:
        raise NotAllowed
    try:
        return str(ipaddress.ip_network(value))
    except ValueError:
        raise NotAllowed from None


def _grant(value: Any) -> Grant:
    if not isinstance(value, str):
        raise NotAllowed
    try:
        return Grant.parse(value)
    except Invalid:
        raise NotAllowed from None


def _line(value: Any) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= 500 or not value.isprintable():
        raise NotAllowed
    return value


def _word(value: Any) -> str:
    if " " in _line(value):
        raise NotAllowed
    return str(value)


def _size(value: Any) -> int:
    match = re.fullmatch(r"([0-9]{1,6})(MiB|GiB)", value) if isinstance(value, str) else None
    if match is None:
        raise NotAllowed
    return int(match[1]) * (2**20 if match[2] == "MiB" else 2**30)


SIZE = Kind("a size in MiB or GiB, for example 5GiB", _size, lambda size: f"{size // 2**20}MiB")
_FILE = Kind("the path of a file; a relative one begins at the state folder", scalars.FILE.read)
_ORIGIN = Kind("a URL with http or https, host and port only", _origin)
_ISSUER = Kind("a URL with https (http on loopback only), without a query", _issuer)
_NETWORK = Kind("an IP address or a network, for example 10.0.0.0/8", _network)
_GRANT = Kind("a grant, for example viewer, or operator@bookshop/production", _grant, str)
_CLAIM = Kind("the name of a claim", _line)
_LINE = Kind("text on one line", _line)
_VALUE = Kind("a value of the claim", _line)
_SCOPE = Kind("a word", _word)


class Tls(Part):
    """The server's certificate."""

    certificate: Annotated[str, _FILE]
    key: Annotated[str, _FILE]


class Listen(Part):
    """Where the server listens."""

    host: Annotated[str, scalars.ADDRESS] = "127.0.0.1"
    port: Annotated[int, scalars.PORT] = 7420


class Sessions(Part):
    """How long one who has logged in stays so."""

    lasts: Annotated[float, scalars.duration("1m", "30d")] = 12 * 3600.0
    idle: Annotated[float, scalars.duration("1m", "30d")] = 2 * 3600.0


class Pipelines(Part):
    """How runs of pipelines share the machine."""

    at_once: Annotated[int, scalars.whole(1, 64)] = 2
    cache: Annotated[int, SIZE] = 5 * 2**30


class Flags(Part):
    """Who may evaluate feature flags how often, and from where."""

    rate: Annotated[int, scalars.whole(1, 1_000_000)] = 5_000
    burst: Annotated[int, scalars.whole(1, 10_000_000)] = 10_000
    origins: Annotated[
        tuple[Annotated[str, _ORIGIN], ...], Field(max_length=100), Words("a list of URLs with host and port only")
    ] = ()
    grpc_port: Annotated[int | None, scalars.PORT] = None


class OidcRoles(Part):
    """Which value of a claim gives what."""

    claim: Annotated[str, _CLAIM]
    grants: Annotated[
        dict[
            Annotated[str, _VALUE],
            Annotated[tuple[Annotated[Grant, _GRANT], ...], Field(max_length=MOST_GRANTS), Words("a list of grants")],
        ],
        Field(min_length=1, max_length=1000),
        Words("a mapping of a claim's values to lists of grants"),
    ]


class Oidc(Part):
    """The provider that vouches for people."""

    issuer: Annotated[str, _ISSUER]
    client_id: Annotated[str, _LINE]
    client_secret_file: Annotated[str | None, _FILE] = None
    scopes: Annotated[
        tuple[Annotated[str, _SCOPE], ...], Field(min_length=1, max_length=20), Words("a list of words")
    ] = ("openid", "profile", "email")
    name_claim: Annotated[str, _CLAIM] = "preferred_username"
    roles: OidcRoles
    ca: Annotated[str | None, _FILE] = None


class ServerSpec(Part):
    """A whole `server.yaml`."""

    listen: Listen = Field(default_factory=Listen)
    tls: Tls | None = None
    allow_plain_http: Annotated[bool, scalars.FLAG] = False
    public_url: Annotated[str | None, _ORIGIN] = None
    trusted_proxies: Annotated[
        tuple[Annotated[str, _NETWORK], ...], Field(max_length=100), Words("a list of IP addresses and networks")
    ] = ()
    sessions: Sessions = Field(default_factory=Sessions)
    oidc: Oidc | None = None
    pipelines: Pipelines = Field(default_factory=Pipelines)
    flags: Flags = Field(default_factory=Flags)
    notify: Notify = Field(default_factory=Notify)
    traces: Traces | None = None


def load(folder: Path) -> ServerSpec:
    """The settings of a state folder; the defaults when it has no file. Raises InvalidConfig with every problem."""
    path = folder / FILE_NAME
    try:
        data = read_file(path)
    except NotFound:
        return ServerSpec()
    return parse(decode(data, str(path)), str(path))


def parse(text: str, file: str = FILE_NAME) -> ServerSpec:
    """From YAML text; ``file`` is what problems call it. Raises InvalidConfig."""
    read = tree.read(text)
    place = Place(file, read.lines)
    if read.broken and all(fault.found == tree.EMPTY for fault in read.faults):
        return ServerSpec()
    problems = [
        Problem(file, fault.line, place.problem(fault.path, "", "").key, fault.found, fault.allowed)
        for fault in read.faults
    ]
    spec: ServerSpec | None = None
    if not read.broken:
        if not isinstance(read.data, dict):
            found = "a list" if isinstance(read.data, list) else "a single value"
            problems.append(place.problem((), found, f"a mapping of {', '.join(ServerSpec.model_fields)}"))
        else:
            try:
                spec = ServerSpec.model_validate(read.data)
            except ValidationError as error:
                problems += explain(error, ServerSpec, read.data, place)
            else:
                problems += _across(spec, place)
    if spec is None or problems:
        raise InvalidConfig(place.in_order(problems))
    return spec


def _across(spec: ServerSpec, place: Place) -> list[Problem]:
    """What no key can say by itself."""
    problems = []
    if spec.sessions.idle > spec.sessions.lasts:
        idle = scalars.show_seconds(spec.sessions.idle)
        problems.append(place.problem(("sessions", "idle"), idle, "no more than sessions.lasts"))
    if spec.flags.grpc_port == spec.listen.port:
        port = str(spec.flags.grpc_port)
        problems.append(place.problem(("flags", "grpc_port"), port, "another port than listen.port"))
    problems += problems_of(spec.notify, place)
    if spec.oidc is not None:
        if "openid" not in spec.oidc.scopes:
            problems.append(place.problem(("oidc", "scopes"), ", ".join(spec.oidc.scopes), "openid among them"))
        for value, grants in spec.oidc.roles.grants.items():
            if not grants:
                allowed = f"at least one grant: {', '.join(Role)}, with @service/environment or without"
                problems.append(place.problem(("oidc", "roles", "grants", value), "an empty list", allowed))
        if spec.public_url is None and ipaddress.ip_address(spec.listen.host).is_unspecified:
            allowed = "required with oidc where listen.host is every address: the provider sends browsers back there"
            problems.append(place.problem(("public_url",), "nothing", allowed))
    return problems
