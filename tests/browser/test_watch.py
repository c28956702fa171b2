"""The watch over the pages sees what it is there to see."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from playwright.sync_api import Page

from tests.browser.conftest import Watch

HEAD = "<!doctype html><html lang='en'><head><title>A page</title><link rel='icon' href='data:,'></head><body><main><h1>Hello</h1>"
PAGES = {
    "/calm": HEAD + "</main></body></html>",
    "/unlabelled": HEAD
    + "<input type='text'><img src='data:image/gif;base64,R0lGODlhAQABAAAAACw='></main></body></html>",
    "/inline": HEAD + "<script>document.title = 'changed'</script></main></body></html>",
    "/thrower": HEAD + "<script src='/thrower.js'></script></main></body></html>",
    "/thrower.js": "throw new Error('on purpose')",
    "/elsewhere": HEAD + "<img alt='' src='http://crossfade.invalid/x.png'></main></body></html>",
}


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    class Site(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = PAGES.get(self.path, "").encode()
            self.send_response(200 if body else 404)
            self.send_header("Content-Type", "text/javascript" if self.path.endswith(".js") else "text/html")
            self.send_header("Content-Security-Policy", "default-src 'none'; script-src 'self'; img-src data: http:")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_calm_page_is_let_through(page: Page, site: str, axe: Callable[[Page], None]) -> None:
    page.goto(f"{site}/calm")
    axe(page)


def test_what_cannot_be_heard_by_a_screen_reader_is_found(page: Page, site: str, axe: Callable[[Page], None]) -> None:
    page.goto(f"{site}/unlabelled")
    with pytest.raises(AssertionError, match=r"label|image-alt"):
        axe(page)


@pytest.mark.parametrize(
    ("path", "seen"),
    [
        ("/inline", "Content Security Policy"),
        ("/thrower", "script error: on purpose"),
        ("/elsewhere", "a request off this machine: http://crossfade.invalid/x.png"),
    ],
)
def test_what_a_page_must_not_do_is_seen(page: Page, page_watch: Watch, site: str, path: str, seen: str) -> None:
    page.goto(site + path)
    page.wait_for_function("document.readyState === 'complete'")
    assert any(seen in said for said in page_watch.wrong()), page_watch.seen
    page_watch.allow(".*")
