"""What load to offer: where, how often, which requests, by how many users, and the limits on all of it."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Self
from urllib.parse import urlsplit

from crossfade.domain.errors import Invalid
from crossfade.domain.values import parse_duration

MOST_REQUESTS: Final = 20_000_000
"""Requests of one run, all phases together: a record of each is kept in memory (21 bytes)."""

MOST_IN_FLIGHT: Final = 20_000
MOST_USERS: Final = 1_000_000
MOST_STREAMS: Final = 5_000
MOST_NUMBERS: Final = 10_000
WHEEL: Final = 5000
"""Places on the wheel that the kinds of requests share: weights are exact to a five-thousandth."""

_METHOD = re.compile(r"[A-Z]{1,20}")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_PATH = re.compile(r"/[\x21\x22\x24-\x7e]*")
_NUMBERS = re.compile(r"\{(\d{1,9})-(\d{1,9})\}")
_ON_PATHS = re.compile(r"(?:(?P<method>[A-Z]+)[ ])?(?P<path>/[^\s]*?)(?:@(?P<weight>\d+(?:\.\d+)?))?")


@dataclass(frozen=True, slots=True)
class Phase:
    """Arrivals at one rate: ``rate`` in requests a second, ``duration`` in seconds."""

    rate: float
    duration: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.rate) and 0 < self.rate <= 1_000_000):
            raise Invalid("rate", self.rate, "requests a second, more than 0 and at most 1000000")
        if not (math.isfinite(self.duration) and 0 < self.duration <= 7 * 86400):
            raise Invalid("duration", self.duration, "more than 0 s and at most 7 days")

    @property
    def count(self) -> int:
        """How many requests arrive in it."""
        return math.floor(self.rate * self.duration + 1e-6)

    @classmethod
    def parse(cls, text: str) -> Self:
        """From ``300:60s`` (requests a second, then how long). Raises Invalid."""
        rate, colon, duration = text.partition(":")
        if not colon:
            raise Invalid("phase", text, "RATE:DURATION, for example 300:60s")
        try:
            number = float(rate)
        except ValueError:
            raise Invalid("phase", text, "RATE:DURATION, for example 300:60s") from None
        return cls(number, seconds("phase", duration))


@dataclass(frozen=True, slots=True)
class Request:
    """One kind of request in the mix.

    ``weight`` is its share relative to the others. ``path`` may hold one range such as ``{1-40}``, which stands for a
    number that is drawn anew for each request. ``body`` is sent as UTF-8.
    """

    path: str
    weight: float = 1.0
    method: str = "GET"
    body: str = ""
    headers: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if not _PATH.fullmatch(self.path) or len(self.path) > 8000:
            raise Invalid("path", self.path, "a path that begins with '/', without spaces and '#'")
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise Invalid(f"weight of {self.path}", self.weight, "a number above 0")
        if not _METHOD.fullmatch(self.method) or self.method == "CONNECT":
            raise Invalid(f"method of {self.path}", self.method, "an HTTP method in capitals, but not CONNECT")
        _check_headers(self.headers)
        ranges = _NUMBERS.findall(self.path)
        if len(ranges) > 1 or any(not 0 <= int(b) - int(a) < MOST_NUMBERS for a, b in ranges):
            raise Invalid("path", self.path, f"at most one range {{LOW-HIGH}}, of at most {MOST_NUMBERS} numbers")

    @property
    def name(self) -> str:
        """What results call it."""
        return self.path if self.method == "GET" else f"{self.method} {self.path}"

    @property
    def paths(self) -> tuple[str, ...]:
        """Every path that it stands for."""
        found = _NUMBERS.search(self.path)
        if not found:
            return (self.path,)
        before, after = self.path[: found.start()], self.path[found.end() :]
        return tuple(f"{before}{n}{after}" for n in range(int(found[1]), int(found[2]) + 1))

    @property
    def idempotent(self) -> bool:
        """Whether sending it twice does no more than sending it once (RFC 9110, 9.2.2)."""
        return self.method in ("GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE")

    @classmethod
    def parse(cls, text: str) -> Self:
        """From ``/``, ``/books/{1-40}@3`` or ``POST /cart@0.5``: method, path, @weight. Raises Invalid."""
        found = _ON_PATHS.fullmatch(text.strip())
        if not found:
            raise Invalid("path", text, "[METHOD ]/PATH[@WEIGHT], for example '/books/{1-40}@3'")
        return cls(found["path"], float(found["weight"] or 1), found["method"] or "GET")

    @classmethod
    def from_data(cls, data: Any) -> Self:
        """From JSON data with keys path, weight, method, body, headers. Raises Invalid."""
        if isinstance(data, str):
            return cls.parse(data)
        known = {"path", "weight", "method", "body", "headers"}
        if not isinstance(data, dict) or "path" not in data or set(data) - known:
            raise Invalid("mix", data, "objects with path, and if you like weight, method, body and headers")
        given = dict(data)
        headers = given.pop("headers", ())
        if isinstance(headers, dict):
            headers = list(headers.items())
        texts = [given["path"], given.get("method", ""), given.get("body", "")]
        if not all(isinstance(text, str) for text in texts) or isinstance(given.get("weight", 1), bool | str):
            raise Invalid("mix", data, "path, method and body as text, weight as a number")
        try:
            return cls(**given, headers=tuple((str(name), str(value)) for name, value in headers))
        except (TypeError, ValueError):
            raise Invalid("mix", data, "objects with path, weight, method, body and headers") from None


@dataclass(frozen=True, slots=True)
class Streams:
    """Connections that are to stay open: ``kind`` is sse or websocket, ``count`` how many."""

    path: str
    kind: str = "sse"
    count: int = 1

    def __post_init__(self) -> None:
        if not _PATH.fullmatch(self.path):
            raise Invalid("stream", self.path, "a path that begins with '/', without spaces and '#'")
        if self.kind not in ("sse", "websocket"):
            raise Invalid("stream", self.kind, "sse or websocket")
        if not 1 <= self.count <= MOST_STREAMS:
            raise Invalid(f"streams of {self.path}", self.count, f"a whole number from 1 to {MOST_STREAMS}")

    @classmethod
    def parse(cls, kind: str, text: str) -> Self:
        """From ``/feed`` or ``/feed@10``. Raises Invalid."""
        path, at, count = text.rpartition("@")
        if not at:
            return cls(text, kind)
        if not count.isdecimal() or len(count) > 6:
            raise Invalid("stream", text, "/PATH or /PATH@COUNT, for example /feed@10")
        return cls(path, kind, int(count))


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """A whole run. Raises Invalid when a value is not allowed.

    ``url``              where to send: scheme, host and port, ``http://127.0.0.1:8080``
    ``phases``           one after the other
    ``mix``              the kinds of requests, drawn by weight
    ``streams``          what else to keep open
    ``headers``          sent with every request
    ``users``            how many virtual users, each with cookies of its own; 0: nobody keeps cookies
    ``record_header``    the response header whose value is kept of each request (a slot, a version); empty: none
    ``max_in_flight``    connections at once; arrivals beyond wait, and their latency goes on counting
    ``timeout``          seconds from the intended start until a request counts as failed
    ``fail_from``        the lowest status that counts as a failure
    ``resend``           send an idempotent request again when the kept connection that it went out on turns out to
                         be closed, as browsers do; off: that is a failure
    ``keep_idle``        seconds for which an idle connection is kept
    ``lag_floor``        seconds of p99 start lag that are always allowed before a run is void
    ``slice``            seconds of one slice of the result
    ``stop_grace``       seconds for what is in flight when a run is stopped early
    ``seed``             makes the order of requests and users the same again
    """

    url: str
    phases: tuple[Phase, ...]
    mix: tuple[Request, ...] = field(default_factory=lambda: (Request("/"),))
    streams: tuple[Streams, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    users: int = 0
    record_header: str = ""
    max_in_flight: int = 1000
    timeout: float = 10.0
    fail_from: int = 500
    resend: bool = False
    keep_idle: float = 4.0
    lag_floor: float = 0.005
    slice: float = 1.0
    stop_grace: float = 2.0
    seed: int = 1

    def __post_init__(self) -> None:
        address(self.url)
        if not self.phases:
            raise Invalid("phases", (), "at least one phase")
        if self.planned > MOST_REQUESTS:
            raise Invalid("requests", self.planned, f"at most {MOST_REQUESTS} in one run (rate times duration)")
        if not self.mix or len(self.mix) > 1000:
            raise Invalid("mix", len(self.mix), "1 to 1000 kinds of requests")
        _check_headers(self.headers)
        if self.record_header and not _TOKEN.fullmatch(self.record_header):
            raise Invalid("record_header", self.record_header, "the name of a header")
        for name, value, low, high in (
            ("users", self.users, 0, MOST_USERS),
            ("max_in_flight", self.max_in_flight, 1, MOST_IN_FLIGHT),
            ("fail_from", self.fail_from, 400, 600),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise Invalid(name, value, f"a whole number from {low} to {high}")
        for name, length, shortest, longest in (
            ("timeout", self.timeout, 0.001, 3600.0),
            ("keep_idle", self.keep_idle, 0.0, 3600.0),
            ("lag_floor", self.lag_floor, 0.0, 60.0),
            ("slice", self.slice, 0.01, 3600.0),
            ("stop_grace", self.stop_grace, 0.0, 60.0),
        ):
            if not shortest <= length <= longest:
                raise Invalid(name, length, f"{shortest:g} s to {longest:g} s")
        if self.duration / self.slice > 100_000:
            raise Invalid("slice", self.slice, "long enough for at most 100000 slices")

    @property
    def duration(self) -> float:
        """Seconds from the first arrival to the end of the last phase."""
        return sum(phase.duration for phase in self.phases)

    @property
    def planned(self) -> int:
        """How many requests arrive in all."""
        return sum(phase.count for phase in self.phases)

    def arrivals(self, shard: int = 0, shards: int = 1) -> Iterator[float]:
        """The intended starts in seconds from the beginning: evenly spaced, every ``shards``-th from ``shard`` on."""
        start, number = 0.0, 0
        for phase in self.phases:
            for k in range((shard - number) % shards, phase.count, shards):
                yield start + k / phase.rate
            number += phase.count
            start += phase.duration

    def wheel(self, shard: int = 0) -> list[int]:
        """The order of the kinds of requests, to go round in: each has its share of places, shuffled."""
        total = sum(request.weight for request in self.mix)
        turns: list[int] = []
        for kind, request in enumerate(self.mix):
            turns += [kind] * max(1, round(WHEEL * request.weight / total))
        random.Random(self.seed * 1_000_003 + shard).shuffle(turns)
        return turns

    def to_data(self) -> dict[str, Any]:
        """JSON-ready, and `from_data` reads it back."""
        return asdict(self)

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Self:
        """Raises Invalid."""
        given = dict(data)
        try:
            given["phases"] = tuple(Phase(**phase) for phase in given["phases"])
            given["mix"] = tuple(Request.from_data(request) for request in given.get("mix", ({"path": "/"},)))
            given["streams"] = tuple(Streams(**streams) for streams in given.get("streams", ()))
            given["headers"] = tuple((str(name), str(value)) for name, value in given.get("headers", ()))
            return cls(**given)
        except (TypeError, KeyError, ValueError) as error:
            raise Invalid("plan", str(error), "the keys that LoadPlan.to_data gives") from None


@dataclass(frozen=True, slots=True)
class Address:
    """Where to connect to, and what to call it in ``Host``."""

    host: str
    port: int
    tls: bool
    prefix: str = field(default="")

    @property
    def authority(self) -> str:
        shown = f"[{self.host}]" if ":" in self.host else self.host
        return shown if self.port == (443 if self.tls else 80) else f"{shown}:{self.port}"


def address(url: str) -> Address:
    """The parts of a URL; a path becomes a prefix of all paths. Raises Invalid."""
    allowed = "http://HOST:PORT or https://HOST:PORT"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise Invalid("url", url, allowed) from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise Invalid("url", url, allowed)
    prefix = parts.path.rstrip("/")
    if prefix and not _PATH.fullmatch(prefix):
        raise Invalid("url", url, allowed)
    tls = parts.scheme == "https"
    return Address(parts.hostname, port or (443 if tls else 80), tls, prefix)


def seconds(place: str, text: str) -> float:
    """From ``60`` (seconds) or ``1.5m``. Raises Invalid."""
    return float(text) if re.fullmatch(r"\d+(\.\d+)?", text.strip()) else parse_duration(place, text)


def _check_headers(headers: Sequence[tuple[str, str]]) -> None:
    for name, value in headers:
        if not _TOKEN.fullmatch(name):
            raise Invalid("header", name, "the name of a header")
        if re.search(r"[\r\n\0]", value) or not value.isascii():
            raise Invalid(f"header {name}", value, "ASCII text on one line")
        if name.lower() in ("content-length", "transfer-encoding", "connection"):
            raise Invalid("header", name, "a header that is not the connection's own")
