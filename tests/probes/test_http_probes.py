"""Checks and flows against a real application, and against sockets that misbehave."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from crossfade.domain.health import Check, CheckResult, Expectation, Flow
from crossfade.probes.http import LARGEST_BODY, HttpProber

Serve = Callable[..., str]


class Shop(BaseHTTPRequestHandler):
    """A shop with a session in a cookie: what the tests ask of a real application."""

    protocol_version = "HTTP/1.1"
    sessions: ClassVar[dict[str, int]] = {}

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        sent = self.rfile.read(length).decode()
        path = self.path
        cookies = dict(re.findall(r"(\w+)=(\w+)", self.headers.get("Cookie", "")))
        if path == "/health":
            self.answer({"ok": True, "orders": 3, "db": {"lag": 0.25, "hosts": ["a", "b"]}, "error": None})
        elif path == "/login":
            session = f"s{len(self.sessions)}"
            self.sessions[session] = 0
            self.answer(
                {"cart": f"c/{session}"},
                ("Set-Cookie", f"sid={session}; Path=/; HttpOnly; Secure"),
                ("X-Csrf", "t0ken"),
            )
        elif path == "/logout":
            self.answer({}, ("Set-Cookie", "sid=; Max-Age=0"))
        elif path.startswith("/cart/") and cookies.get("sid") in self.sessions:
            self.answer({"cart": path.removeprefix("/cart/"), "csrf": self.headers.get("X-Csrf"), "sent": sent})
        elif path == "/echo":
            self.answer({"method": self.command, "sent": sent, "headers": dict(self.headers.items())})
        elif path == "/redirect":
            self.answer({}, ("Location", "/health"), status=302)
        elif path == "/slow":
            time.sleep(0.2)
            self.answer({})
        else:
            self.answer({"why": "no session"}, status=403)

    do_POST = do_GET  # noqa: N815 - the names that http.server looks for
    do_PUT = do_GET  # noqa: N815 - the same

    def answer(self, body: object, *headers: tuple[str, str], status: int = 200) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in (("Content-Type", "application/json"), *headers):
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None: ...


@pytest.fixture
def shop() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Shop)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def prober() -> Iterator[HttpProber]:
    made = HttpProber()
    yield made
    made.close()


@pytest.fixture
def serve() -> Iterator[Serve]:
    """A server that says these bytes, with a pause (s) before each, whatever it is asked."""
    listeners: list[socket.socket] = []
    over = threading.Event()

    def start(*pieces: bytes, pause: float = 0.0, stay: bool = False) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def talk() -> None:
            while not over.is_set():
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    try:
                        connection.recv(65536)
                        for piece in pieces:
                            if over.wait(pause):
                                return
                            connection.sendall(piece)
                        if stay:
                            over.wait(60)
                    except OSError:
                        continue

        threading.Thread(target=talk, daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    over.set()
    for listener in listeners:
        listener.close()


def faults(prober: HttpProber, url: str, check: Check) -> tuple[str, ...]:
    (result,) = prober.check(url, [check], {})
    return result.faults


def test_an_answer_that_is_all_it_should_be_is_healthy(shop: str, prober: HttpProber) -> None:
    check = Check(
        "health",
        "/health",
        json=(
            Expectation("$.ok", True),
            Expectation("$.orders", minimum=1, maximum=5),
            Expectation("$.db.lag", maximum=1),
            Expectation("$.db.hosts[1]", "b"),
            Expectation("$.error"),
            Expectation("$.nothing", present=False),
            Expectation("$.db.hosts[?@ == 'a']", "a"),
        ),
        body='"orders": [0-9]+',
        headers=(("content-type", "^application/json"),),
        max_latency=10.0,
    )
    (result,) = prober.check(shop, [check], {})
    assert result.faults == ()
    assert result.elapsed > 0


def test_every_fault_is_named_at_once(shop: str, prober: HttpProber) -> None:
    check = Check(
        "health",
        "/health",
        status=(201, 204),
        json=(
            Expectation("$.ok", False),
            Expectation("$.orders", minimum=9),
            Expectation("$.x.y"),
            Expectation("$.ok", maximum=1),
        ),
        body="no such text",
        headers=(("X-Missing", "."), ("Content-Type", "html")),
        max_latency=0.0,
    )
    found = faults(prober, shop, check)
    assert found[:-1] == (
        "status 200, expected 201 or 204",
        "JSON $.ok is True, expected False",
        "JSON $.orders is 3, expected at least 9",
        "JSON $.x.y is missing",
        "JSON $.ok is True, expected a number",
        "body does not match 'no such text'",
        "header X-Missing is missing",
        "header Content-Type is 'application/json', expected to match 'html'",
    )
    assert re.fullmatch(r"took \d+ ms, limit 0 ms", found[-1])


def test_method_headers_and_body_are_sent(shop: str, prober: HttpProber) -> None:
    check = Check(
        "c",
        "/echo",
        method="PUT",
        send_headers=(("X-One", "1"), ("X-Two", "mine"), ("Content-Type", "text/plain; charset=utf-8")),
        send_body="ünï {brace}",
        json=(
            Expectation("$.method", "PUT"),
            Expectation("$.sent", "ünï {brace}"),
            Expectation("$.headers['X-One']", "1"),
            Expectation("$.headers['X-Two']", "theirs"),
            Expectation("$.headers['Cookie']", present=False),
        ),
    )
    (result,) = prober.check(shop, [check], {"X-Two": "theirs"})
    assert result.faults == ()


def test_a_redirect_is_an_answer_and_not_followed(shop: str, prober: HttpProber) -> None:
    assert faults(prober, shop, Check("c", "/redirect")) == ("status 302, expected 200",)
    assert faults(prober, shop, Check("c", "/redirect", status=(302,), headers=(("Location", "^/health$"),))) == ()


def test_proxies_of_the_environment_are_not_used(shop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    made = HttpProber()
    assert faults(made, shop, Check("c", "/health")) == ()
    made.close()


def test_checks_do_not_share_cookies(shop: str, prober: HttpProber) -> None:
    results = prober.check(shop, [Check("in", "/login"), Check("cart", "/cart/x")], {})
    assert [r.healthy for r in results] == [True, False]


FLOW = Flow(
    "cart",
    (Check("log in", "/login", capture=(("cart", "$.cart"), ("token", "header:X-Csrf"))),),
    (
        Check(
            "see the cart",
            "/cart/{cart}",
            method="POST",
            send_headers=(("X-Csrf", "{token}"),),
            send_body='{"token": "{token}", "unknown": {unknown}}',
            json=(
                Expectation("$.csrf", "t0ken"),
                Expectation("$.sent", '{"token": "t0ken", "unknown": {unknown}}'),
            ),
        ),
    ),
)


def test_a_flow_keeps_its_cookies_and_what_it_captured(shop: str, prober: HttpProber) -> None:
    results = prober.flow(shop, FLOW, {}, {})
    assert [r.faults for r in results] == [(), ()]
    assert "/cart/c%2F" in results[1].where  # As one segment, whatever it holds.


def test_two_flows_do_not_share_a_session(shop: str, prober: HttpProber) -> None:
    assert all(r.healthy for r in prober.flow(shop, FLOW, {}, {}))
    alone = Flow("cart", (Check("see the cart", "/cart/x"),), ())
    assert prober.flow(shop, alone, {}, {})[0].faults == ("status 403, expected 200",)


def test_a_cookie_that_was_deleted_is_not_sent(shop: str, prober: HttpProber) -> None:
    flow = Flow("f", (Check("in", "/login"), Check("out", "/logout")), (Check("cart", "/cart/x"),))
    assert [r.healthy for r in prober.flow(shop, flow, {}, {})] == [True, True, False]


@pytest.mark.parametrize(
    ("capture", "fault"),
    [
        (("x", "$.nothing"), "nothing at $.nothing to capture as x"),
        (("x", "header:X-Nothing"), "nothing at header:X-Nothing to capture as x"),
        (("x", "$.["), "JSON path $.[ cannot be followed"),
    ],
)
def test_what_cannot_be_captured_is_a_fault(
    shop: str, prober: HttpProber, capture: tuple[str, str], fault: str
) -> None:
    flow = Flow("f", (Check("in", "/login", capture=(capture,)),), (Check("go on", "/ok"),))
    (result,) = prober.flow(shop, flow, {}, {})
    assert result.faults[0].startswith(fault)


def test_a_name_that_nothing_captured_is_a_fault_and_not_asked(shop: str, prober: HttpProber) -> None:
    (result,) = prober.flow(shop, Flow("f", (Check("c", "/cart/{nobody}"),), ()), {}, {})
    assert result.faults == ("nothing was captured as nobody",)


def test_a_captured_line_break_cannot_add_a_header(serve: Serve, prober: HttpProber) -> None:
    body = b'{"x": "a\\r\\nX-Evil: 1"}'
    url = serve(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    flow = Flow("f", (Check("a", "/", capture=(("x", "$.x"),)),), (Check("b", "/{x}", send_headers=(("X-A", "{x}"),)),))
    results = prober.flow(url, flow, {}, {})
    assert results[1].faults[0].startswith("could not be asked")


def test_nobody_listening_is_connection_refused(prober: HttpProber) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        assert faults(prober, url, Check("c", "/")) == ("connection refused",)


def test_silence_is_a_timeout_with_its_limit(serve: Serve, prober: HttpProber) -> None:
    assert faults(prober, serve(stay=True), Check("c", "/", timeout=0.2)) == ("timed out after 0.2 s",)


def test_a_drip_of_bytes_ends_at_the_timeout(serve: Serve, prober: HttpProber) -> None:
    headers = [b"HTTP/1.1 200 OK\r\n", *[b"X-A: b\r\n"] * 600]
    body = [b"HTTP/1.1 200 OK\r\nContent-Length: 600\r\n\r\n", *[b"x"] * 600]
    for pieces in (headers, body):
        began = time.monotonic()
        assert faults(prober, serve(*pieces, pause=0.05), Check("c", "/", timeout=0.5)) == ("timed out after 0.5 s",)
        assert time.monotonic() - began < 15


def test_a_huge_body_is_a_fault_and_not_memory(serve: Serve, prober: HttpProber) -> None:
    url = serve(b"HTTP/1.1 200 OK\r\n\r\n", *[b"x" * 65536] * 1000, stay=True)
    assert faults(prober, url, Check("c", "/", timeout=30)) == ("the body is larger than 1024 KiB",)
    exact = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LARGEST_BODY + b"x" * LARGEST_BODY
    assert faults(prober, serve(exact), Check("c", "/", timeout=30)) == ()


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        ([], "no whole HTTP answer"),
        ([b"SSH-2.0-OpenSSH\r\n"], "no whole HTTP answer"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx"], "no whole HTTP answer"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nx"], "no whole HTTP answer"),
        ([b"HTTP/1.1 200 OK\r\nX: " + b"y" * 300_000], "no whole HTTP answer"),
    ],
)
def test_a_broken_answer_is_a_fault(serve: Serve, prober: HttpProber, said: list[bytes], fault: str) -> None:
    assert faults(prober, serve(*said), Check("c", "/"))[0].startswith(fault)


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b"", "the body is not JSON"),
        (b"<html>", "the body is not JSON"),
        (b"[" * 100_000, "the body is nested too deeply"),
        (b'{"x": NaN}', "the body is not JSON"),
        (b'{"x": 1' + b"0" * 6000 + b"}", "the body is not JSON"),
        (b"\xff\xfe\x00", "the body is not JSON"),
        (b'{"x": 1e999}', "JSON $.x is inf, expected at most 5"),
        (b'{"x": "%s"}' % (b"y" * 5000), "JSON $.x is 'yyy"),
    ],
)
def test_a_body_that_is_not_the_expected_json_is_a_short_fault(
    serve: Serve, prober: HttpProber, body: bytes, fault: str
) -> None:
    url = serve(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    (found,) = faults(prober, url, Check("c", "/", json=(Expectation("$.x", maximum=5),)))
    assert found.startswith(fault)
    assert len(found) < 300


def test_a_body_in_an_unknown_charset_is_still_read(serve: Serve, prober: HttpProber) -> None:
    url = serve(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=klingon\r\nContent-Length: 2\r\n\r\nok")
    assert faults(prober, url, Check("c", "/", body="^ok$")) == ()


def test_a_path_that_is_not_ascii_is_asked(shop: str, prober: HttpProber) -> None:
    assert faults(prober, shop, Check("c", "/ü x?q=ä&b=%20", status=(403,))) == ()


def test_many_threads_can_ask_at_once(shop: str, prober: HttpProber) -> None:
    found: list[CheckResult] = []
    checks = [Check("slow", "/slow", timeout=30), Check("health", "/health", timeout=30)]
    threads = [threading.Thread(target=lambda: found.extend(prober.check(shop, checks, {}))) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 24
    assert all(r.healthy for r in found)
