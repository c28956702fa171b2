"""`crossfade flags serve`: the flags of a plain file over OFREP, for local development. No project, no state folder."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from crossfade.domain.errors import Invalid, NotFound, Refused, Unauthenticated

if TYPE_CHECKING:
    from fastapi import FastAPI

    from crossfade.api.flagd_sync import FlagdSync
    from crossfade.api.ofrep_source import Caller, Served

LOOK_EVERY: Final = 0.2
"""Seconds between two looks at the file."""
LARGEST_FILE: Final = 32 * 2**20
LOCAL_ORIGIN: Final = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?"
"""Pages of this machine may ask: a front end under development is one. Others may not, wherever they were loaded from."""

_log = logging.getLogger(__name__)


def read_flag_file(path: Path) -> Served:
    """What a file serves. Raises NotFound, Refused when it cannot be read, Invalid with everything that is wrong with it."""
    from crossfade.api.ofrep_source import Served
    from crossfade.domain.flags.document import read
    from crossfade.domain.flags.evaluate import compiled

    try:
        status = path.stat()
        if status.st_size > LARGEST_FILE:
            raise Refused(f"{path} has more than {LARGEST_FILE // 2**20} MiB.")
        data = path.read_bytes()
    except FileNotFoundError:
        raise NotFound(f"There is no file {path}.", hint="It is a flag definition of flagd, in JSON.") from None
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error.strerror}.") from error
    try:
        document = json.loads(data.decode())
    except UnicodeDecodeError:
        raise Invalid(str(path), data[:20], "JSON in UTF-8") from None
    except RecursionError:
        raise Invalid(str(path), "brackets in brackets", "JSON that is not nested as deep") from None
    except ValueError as error:
        raise Refused(f"{path} is not JSON: {error}.", hint="It is a flag definition of flagd, in JSON.") from None
    return Served("", hashlib.sha256(data).hexdigest()[:16], status.st_mtime, compiled(read(document)))


class FlagFile:
    """`api.ofrep_source.Source` of one file. Who shows ``token`` gets all of it; without a token, everybody does.

    A file that has become unreadable or wrong is not taken: what it was before goes on being served, and `faults` says so.
    """

    def __init__(self, path: Path, token: str = "") -> None:
        self._path, self._token = path, token
        self._seen = self._look()
        self._served = read_flag_file(path)
        self._woken: set[asyncio.Event] = set()
        self._ended = False
        self._fault = ""

    def now(self) -> float:
        """Epoch seconds."""
        return time.time()

    async def caller(self, token: str, environment: str, address: str) -> Caller:
        """See `Source`. The environment that is named does not matter: there is one."""
        from crossfade.api.ofrep_source import Caller

        if self._token and not hmac.compare_digest(token.encode(errors="replace"), self._token.encode()):
            raise Unauthenticated("The token that this server was started with is wanted: `Authorization: Bearer …`.")
        return Caller("file", "")

    async def served(self, key: str) -> Served:
        """See `Source`."""
        return self._served

    async def changes(self) -> AsyncIterator[object]:
        """See `Source`."""
        woken = asyncio.Event()
        self._woken.add(woken)
        try:
            while not self._ended:
                await woken.wait()
                woken.clear()
                if not self._ended:
                    yield self._served.tag
        finally:
            self._woken.discard(woken)

    def evaluated(self, key: str, flag: str, variant: str, release: str) -> None:
        """Nobody counts here."""

    def asked_in(self, key: str, context: Mapping[str, Any]) -> None:
        """Nor does anybody remember."""

    @property
    def count(self) -> int:
        """How many flags are served."""
        return len(self._served.flags.flags)

    def faults(self) -> tuple[str, ...]:
        """Why what is served is not what the file says now."""
        return (self._fault,) if self._fault else ()

    def end(self) -> None:
        """All streams end."""
        self._ended = True
        self._wake()

    async def follow(self) -> None:
        """Look at the file for ever, and serve what it says."""
        while True:
            await asyncio.sleep(LOOK_EVERY)
            seen = await asyncio.to_thread(self._look)
            if seen != self._seen:
                self._seen = seen
                await asyncio.to_thread(self._take)
                self._wake()

    def _wake(self) -> None:
        for woken in self._woken:
            woken.set()

    def _take(self) -> None:
        try:
            fresh = read_flag_file(self._path)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a file, it ends nothing
            self._fault = f"{self._path} is not served as it is now: {error}"
            self._served = replace(self._served, stale_since=self._served.stale_since or time.time())
            _log.warning("%s What it was before goes on being served.", self._fault)
            return
        self._fault = ""
        if fresh.tag != self._served.tag:
            self._served = replace(fresh, modified=time.time())
            _log.info("%s has changed: %d flags", self._path, len(fresh.flags.flags))
        else:
            self._served = replace(self._served, stale_since=None)

    def _look(self) -> tuple[int, int, int] | None:
        try:
            status = os.stat(self._path)
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino


def flag_file_app(source: FlagFile, token: str = "") -> FastAPI:
    """OFREP over a file, with `/healthz` and `/readyz`."""
    from fastapi import FastAPI
    from fastapi.responses import JSONResponse
    from starlette.middleware.cors import CORSMiddleware

    from crossfade import __version__
    from crossfade.api.ofrep import ALLOWED_HEADERS, EXPOSED_HEADERS, Ofrep
    from crossfade.api.ofrep_routes import Straight, router

    app = FastAPI(title="Crossfade flags", version=__version__, openapi_url=None, redirect_slashes=False)
    # Without a token anybody may listen anyway; a secret of chance would only make streams break when this is restarted.
    ofrep = Ofrep(source, token.encode() or b"open")
    app.state.channels = ofrep.channels
    routes = router(ofrep)
    app.include_router(routes)

    @app.get("/healthz")
    async def healthz() -> JSONResponse:
        """The server is up."""
        return JSONResponse({"status": "ok", "version": __version__})

    @app.get("/readyz")
    async def readyz() -> JSONResponse:
        """Whether what is served is what the file says, and why not. Even then it goes on serving."""
        reasons = source.faults()
        return JSONResponse({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)

    app.add_middleware(Straight, routes=routes, ofrep=ofrep)
    app.add_middleware(
        CORSMiddleware,
        allow_origin_regex=LOCAL_ORIGIN,
        allow_methods=["GET", "POST"],
        allow_headers=ALLOWED_HEADERS,
        expose_headers=EXPOSED_HEADERS,
    )
    return app


def serve_flag_file(
    path: Path,
    host: str = "127.0.0.1",
    port: int = 8016,
    grpc_port: int | None = None,
    token: str = "",
    on_listen: Callable[[str], None] = lambda _: None,
) -> None:
    """Serve a file until SIGINT or SIGTERM. ``on_listen`` is told the URL, when it can be asked; port 0 is any free one.

    Beyond loopback a token is wanted, as there is no TLS. Raises Invalid, NotFound, Refused.
    """
    import uvicorn

    from crossfade.bootstrap.server import listen
    from crossfade.bootstrap.wire import Bounded

    try:
        address = ip_address(host)
    except ValueError:
        raise Invalid("--host", host, "an IP address of this machine, for example 127.0.0.1") from None
    if not address.is_loopback and not token:
        raise Refused(
            f"The flags of {path} would be open to everybody who reaches {host}.",
            hint="Use --host 127.0.0.1, or give a token that is to be shown.",
        )
    if not logging.getLogger().handlers:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    source = FlagFile(path, token)
    app = flag_file_app(source, token)
    listener = listen(str(address), port)
    shown = f"[{address}]" if address.version == 6 else str(address)
    url = f"http://{shown}:{listener.getsockname()[1]}"
    sync = _sync(source, app, f"{shown}:{grpc_port}") if grpc_port is not None else None

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            self._following = asyncio.create_task(source.follow())
            if sync is not None:
                await sync.start()
                _log.info("flagd's sync service listens on %s:%d", shown, sync.port)
            _log.info("%d flags of %s are served on %s", source.count, path, url)
            on_listen(url)

        async def shutdown(self, sockets: Any = None) -> None:
            self._following.cancel()
            source.end()
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
    )
    Server(config).run(sockets=[listener])


def _sync(source: FlagFile, app: FastAPI, address: str) -> FlagdSync:
    from crossfade.api.flagd_sync import FlagdSync

    return FlagdSync(source, app.state.channels, address)
