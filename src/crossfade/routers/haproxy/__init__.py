"""The router `haproxy`: our own edge on one machine."""

from crossfade.routers.haproxy.config import Options
from crossfade.routers.haproxy.process import binary, edge_command, prepare, version
from crossfade.routers.haproxy.router import HAProxyRouter

__all__ = ["HAProxyRouter", "Options", "binary", "edge_command", "prepare", "version"]
