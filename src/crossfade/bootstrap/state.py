"""The state folder: what is in it, who serves it, and the adapters that work in it.

Imports of adapters are inside the functions that need them, so that `crossfade status` does not load a database.
"""

from __future__ import annotations

import json
import os
import secrets
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import httpx

from crossfade.bootstrap.tls import pinned
from crossfade.domain.errors import Invalid, NotFound, StorageFailed

if TYPE_CHECKING:
    from crossfade.domain.release import ReleaseConfig
    from crossfade.ports import Parts

LONGEST_STATE: Final = 70
"""Characters of a state folder's path: the sockets below it must fit the 107 bytes of a unix address."""

SERVER: Final = "server.json"
"""Who serves the folder: ``url`` for this machine, ``pid``, ``version``, and with TLS ``certificate``, the one to trust."""

PIN: Final = "server.pem"


def default_state() -> Path:
    """``$XDG_STATE_HOME/crossfade``, by default ``~/.local/state/crossfade``."""
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "crossfade"


def prepare(state: Path) -> None:
    """Make the state folder ready. Raises Invalid for a path that is too long, StorageFailed."""
    if len(os.fsencode(str(state))) > LONGEST_STATE:
        raise Invalid("state folder", str(state), f"a path of at most {LONGEST_STATE} bytes (its sockets need room)")
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name in ("run", "logs"):
            (state / name).mkdir(exist_ok=True, mode=0o700)
        for name in ("token", "key"):
            _keep_secret(state / name)
    except OSError as error:
        raise StorageFailed(
            f"The state folder {state} cannot be written: {error.strerror or error}.",
            hint="Choose another one with --state or CROSSFADE_STATE, or free some space.",
        ) from error


def _keep_secret(path: Path) -> None:
    """Make the file with a random secret unless it is there. Whole or not at all."""
    if path.exists():
        return
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        os.write(handle, secrets.token_urlsafe(32).encode() + b"\n")
        os.fsync(handle)
        os.link(name, path)
    except FileExistsError:
        pass  # another process was first
    finally:
        os.close(handle)
        os.unlink(name)


def make_parts(state: Path, api: str = "") -> Parts:
    """All the adapters of an installation; ``api`` is the URL of its server. Raises StorageFailed."""
    from crossfade.bootstrap.release_databases import ReleaseDatabases
    from crossfade.ports import Parts
    from crossfade.probes.http import HttpProber
    from crossfade.routers.haproxy import HAProxyRouter
    from crossfade.runtimes.process import ProcessRuntime
    from crossfade.runtimes.supervisor import Supervisor
    from crossfade.signals.edge import EdgeSignals
    from crossfade.signals.sources import ElsewhereSources
    from crossfade.store.access import SqlAccess
    from crossfade.store.artifacts import FolderArtifacts
    from crossfade.store.flags import SqlFlags
    from crossfade.store.history import FolderHistories
    from crossfade.store.records import SqlRecords
    from crossfade.store.secrets import FolderSecrets
    from crossfade.store.sql import SqlStore

    ledger = f"sqlite:///{state / 'crossfade.db'}"
    artifacts, kept = FolderArtifacts(state / "artifacts"), FolderSecrets(state / "secrets")
    return Parts(
        store=SqlStore(ledger),
        router=HAProxyRouter(state / "edge", state / "run"),
        runtime=ProcessRuntime(state, Supervisor(state)),
        signals=EdgeSignals(state / "edge", state / "run"),
        prober=HttpProber(),
        artifacts=artifacts,
        secrets=kept,
        access=SqlAccess(ledger),
        flags=SqlFlags(ledger),
        records=SqlRecords(ledger),
        histories=FolderHistories(state / "history"),
        key=(state / "key").read_bytes(),
        sources=ElsewhereSources(),
        databases=ReleaseDatabases(artifacts, kept),
        api=api,
    )


def read_config(data: Mapping[str, Any], service: str, environment: str) -> ReleaseConfig:
    """The configuration for one environment from the content of crossfade.yaml. Raises InvalidConfig, NotFound."""
    from crossfade.spec.models import Spec

    spec = Spec.from_data(dict(data))
    if spec.service != service:
        raise Invalid("service", service, f"{spec.service}, as the configuration says")
    if spec.unread():
        raise Invalid(
            "slo.openslo", ", ".join(spec.unread()), "no files: whoever has them reads them and sends what they say"
        )
    return spec.for_environment(environment)


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Whole or not at all."""
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(data))
    fresh.replace(path)


def running_server(state: Path) -> dict[str, Any] | None:
    """What `server.json` says of the server that answers for this state folder; None when none does."""
    try:
        known = json.loads((state / SERVER).read_text())
        certificate = known.get("certificate")
        verify = pinned(Path(certificate)) if certificate else True
        answer = httpx.get(f"{known['url']}/healthz", timeout=2.0, trust_env=False, verify=verify)
    except (OSError, ValueError, KeyError, AttributeError, ssl.SSLError, httpx.HTTPError):
        return None
    return dict(known) if answer.status_code == 200 else None


def verify_audit(state: Path) -> dict[str, Any]:
    """Look at the whole audit log, from the ledger itself: ``ok``, ``entries``, ``broken``, ``why``, ``head``.

    Raises NotFound when there is no ledger, StorageFailed when it cannot be read.
    """
    from crossfade.store.access import SqlAccess

    ledger = state / "crossfade.db"
    if not ledger.exists():
        raise NotFound(
            f"There is no ledger in {state}.", hint="`crossfade up` makes one; --state names another folder."
        )
    access = SqlAccess(f"sqlite:///{ledger}")
    try:
        return asdict(access.verify_audit())
    finally:
        access.dispose()
