"""The promises of `ports.Prober`, kept over HTTP and by its twin."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from crossfade.domain.health import Check, Flow
from crossfade.fakes.prober import FakeProber
from crossfade.ports import Prober
from crossfade.probes.http import HttpProber


class App(BaseHTTPRequestHandler):
    """``/ok`` is well, ``/ill`` is not, ``/secret`` is well for those who send X-Key."""

    def do_GET(self) -> None:
        well = self.path == "/ok" or (self.path == "/secret" and self.headers.get("X-Key") == "k")
        self.send_response(200 if well else 503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None: ...


@pytest.fixture(params=["fake", "http"])
def asked(request: pytest.FixtureRequest) -> Iterator[tuple[Prober, str]]:
    """A prober and the URL of an application."""
    if request.param == "fake":
        fake = FakeProber()
        fake.faults = lambda url, check, headers: (
            [] if check.path == "/ok" or (check.path == "/secret" and headers.get("X-Key") == "k") else ["status 503"]
        )
        yield fake, "http://127.0.0.1:1"
        return
    server = ThreadingHTTPServer(("127.0.0.1", 0), App)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    real = HttpProber()
    try:
        yield real, f"http://127.0.0.1:{server.server_port}"
    finally:
        real.close()
        server.shutdown()
        server.server_close()


def test_each_check_has_its_result_in_order(asked: tuple[Prober, str]) -> None:
    prober, url = asked
    results = prober.check(url, [Check("one", "/ok"), Check("two", "/ill"), Check("three", "/ok")], {})
    assert [(r.name, r.healthy) for r in results] == [("one", True), ("two", False), ("three", True)]
    assert "503" in results[1].faults[0]
    assert all(r.where.startswith(url) for r in results)


def test_no_checks_have_no_results(asked: tuple[Prober, str]) -> None:
    prober, url = asked
    assert prober.check(url, [], {}) == ()


def test_headers_are_sent_with_each_check(asked: tuple[Prober, str]) -> None:
    prober, url = asked
    assert not prober.check(url, [Check("c", "/secret")], {})[0].healthy
    assert prober.check(url, [Check("c", "/secret")], {"X-Key": "k"})[0].healthy
    assert prober.check(url, [Check("c", "/secret", send_headers=(("X-Key", "k"),))], {})[0].healthy


def test_a_flow_stops_at_its_first_fault(asked: tuple[Prober, str]) -> None:
    prober, url = asked
    flow = Flow("f", (Check("a", "/ok"), Check("b", "/ill")), (Check("c", "/ok"),))
    assert [(r.name, r.healthy) for r in prober.flow(url, flow, {}, {})] == [("a", True), ("b", False)]


def test_a_flow_sends_other_headers_when_it_continues(asked: tuple[Prober, str]) -> None:
    prober, url = asked
    flow = Flow("f", (Check("a", "/ok"),), (Check("b", "/secret"),))
    assert [r.healthy for r in prober.flow(url, flow, {}, {"X-Key": "k"})] == [True, True]
    assert [r.healthy for r in prober.flow(url, flow, {"X-Key": "k"}, {})] == [True, False]
