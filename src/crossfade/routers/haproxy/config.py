"""The edge's configuration and maps as text. Pure: the same state gives the same files.

For each environment there is one frontend (its bind) and one backend a pool: both slots and the control pool. What a
request goes through:

1. the preview, if it knows the secret; 2. a hold, if there is one; 3. its bucket, if traffic is divided;
4. its pool's backend. If that has no usable server, the backend's only backup server takes the request to the
edge's own frontend `_elsewhere`, which looks for a server in the other pools or waits a little. So a request that
was under way when the last server of its pool died is not lost either, and the usual path pays nothing for it.

Requests are logged into rings in memory: a share of all, for latencies, and every one that did not go well. Nothing
is written or sent unless somebody reads. Log lines hold only what the edge itself made: no client can put anything
into them.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from crossfade.domain.drill import EdgeFault
from crossfade.domain.errors import Invalid
from crossfade.domain.traffic import POOLS, Pool, Server, Slot, Sticky, StickyBy
from crossfade.domain.values import ReleaseNumber
from crossfade.ports import Route
from crossfade.routers.haproxy.state import WEIGHTS, EnvironmentState, State, encode_weights, name_of

CONFIG: Final = "haproxy.cfg"
PREVIEWS: Final = "previews.map"
HOLDS: Final = "holds.map"
RELEASES: Final = "releases.map"
FAULTS: Final = "faults.map"
LUA: Final = "edge.lua"

WORKER_SOCKET: Final = "edge.sock"
MASTER_SOCKET: Final = "master.sock"
HOP_SOCKET: Final = "hop.sock"

LONGEST_RUN: Final = 107 - len("/master.sock.1234567.tmp")
"""Bytes that the run folder's path may have: HAProxy binds a socket under a longer, temporary name first."""

SERVER_OPTIONS: Final = (
    "check inter 1s fastinter 200ms downinter 200ms rise 1 fall 2"
    " observe layer4 error-limit 3 on-error mark-down pool-purge-delay 1s"
)
"""Active checks are TCP only: business health is the control plane's. Three refused connections in a row take a
server out at once, one good check brings it back. Idle connections are given up after about a second, before the
application's own keep-alive timeout (2 s in some) can close one under a request."""

LONGEST_DELAY: Final = 30.0
FAULT_STATUSES: Final = (500, 503)
"""What a fault may answer."""

# %HPO is the path without its query, which is never written down.
LOG_FORMAT: Final = '"%b %s %ST %ts %[date(0,us)] %[date(0,us),sub(txn.t0)] %HM %HPO"'
IDEMPOTENT: Final = "GET HEAD OPTIONS PUT DELETE TRACE"

_HEADER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_COOKIE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_SERVER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,149}")
_SECRET = re.compile(r"[A-Za-z0-9_-]{16,200}")
_PATH = re.compile(r"/[^,'\x00-\x1f]*")


@dataclass(frozen=True, slots=True)
class Options:
    """``threads`` of the proxy; one in ``sample`` requests gives its latency; the size of a ``ring`` in bytes."""

    threads: int = 1
    sample: int = 4
    ring: int = 262_144


def check_folders(folder: Path, run: Path) -> None:
    """Raises Invalid for paths that HAProxy cannot take."""
    for name, path in (("the edge's folder", folder), ("the run folder", run)):
        if not _PATH.fullmatch(str(path)):
            raise Invalid(name, str(path), "an absolute path without commas, quotes and control characters")
    if len(str(run).encode()) > LONGEST_RUN:
        raise Invalid("the run folder", str(run), f"a path of at most {LONGEST_RUN} bytes", hint="Use a shorter one.")


def check_route(route: Route) -> None:
    """Raises Invalid."""
    address(route.bind, "bind")
    if isinstance(route.port, bool) or not isinstance(route.port, int) or not 1 <= route.port <= 65535:
        raise Invalid("edge port", route.port, "a whole number from 1 to 65535")
    for name, seconds, most in (
        ("request_timeout", route.request_timeout, 86_400),
        ("drain_timeout", route.drain_timeout, 86_400),
    ):
        if not 0.1 <= seconds <= most:
            raise Invalid(name, seconds, f"seconds from 0.1 to {most}")
    check_sticky(route.sticky)


