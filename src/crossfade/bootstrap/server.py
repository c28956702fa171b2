"""The server: one process that drives rollouts and answers API and dashboard."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import hmac
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossfade import __version__
from crossfade.bootstrap.doctor import doctor
from crossfade.bootstrap.notices import make_post
from crossfade.bootstrap.pipelines import compose_pipelines, make_works
from crossfade.bootstrap.settings import PLAIN, Given, Settings, settle
from crossfade.bootstrap.state import PIN, SERVER, make_parts, prepare, read_config, write_json
from crossfade.bootstrap.tls import Certificate, Watched, examine, trusting, write_pin
from crossfade.domain.errors import CrossfadeError, Refused

if TYPE_CHECKING:
    from fastapi import FastAPI

    from crossfade.api.flagd_sync import FlagdSync
    from crossfade.service import Service
    from crossfade.web.provider import Provider

_log = logging.getLogger(__name__)


def serve(state: Path, given: Given, on_boundary: Callable[[str], None] = lambda _: None) -> None:
    """Run the server until SIGTERM.

    Raises Invalid, InvalidConfig, Refused when another one serves this state folder, or the port is taken.
    """
    from crossfade.engine.loop import Engine
    from crossfade.service import Service

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for chatty in ("httpx", "httpcore", "alembic", "uvicorn", "authlib"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    prepare(state)
    settings = settle(state, given)
    with open(state / "server.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Refused(f"Another server already serves {state}.", hint="`crossfade status` talks to it.") from None
        watched = _watched(state, settings)
        listener = listen(settings.host, settings.port)
        url = settings.url(listener.getsockname()[1])
        # Replicas post their events by a name that the certificate has.
        parts = make_parts(state, url if watched is None else settings.public_url or url)
        start = getattr(parts.signals, "start", None)
        if start is not None:
            start()
        engine = Engine(parts, state, on_boundary)
        service = Service(parts, engine, read_config)
        works = make_works(state, parts, settings.public_url or url, cache=settings.cache)
        service.notices.runs = works.runs
        conductor = compose_pipelines(parts, works, service, at_once=settings.runs_at_once, on_boundary=on_boundary)
        app = compose(state, service, settings, url, lambda: (*engine.faults(), *conductor.faults()))
        parts.store.give_up_keys()
        engine.start()
        conductor.start()
        service.notices.start()
        service.hub.start()
        service.migrations.start()
        service.objectives.start()
        service.watches.start()
        service.flags.start()
        service.ramps.start()
        service.drills.doing.kill_server = _end_at_once(state)
        service.drills.start()
        service.proofs.start()
        service.reports.days.start()
        pinned: dict[str, Any] = {}
        if watched is not None:
            pinned = {"certificate": str(state / PIN)}
            watched.start()
        elif settings.plain_beyond_loopback:
            _log.warning(PLAIN)
        write_json(
            state / SERVER,
            {"url": url, "pid": os.getpid(), "version": __version__, "given": given.to_data(), **pinned}
            | ({"public_url": settings.public_url} if settings.public_url else {}),
        )
        # What was made so far stays: looking through all of it for garbage would hold up a request now and then.
        gc.collect()
        gc.freeze()
        _run(app, settings, listener, watched, service.hub.stop, _sync(app, settings))
        conductor.stop()
        service.reports.days.stop()
        service.proofs.stop()
        service.drills.stop()
        service.ramps.stop()
        service.flags.stop()
        service.watches.stop()
        service.objectives.stop()
        service.migrations.stop()
        engine.stop()
        service.notices.stop()
        # Threads may still wait for a peer; everything they do is safe to be cut off and done again.
        logging.shutdown()
        os._exit(0)


def _end_at_once(state: Path) -> Callable[[], None] | None:
    """How a drill kills this server; None when nobody would start it again."""
    from crossfade.runtimes.supervisor import Supervisor

    try:
        supervised = Supervisor(state).states().get("server")
    except CrossfadeError:
        return None
    if supervised is None or supervised.pid != os.getpid():
        return None
    return lambda: os.kill(os.getpid(), signal.SIGKILL)


def compose(state: Path, service: Service, settings: Settings, url: str, ready: Callable[[], Sequence[str]]) -> FastAPI:
    """API and dashboard as one application; ``url`` is where this machine reaches it. Raises Refused.

    ``ready`` says what keeps rollouts from being driven, in sentences.
    """
    from crossfade.api.app import create_app
    from crossfade.api.ofrep_limits import Offer, Rate
    from crossfade.service.accounts import Limits
    from crossfade.web.app import mount

    origin = settings.public_url or url
    service.accounts.limits = Limits(settings.session_lasts, settings.session_idle)
    if settings.notify is not None:
        service.notices.equip(make_post(state, settings.notify, settings.traces, origin))
    flags = Offer(Rate(settings.flag_rate, settings.flag_burst), settings.flag_origins)
    token = (state / "token").read_text().strip()
    app = create_app(service, token, lambda: doctor(state), origin=origin, ready=ready, flags=flags)
    key = hmac.digest((state / "key").read_bytes(), b"dashboard", "sha256")
    mount(app, service, origin=origin, key=key, provider=provider(state, settings, origin))
    return app


def provider(state: Path, settings: Settings, origin: str) -> Provider | None:
    """The login provider of `server.yaml`, with its secret and certificates read. Raises Refused."""
    from crossfade.web.provider import Provider

    oidc = settings.oidc
    if oidc is None:
        return None
    return Provider(
        issuer=oidc.issuer,
        client_id=oidc.client_id,
        origin=origin,
        client_secret=_secret(state / oidc.client_secret_file) if oidc.client_secret_file else "",
        scopes=oidc.scopes,
        name_claim=oidc.name_claim,
        role_claim=oidc.roles.claim,
        grants=dict(oidc.roles.grants),
        trust=trusting(state / oidc.ca) if oidc.ca else None,
    )


def _secret(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8").strip()
        mode = path.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"oidc.client_secret_file {path} cannot be read: {error}.") from error
    if not text or len(text) > 1000:
        raise Refused(f"oidc.client_secret_file {path} does not hold a secret: it has {len(text)} characters.")
    if mode & 0o077:
        _log.warning("%s can be read by others than its owner: chmod 600 %s", path, path)
    return text


def _watched(state: Path, settings: Settings) -> Watched | None:
    if settings.certificate is None or settings.key is None:
        (state / PIN).unlink(missing_ok=True)
        return None

    def take(certificate: Certificate) -> None:
        write_pin(state / PIN, certificate)
        if certificate.ends_soon(time.time()):
            _log.warning("The TLS certificate ends soon: %s", certificate.describe(time.time()))

    found = examine(settings.certificate, settings.key, time.time())
    take(found)
    return Watched(found, take, time.time)


def _sync(app: FastAPI, settings: Settings) -> FlagdSync | None:
    """The sync service of flagd, where one is wanted: on the API's address, with its certificate."""
    if settings.grpc_port is None:
        return None
    from crossfade.api.flagd_sync import FlagdSync

    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    pem = None
    if settings.certificate is not None and settings.key is not None:
        pem = settings.certificate, settings.key
    return FlagdSync(app.state.ofrep.source, app.state.ofrep.channels, f"{host}:{settings.grpc_port}", pem)


def _run(
    app: FastAPI,
    settings: Settings,
    listener: socket.socket,
    watched: Watched | None,
    before_end: Callable[[], None],
    sync: FlagdSync | None,
) -> None:
    """Answer until SIGTERM. ``before_end`` ends the streams, which uvicorn would wait for."""
    import uvicorn

    from crossfade.bootstrap.wire import Bounded

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if sync is not None:
                await sync.start()

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            await asyncio.to_thread(before_end)
            if sync is not None:
                await sync.stop()
            await super().shutdown(sockets)

    config = uvicorn.Config(
        app,
        http=Bounded,
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=2,
        server_header=False,
        # What a proxy says of its client counts only from those that are named.
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        ssl_context_factory=None if watched is None else lambda _config, _default: watched.context,
    )
    Server(config).run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """A socket there. Raises Refused when it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named, since asyncio takes it from here: without it, small answers wait 40 ms for an acknowledgement.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise Refused(
            f"{host}:{port} cannot be used for the API: {error.strerror}.", hint="Choose another with --port."
        ) from error
    listener.listen(128)
    return listener
