"""The settings of a server: those of its command line before those of `server.yaml`."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Final

from crossfade.domain.errors import Invalid, Refused

if TYPE_CHECKING:
    from crossfade.spec.notify import Notify, Traces
    from crossfade.spec.server import Oidc

DEFAULT_PORT: Final = 7420

PLAIN: Final = "The API and the dashboard are reachable beyond this machine without TLS: passwords and tokens can be read on the way."


@dataclass(frozen=True, slots=True)
class Given:
    """What a command line says; None is for what it leaves to `server.yaml`. Paths are absolute."""

    host: str | None = None
    port: int | None = None
    certificate: Path | None = None
    key: Path | None = None
    allow_plain_http: bool | None = None

    def to_data(self) -> dict[str, str | int]:
        """The same as JSON-ready data, what is given only."""
        named = {"host": self.host, "port": self.port, "certificate": self.certificate, "key": self.key}
        return {name: value if isinstance(value, int) else str(value) for name, value in named.items() if value}

    def arguments(self) -> tuple[str, ...]:
        """The same as words of a command line."""
        words = [
            ("--host", self.host),
            ("--port", self.port),
            ("--tls-cert", self.certificate),
            ("--tls-key", self.key),
        ]
        found = [text for name, value in words if value is not None for text in (name, str(value))]
        return (*found, "--allow-plain-http") if self.allow_plain_http else tuple(found)


@dataclass(frozen=True, slots=True)
class Settings:
    """What a server runs with. Paths are absolute, lengths of time in seconds."""

    host: str
    port: int
    certificate: Path | None
    key: Path | None
    public_url: str | None
    trusted_proxies: tuple[str, ...]
    session_lasts: float
    session_idle: float
    oidc: Oidc | None
    runs_at_once: int = 2
    cache: int = 5 * 2**30
    """Bytes of steps' results that are kept for later runs."""
    flag_rate: int = 5_000
    """Requests a second for evaluations of flags that a token may go on making."""
    flag_burst: int = 10_000
    flag_origins: tuple[str, ...] = ()
    """Where pages come from that may ask for flags themselves."""
    grpc_port: int | None = None
    """Where flagd's sync service listens, if it does."""
    notify: Notify | None = None
    traces: Traces | None = None

    @property
    def plain_beyond_loopback(self) -> bool:
        """Whether what is said to the server can be read by others on its network."""
        return self.certificate is None and not ip_address(self.host).is_loopback

    def url(self, port: int) -> str:
        """Where this machine reaches the server. ``port`` is the one that it got."""
        address = ip_address(self.host)
        if address.is_unspecified:
            address = ip_address("127.0.0.1" if address.version == 4 else "::1")
        host = f"[{address}]" if address.version == 6 else str(address)
        return f"{'http' if self.certificate is None else 'https'}://{host}:{port}"


def settle(state: Path, given: Given = Given()) -> Settings:
    """The settings of a state folder's server. Raises Invalid, InvalidConfig, Refused for what would be open to all."""
    from crossfade.spec.server import load

    spec = load(state)
    host = _address(spec.listen.host if given.host is None else given.host)
    if (given.certificate is None) != (given.key is None):
        missing, there = ("--tls-key", "--tls-cert") if given.key is None else ("--tls-cert", "--tls-key")
        raise Invalid(missing, "", f"the path of a file: {there} is given, and they belong together")
    certificate, key = given.certificate, given.key
    if certificate is None and spec.tls is not None:
        certificate, key = state / spec.tls.certificate, state / spec.tls.key
    settings = Settings(
        host=host,
        port=spec.listen.port if given.port is None else given.port,
        certificate=certificate,
        key=key,
        public_url=spec.public_url,
        trusted_proxies=spec.trusted_proxies,
        session_lasts=spec.sessions.lasts,
        session_idle=spec.sessions.idle,
        oidc=spec.oidc,
        runs_at_once=spec.pipelines.at_once,
        cache=spec.pipelines.cache,
        flag_rate=spec.flags.rate,
        flag_burst=spec.flags.burst,
        flag_origins=spec.flags.origins,
        grpc_port=spec.flags.grpc_port,
        notify=spec.notify,
        traces=spec.traces,
    )
    if settings.plain_beyond_loopback and not (given.allow_plain_http or spec.allow_plain_http):
        raise Refused(
            f"The API would listen on {host} without TLS.",
            hint="Give it a certificate (--tls-cert and --tls-key, or tls: in server.yaml), or use --host 127.0.0.1 "
            "and a tunnel. --allow-plain-http does it all the same, for a network that you trust.",
        )
    return settings


def _address(host: str) -> str:
    try:
        return str(ip_address(host))
    except ValueError:
        raise Invalid("--host", host, "an IP address of this machine, for example 127.0.0.1") from None