def check_sticky(sticky: Sticky) -> None:
    """Raises Invalid."""
    if sticky.by is StickyBy.HEADER:
        if not _HEADER.fullmatch(sticky.name) or sticky.name.lower().startswith("x-crossfade-"):
            raise Invalid("sticky header", sticky.name, "a name of letters, digits, '-' and '_', not X-Crossfade-…")
    elif sticky.by is StickyBy.COOKIE and not _COOKIE.fullmatch(sticky.name):
        raise Invalid("sticky cookie", sticky.name, "a cookie name of letters, digits, '-', '_' and '.'")


def check_server(server: Server) -> None:
    """Raises Invalid."""
    if not _SERVER.fullmatch(server.name):
        raise Invalid("server name", server.name, "letters, digits, '.', '-' and '_', at most 150")
    address(server.host, f"host of {server.name}")
    if isinstance(server.port, bool) or not isinstance(server.port, int) or not 1 <= server.port <= 65535:
        raise Invalid(f"port of {server.name}", server.port, "a whole number from 1 to 65535")


def check_release(release: str) -> None:
    """Of a pool; empty when it is not said. Raises Invalid."""
    if release:
        ReleaseNumber.parse(release)


def check_secret(secret: str) -> None:
    """Raises Invalid, which does not repeat the secret."""
    if not _SECRET.fullmatch(secret):
        raise Invalid("preview secret", "(not shown)", "16 to 200 letters, digits, '-' and '_'")


def check_fault(fault: EdgeFault) -> None:
    """Raises Invalid."""
    if not 0 <= fault.delay <= LONGEST_DELAY:
        raise Invalid("fault's delay", fault.delay, f"seconds from 0 to {LONGEST_DELAY:g}")
    if fault.status not in (0, *FAULT_STATUSES):
        raise Invalid("fault's status", fault.status, f"0 or one of {', '.join(map(str, FAULT_STATUSES))}")


