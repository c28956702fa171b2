"""The files that pages load, read once: named by their content, so that browsers may keep them for good."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request
from fastapi.responses import Response

from crossfade.domain.errors import NotFound

HERE: Final = Path(__file__).with_name("static")
KINDS: Final = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file; ``small`` is the same, compressed by gzip."""

    mark: str
    kind: str
    content: bytes
    small: bytes


class Assets:
    """All files below a folder whose kind a page may load."""

    def __init__(self, folder: Path = HERE) -> None:
        self._found = dict(_read(folder))

    def url(self, path: str) -> str:
        """Where a file is, with the mark of its content. Raises NotFound for one that is not installed."""
        return f"/static/{self._asset(path).mark}/{path}"

    def _asset(self, path: str) -> Asset:
        if path not in self._found:
            raise NotFound(f"There is no asset {path!r}.", hint="The installation is not whole: install it again.")
        return self._found[path]

    def answer(self, request: Request, mark: str, path: str) -> Response:
        """The file. A page that an older server made gets it too, but may not keep it. Raises NotFound."""
        asset = self._asset(path)
        headers = {
            "Cache-Control": "public, max-age=31536000, immutable" if mark == asset.mark else "no-cache",
            "Vary": "Accept-Encoding",
        }
        if "gzip" in request.headers.get("accept-encoding", ""):
            return Response(asset.small, media_type=asset.kind, headers={**headers, "Content-Encoding": "gzip"})
        return Response(asset.content, media_type=asset.kind, headers=headers)

    def router(self) -> APIRouter:
        """The route. Wants no session: the login page loads them too."""
        routes = APIRouter(include_in_schema=False)

        @routes.get("/static/{mark}/{path:path}")
        def static(request: Request, mark: str, path: str) -> Response:
            """A file."""
            return self.answer(request, mark, path)

        @routes.get("/favicon.ico")
        def icon(request: Request) -> Response:
            """What browsers ask for unasked."""
            return self.answer(request, "", "icon.svg")

        return routes


def _read(folder: Path) -> Iterator[tuple[str, Asset]]:
    for file in sorted(folder.rglob("*")):
        kind = KINDS.get(file.suffix)
        if kind is not None and file.is_file():
            content = file.read_bytes()
            mark = hashlib.sha256(content).hexdigest()[:12]
            yield file.relative_to(folder).as_posix(), Asset(mark, kind, content, gzip.compress(content, 9, mtime=0))
