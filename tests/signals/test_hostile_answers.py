"""Sources that misbehave: whatever answers, a reading ends in time, and says why it has nothing."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfade.domain.analysis.policy import Source, SourceKind
from crossfade.domain.errors import Invalid, Unavailable
from crossfade.signals.sources import ElsewhereSources, filled

ARM = {"service": "shop", "environment": "production", "slot": "green", "release": "r2", "arm": "candidate"}
Answer = Callable[[BaseHTTPRequestHandler], None]


class Peer:
    """A server that answers as a test says; ``asked`` are the requests, as method, path and body."""

    def __init__(self) -> None:
        self.answer: Answer = lambda handler: None
        self.asked: list[tuple[str, str, str]] = []
        peer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                peer.asked.append((self.command, self.path, body.decode()))
                try:
                    peer.answer(self)
                except (BrokenPipeError, ConnectionResetError):
                    pass

            do_POST = do_GET  # noqa: N815 - the name that the base class looks for

            def log_message(self, *args: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def says(self, body: bytes | str | object, status: int = 200, **headers: str) -> None:
        content = (
            body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else json.dumps(body).encode()
        )

        def answer(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(status)
            handler.send_header("Content-Length", str(len(content)))
            for name, value in headers.items():
                handler.send_header(name, value)
            handler.end_headers()
            handler.wfile.write(content)

        self.answer = answer


@pytest.fixture(scope="module")
def server() -> Iterator[Peer]:
    peer = Peer()
    thread = threading.Thread(target=peer.server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield peer
    peer.server.shutdown()
    peer.server.server_close()
    thread.join()


@pytest.fixture(params=list(SourceKind)[1:])
def kind(request: pytest.FixtureRequest) -> SourceKind:
    return SourceKind(request.param)


def read(peer: Peer, kind: SourceKind, timeout: float = 5.0, **queries: Any) -> Any:
    if not queries:
        queries = {"value": "$.value" if kind is SourceKind.HTTP else "value"}
    return ElsewhereSources().read(Source("own", kind, peer.url, timeout=timeout, **queries), ARM)


def refusal(peer: Peer, kind: SourceKind, **queries: Any) -> str:
    with pytest.raises(Unavailable) as caught:
        read(peer, kind, **queries)
    assert "\n" not in caught.value.what
    assert len(caught.value.what) < 500
    return caught.value.what


def drip(pieces: bytes, before: bytes = b"") -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(before)
        for byte in pieces:
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
            time.sleep(0.05)

    return answer


@pytest.mark.parametrize(
    "answer",
    [
        drip(b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 1000),
        drip(b" " * 1000, b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"),
        lambda handler: time.sleep(3),
    ],
    ids=["headers", "body", "silence"],
)
def test_a_slow_peer_cannot_hold_a_reader_beyond_its_time(server: Peer, kind: SourceKind, answer: Answer) -> None:
    server.answer = answer
    with pytest.raises(Unavailable, match=r"did not answer within 0\.3 s"):
        read(server, kind, timeout=0.3)


def test_an_answer_that_is_too_large_is_not_read_to_its_end(server: Peer, kind: SourceKind) -> None:
    server.says(b" " * (1024 * 1024 + 1))
    assert "more than 1024 KiB" in refusal(server, kind)


def test_a_redirect_is_not_followed(server: Peer, kind: SourceKind) -> None:
    server.says("", 302, Location="http://127.0.0.1:1/")
    assert "redirects" in refusal(server, kind)


def test_proxies_of_the_environment_are_not_used(
    server: Peer, kind: SourceKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    server.says({"value": 4, "status": "success", "data": {"resultType": "scalar", "result": [1, "4"]}})
    assert read(server, kind, value="$.value" if kind is SourceKind.HTTP else "1 * value").value == 4


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"\xff\xfe", b"[" * 100_000, b"null", b"[]", b'{"status": "success"}', b'{"data": 1}']
)
def test_what_is_not_the_expected_json_is_unavailable(server: Peer, kind: SourceKind, body: bytes) -> None:
    server.says(body)
    assert refusal(server, kind)


@pytest.mark.parametrize("status", [401, 404, 500, 503])
def test_the_status_of_a_refusal_is_said(server: Peer, kind: SourceKind, status: int) -> None:
    server.says("<html>sorry</html>", status)
    assert f"HTTP {status}" in refusal(server, kind)


def test_a_long_error_of_prometheus_is_cut_and_on_one_line(server: Peer) -> None:
    server.says({"status": "error", "error": "no\n" * 9000}, 422)
    assert "HTTP 422: no no no" in refusal(server, SourceKind.PROMETHEUS)


@pytest.mark.parametrize(
    "data",
    [
        {"resultType": "vector", "result": [{"metric": {}}]},
        {"resultType": "vector", "result": [{"metric": {}, "value": [1]}]},
        {"resultType": "vector", "result": [{"metric": 5, "value": [1, "2"]}]},
        {"resultType": "vector", "result": [{"metric": {}, "value": [1, "x"]}]},
        {"resultType": "vector", "result": [7]},
        {"resultType": "vector", "result": 7},
        {"resultType": ["vector"], "result": []},
        {"resultType": "vector", "result": [{"metric": {}, "histogram": [1, {}]}]},
        {},
        [],
    ],
)
def test_a_result_that_is_none_of_prometheus_is_unavailable(server: Peer, data: object) -> None:
    server.says({"status": "success", "data": data})
    assert refusal(server, SourceKind.PROMETHEUS)


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"value": "4"}, "is a text; a number is wanted"),
        ({"value": True}, "is a truth value"),
        ({"value": None}, "is null"),
        ({"value": [1]}, "is a list"),
        ({"value": 10**400}, "too large|does not answer in JSON"),
        ({"other": 1}, r"nothing is at \$\.value"),
    ],
)
def test_what_is_at_a_path_must_be_a_number(server: Peer, document: object, reason: str) -> None:
    server.says(document)
    with pytest.raises(Unavailable, match=reason):
        read(server, SourceKind.HTTP)


def test_several_numbers_at_the_path_of_a_value_and_too_many_of_a_counter_are_said(server: Peer) -> None:
    server.says({"a": [1, 2], "many": [1] * 1001})
    assert "2 numbers are at" in refusal(server, SourceKind.HTTP, value="$.a[*]")
    assert "more than 1000" in refusal(server, SourceKind.HTTP, requests="$.many[*]", errors="$.a[*]")
    assert read(server, SourceKind.HTTP, requests="$.a[*]", errors="$.a[*]").sum("requests") == 3


def test_a_histogram_in_json_is_an_object_of_counts_by_edge(server: Peer) -> None:
    server.says({"h": {"0.1": 5, "+Inf": 6}, "list": [1], "odd": {"fast": 1, "+Inf": 1}, "text": {"0.1": "5"}})
    found = read(server, SourceKind.HTTP, histogram="$.h").counters
    assert {field: sum(counts.values()) for field, counts in found.items()} == {"bucket:0.1": 5, "bucket:inf": 6}
    assert "is a list; an object" in refusal(server, SourceKind.HTTP, histogram="$.list")
    assert "edge fast, which is no number" in refusal(server, SourceKind.HTTP, histogram="$.odd")
    assert "is a text" in refusal(server, SourceKind.HTTP, histogram="$.text")


def test_the_names_of_the_arm_stand_for_the_placeholders_of_url_and_paths(server: Peer) -> None:
    server.says({"r2": 4})
    source = Source(
        "own", SourceKind.HTTP, server.url + "/{service}/{environment}?slot={slot}&arm={arm}", value="$.{release}"
    )
    assert ElsewhereSources().read(source, ARM).value == 4
    assert server.asked[-1] == ("GET", "/shop/production?slot=green&arm=candidate", "")


@given(st.text())
def test_only_plain_names_stand_for_a_placeholder(text: str) -> None:
    source = Source("own", SourceKind.PROMETHEUS, "http://127.0.0.1:1", value='up{release="{release}"}')
    try:
        made = filled(source, {**ARM, "release": text})
    except Invalid:
        return
    assert made.value == f'up{{release="{text}"}}'
    assert set(text) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


@pytest.mark.parametrize("hostile", ['r2"}', "r2\n", "", "-r2", "R2", "r2/../x", "{slot}", "é"])
def test_a_name_that_could_break_out_is_refused(hostile: str) -> None:
    source = Source("own", SourceKind.PROMETHEUS, "http://127.0.0.1:1", value="up")
    with pytest.raises(Invalid, match="release"):
        filled(source, {**ARM, "release": hostile})


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"kind": SourceKind.EVENTS, "value": "x"}, "kind"),
        ({"url": "file:///etc/passwd", "value": "x"}, "url"),
        ({"url": "127.0.0.1", "value": "x"}, "url"),
        ({"requests": "x"}, "own"),
        ({"errors": "x"}, "own"),
        ({"count": "x", "sum": "x"}, "own"),
        ({}, "own"),
        ({"count": "x", "sum": "x", "sum_squares": "x", "value": "x"}, "own"),
    ],
)
def test_a_source_that_cannot_be_asked_is_refused(changes: dict[str, Any], place: str) -> None:
    source = Source(**{"name": "own", "kind": SourceKind.HTTP, "url": "http://127.0.0.1:1", **changes})
    with pytest.raises(Invalid, match=place):
        ElsewhereSources().read(source, ARM)


def test_a_placeholder_without_a_name_is_refused() -> None:
    source = Source("own", SourceKind.PROMETHEUS, "http://127.0.0.1:1", value='up{r="{release}"}')
    with pytest.raises(Invalid, match="release"):
        filled(source, {"service": "shop"})