def address(host: str, place: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An IP address; ``localhost`` is 127.0.0.1. Raises Invalid."""
    try:
        return ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        raise Invalid(place, host, "an IP address, or localhost") from None


def endpoint(host: str, port: int) -> str:
    """As HAProxy writes it: ``127.0.0.1:80``, ``[::1]:80``."""
    ip = address(host, "address")
    return f"[{ip}]:{port}" if ip.version == 6 else f"{ip}:{port}"


def render(state: State, run: Path, options: Options) -> str:
    """The whole haproxy.cfg. Servers that drain come back with weight 0, which is how HAProxy spells it."""
    parts = [_head(state, run, options)]
    parts += [_environment(e, run) for _, e in sorted(state.environments.items())]
    parts.append(_elsewhere(run))
    return "\n".join(parts)


def render_maps(state: State) -> Mapping[str, str]:
    """The files that change with the traffic."""
    previews, holds, releases, faults = [], [], [], []
    for key, environment in sorted(state.environments.items()):
        name = name_of(key)
        if environment.preview is not None:
            previews.append(f"{name} {preview_value(*environment.preview)}")
        if environment.hold_until > 0:
            holds.append(f"{name} {environment.hold_until:.3f}")
        releases += [f"{name}.{pool} {release}" for pool, release in sorted(environment.releases.items())]
        faults += [f"{name}.{slot} {fault_value(*fault)}" for slot, fault in sorted(environment.faults.items())]
    return {
        PREVIEWS: "".join(line + "\n" for line in previews),
        HOLDS: "".join(line + "\n" for line in holds),
        RELEASES: "".join(line + "\n" for line in releases),
        FAULTS: "".join(line + "\n" for line in faults),
        WEIGHTS: encode_weights(state),
    }


def preview_value(slot: Slot, secret: str) -> str:
    """An entry of the previews map."""
    return f"{slot}:{secret}"


def fault_value(fault: EdgeFault, until: float) -> str:
    """An entry of the faults map: when it ends, the share in basis points, the delay in ms, the status."""
    return f"{until:.3f}:{fault.share.bp}:{round(fault.delay * 1000)}:{fault.status}"


def _head(state: State, run: Path, options: Options) -> str:
    return f"""\
# Written by Crossfade from state.json; changes made here are lost.
global
    default-path config
    description "generation {state.generation}"
    nbthread {options.threads}
    fd-hard-limit 100000
    hard-stop-after 1h
    stats socket 'unix@{run}/{WORKER_SOCKET}' mode 600 level admin expose-fd listeners
    stats timeout 1h
    stats maxconn 100
    lua-load {LUA}
    log ring@samples len 512 format raw sample 1:{options.sample} local0
    log ring@failures len 512 format raw local0 err

ring samples
    format raw
    maxlen 512
    size {options.ring}

ring failures
    format raw
    maxlen 512
    size {options.ring}

defaults
    mode http
    timeout connect 1s
    timeout client 75s
    timeout client-fin 30s
    timeout http-request 30s
    timeout http-keep-alive 30s
    timeout queue 10s
    timeout check 2s
    timeout tunnel 1h
    timeout server 60s
    retries 6
    retry-on conn-failure empty-response
    option redispatch 1
    option abortonclose
    option idle-close-on-response
    option log-separate-errors
    http-reuse safe
"""


def _environment(environment: EnvironmentState, run: Path) -> str:
    route = environment.route
    name = name_of(route.key)
    only6 = " v6only" if address(route.bind, "bind").version == 6 else ""
    patience = round(route.request_timeout * 1000)
    rules = "\n".join(f"    {rule}" for rule in (*_entrance(name), *_bucket(route), *_exit(name)))
    pools = "\n".join(_pool(environment, pool, run) for pool in POOLS)
    return f"""
frontend {name}
    bind {endpoint(route.bind, route.port)}{only6}
    log global
    log-format {LOG_FORMAT}
    unique-id-format "0:%[var(txn.slot)]:{patience}:%[var(txn.t0)]:%b"
    option forwardfor
    acl divided var(txn.green) -m int 1:9999 10001:
    acl compared var(txn.control) -m found
    acl of_blue var(txn.control),mod(2) -m int 0
    acl previewed var(txn.slot) -m found
    acl from_here src 127.0.0.0/8 ::1
{rules}
{pools}
backend {name}._nobody
    http-request return status 503 content-type text/plain string "No replica of this service answers.\\n"

backend {name}._shut
    http-request return status 503 content-type text/plain string "No replica answers behind this preview.\\n"
"""


def _entrance(name: str) -> tuple[str, ...]:
    return (
        "http-request set-var(txn.t0) date(0,us)",
        f"http-request lua.preview {name} if {{ req.fhdr(X-Crossfade-Preview) -m found }}",
        # Previews are the control plane's own questions: no client's failure, so not in the record of failures.
        "http-request set-log-level silent if previewed",
        "http-request del-header X-Crossfade- -m beg",
        # Behind a TLS terminator on this machine its word counts; anybody else's does not.
        "http-request del-header X-Forwarded-For unless from_here",
        "http-request set-header X-Forwarded-Proto http unless from_here { req.fhdr(X-Forwarded-Proto) -m found }",
        f"http-request lua.hold {name} if {{ str({name}),map_str({HOLDS}) -m found }} !previewed",
        f"http-request disable-l7-retry unless {{ method {IDEMPOTENT} }}",
        f"http-request set-var(txn.green) str({name}),map_str_int({WEIGHTS},0)",
    )


def _bucket(route: Route) -> tuple[str, ...]:
    """Where txn.bucket comes from; it exists only while traffic is divided, when it matters."""
    sticky = route.sticky
    drawn = "http-request set-var(txn.bucket) rand(10000) if divided !{ var(txn.bucket) -m found }"
    if sticky.by is StickyBy.NOTHING:
        return (drawn,)
    if sticky.by is StickyBy.EDGE_COOKIE:
        cookie = f"cf-{route.key.service}"
        valid = "^(0|[1-9][0-9]{0,3})$"
        value = f'"{cookie}=%[var(txn.drawn)]; Path=/; HttpOnly; SameSite=Lax"'
        return (
            f"http-request set-var(txn.bucket) req.cook({cookie}) if divided {{ req.cook({cookie}) -m reg {valid} }}",
            "http-request set-var(txn.drawn) rand(10000) if divided !{ var(txn.bucket) -m found }",
            "http-request set-var(txn.bucket) var(txn.drawn) if { var(txn.drawn) -m found }",
            f"http-response add-header Set-Cookie {value} if {{ var(txn.drawn) -m found }} !previewed",
        )
    source = f"req.fhdr({sticky.name})" if sticky.by is StickyBy.HEADER else f"req.cook({sticky.name})"
    return (
        f"http-request set-var(txn.bucket) {source},xxh32,mod(10000) if divided {{ {source} -m len gt 0 }}",
        drawn,
    )


def _exit(name: str) -> tuple[str, ...]:
    return (
        # While there is a control pool the number holds its share and side too: see `Split.code`.
        "http-request set-var(txn.control) var(txn.green),div(10001) if { var(txn.green) -m int gt 10000 }",
        "http-request set-var(txn.green) var(txn.green),mod(10001) if compared",
        f"use_backend {name}.%[var(txn.slot)] if previewed",
        f"use_backend {name}.control if compared of_blue {{ var(txn.control),div(2),add(txn.bucket) -m int ge 10000 }}",
        f"use_backend {name}.control if compared !of_blue {{ var(txn.control),div(2),sub(txn.bucket) -m int gt 0 }}",
        f"use_backend {name}.green if {{ var(txn.green) -m int ge 10000 }}",
        f"use_backend {name}.green if {{ var(txn.bucket),sub(txn.green) -m int lt 0 }}",
        f"default_backend {name}.blue",
    )


def _pool(environment: EnvironmentState, pool: Pool, run: Path) -> str:
    route = environment.route
    place = f"{name_of(route.key)}.{pool}"
    servers = "".join(
        f"    server {m.server.name} {endpoint(m.server.host, m.server.port)} {SERVER_OPTIONS}"
        f"{' weight 0' if m.standing == 'draining' else ''}\n"
        for m in environment.of(pool)
    )
    # How often the edge had to answer for this pool itself, by status: no statistic of HAProxy's own says so.
    counted = place.replace("-", "_")
    blames = "\n".join(
        f"    http-after-response set-var(proc.e{status}.{counted}) var(proc.e{status}.{counted},0),add(1)"
        f" if {{ status {status} }}"
        for status in (502, 503, 504)
    )
    disturbed = "".join(f"    {rule}\n" for rule in _disturbed(place)) if isinstance(pool, Slot) else ""
    return f"""
backend {place}
    timeout server {round(route.request_timeout * 1000)}ms
{disturbed}\
    http-request set-header X-Crossfade-Slot {pool}
    http-request set-var(txn.release) str({place}),map_str({RELEASES})
    http-request set-header X-Crossfade-Release %[var(txn.release)] if {{ var(txn.release) -m found }}
    http-request set-timeout server var(txn.left) if {{ var(txn.left) -m found }}
    acl feed req.fhdr(Accept) -m beg text/event-stream
    http-request set-timeout server 1h if feed
    http-request unset-var(txn.t0) if feed
    http-response set-var(txn.own) bool(true) if {{ status ge 500 }}
    acl tells_events res.fhdr(X-Crossfade-Event) -m found
    acl tells_variants res.fhdr(X-Crossfade-Variant) -m found
    http-response lua.told {place} if tells_events || tells_variants
    http-response del-header X-Crossfade-Event if tells_events
    http-response del-header X-Crossfade-Variant if tells_variants
    http-after-response allow if {{ status lt 500 }} || {{ var(txn.own) -m found }}
{blames}
{servers}\
    server _elsewhere 'unix@{run}/{HOP_SOCKET}' backup send-proxy-v2 proxy-v2-options unique-id pool-max-conn 0
"""


def _disturbed(place: str) -> tuple[str, ...]:
    """What a game day does to a slot; while there is none, a look into an empty map."""
    return (
        f"http-request lua.disturb {place} if {{ str({place}),map_str({FAULTS}) -m found }}",
        # It stands in no record of failures: of those, the ones near a move of the weights are held against the switch.
        "http-request set-log-level silent if { var(txn.fault) -m found }",
        *(
            f'http-request return status {status} content-type text/plain string "A game day answers.\\n"'
            f" if {{ var(txn.fault) -m int {status} }}"
            for status in FAULT_STATUSES
        ),
    )


def _elsewhere(run: Path) -> str:
    return f"""
frontend _elsewhere
    bind 'unix@{run}/{HOP_SOCKET}' accept-proxy mode 600
    log global
    log-format {LOG_FORMAT}
    unique-id-format "%[var(txn.hops)]:%[var(txn.slot)]:%[var(txn.patience)]:%[var(txn.t0)]:%b"
    http-request set-var(txn.from) fc_pp_unique_id
    http-request set-var(txn.t0) var(txn.from),field(4,:),add(0) if {{ var(txn.from),field(4,:) -m int gt 0 }}
    http-request disable-l7-retry unless {{ method {IDEMPOTENT} }}
    http-request del-header X-Crossfade-Release
    http-request lua.elsewhere
    http-request set-log-level silent if {{ var(txn.slot) -m len gt 0 }}
    use_backend %[var(txn.to)] if {{ var(txn.to) -m found }}
"""
