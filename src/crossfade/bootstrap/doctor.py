"""Checks of an installation, part by part."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from crossfade import __version__
from crossfade.bootstrap.settings import PLAIN, Given, settle
from crossfade.bootstrap.state import SERVER, prepare, running_server
from crossfade.bootstrap.tls import examine
from crossfade.domain.errors import CrossfadeError, Refused, StorageFailed, Unavailable


class _Warning(CrossfadeError):
    """Nothing is broken, and yet somebody should know."""


def doctor(state: Path) -> list[dict[str, Any]]:
    """Check the installation part by part; never raises for what it finds.

    Rows of ``check``, ``ok``, ``found``, ``hint``, and ``warning`` where something is well but should be known.
    """
    from crossfade.routers.haproxy import binary, version
    from crossfade.runtimes.supervisor import Supervisor

    supervisor = Supervisor(state)

    def python() -> str:
        return f"Python {sys.version.split()[0]}, Crossfade {__version__}"

    def folder() -> str:
        prepare(state)
        probe = state / f".doctor-{os.getpid()}"
        probe.write_bytes(b"x")
        probe.unlink()
        return f"{state} is writable"

    def space() -> str:
        usage = shutil.disk_usage(state)
        shown = f"{usage.free / 1e9:.1f} GB free of {usage.total / 1e9:.1f} GB"
        if usage.free < 500e6:
            raise StorageFailed(f"only {shown}", hint="Free some space: a full disk stops every deployment.")
        return shown

    def permissions() -> str:
        for name in ("token", "key"):
            mode = (state / name).stat().st_mode & 0o777
            if mode & 0o077:
                raise Refused(f"{name} has mode {mode:o}", hint=f"chmod 600 {state / name}")
        return "token and key are readable by their owner only"

    def proxy() -> str:
        return f"HAProxy {version()} at {binary()}"

    def supervision() -> str:
        if not supervisor.running():
            raise Unavailable("the supervisor is not running", hint="`crossfade up` starts it.")
        return f"supervisord is up (pid {supervisor.pid()})"

    def program(name: str) -> Callable[[], str]:
        def look() -> str:
            found = supervisor.states().get(name)
            if found is None or not found.alive:
                raise Unavailable(f"the {name} is not running", hint="`crossfade up` starts it; see the logs folder.")
            again = f", restarted {found.restarts} times" if found.restarts else ""
            return f"the {name} is up (pid {found.pid}){again}"

        return look

    def api() -> str:
        known = running_server(state)
        if known is None:
            raise Unavailable("the API does not answer", hint=f"See {state / 'logs' / 'server.log'}.")
        return f"the API answers on {known['url']}"

    def ledger() -> str:
        import sqlite3

        path = state / "crossfade.db"
        if not path.exists():
            return "no ledger yet"
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)
        try:
            said = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        finally:
            connection.close()
        if said != "ok":
            raise StorageFailed(f"the ledger is damaged: {said}", hint="Restore crossfade.db from a backup.")
        return f"the ledger is sound ({path.stat().st_size / 1e3:.0f} kB)"

    def reach() -> str:
        return _reach(state)

    checks: list[tuple[str, Callable[[], str]]] = [
        ("program", python),
        ("state folder", folder),
        ("disk", space),
        ("secrets", permissions),
        ("edge binary", proxy),
        ("supervisor", supervision),
        ("edge", program("edge")),
        ("server", program("server")),
        ("API", api),
        ("reach", reach),
        ("ledger", ledger),
    ]
    return [_examined(name, check) for name, check in checks]


def _reach(state: Path) -> str:
    """From where the server can be reached, and whether what is said to it stays private."""
    settings = settle(state, _as_started(state))
    if settings.certificate is None or settings.key is None:
        if settings.plain_beyond_loopback:
            raise _Warning(
                f"{PLAIN[0].lower()}{PLAIN[1:]}".rstrip("."),
                hint="It was allowed explicitly. A certificate ends this: tls: in server.yaml.",
            )
        return f"the API listens on {settings.host}, for this machine only"
    now = time.time()
    found = examine(settings.certificate, settings.key, now)
    mode = settings.key.stat().st_mode & 0o777
    if mode & 0o007:
        raise _Warning(f"the TLS key has mode {mode:o}", hint=f"chmod 600 {settings.key}")
    if found.ends_soon(now):
        raise _Warning(found.describe(now), hint="Renew it: the server takes the new one without a restart.")
    return f"TLS on {settings.host}; {found.describe(now)}"


def _as_started(state: Path) -> Given:
    """What the command line of the running server said, as it wrote down."""
    try:
        given = json.loads((state / SERVER).read_text()).get("given", {})
        paths = {name: Path(given[name]) for name in ("certificate", "key") if given.get(name)}
        return Given(given.get("host"), given.get("port"), **paths, allow_plain_http=True)
    except (OSError, ValueError, AttributeError):
        return Given(allow_plain_http=True)  # what is open is told, not refused


def _examined(name: str, check: Callable[[], str]) -> dict[str, Any]:
    try:
        return {"check": name, "ok": True, "found": check(), "hint": ""}
    except _Warning as warning:
        return {"check": name, "ok": True, "found": warning.what, "hint": warning.hint, "warning": True}
    except CrossfadeError as error:
        return {"check": name, "ok": False, "found": error.what, "hint": error.hint}
    except Exception as error:  # noqa: BLE001 - a check that breaks is a finding, not a crash
        return {"check": name, "ok": False, "found": f"{type(error).__name__}: {error}", "hint": ""}
