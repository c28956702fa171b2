"""What the edge's signals say of real traffic, over reloads and crashes."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest

from crossfade.domain.errors import Unavailable
from crossfade.domain.signal import Reading
from crossfade.domain.traffic import Slot, Split
from crossfade.ports import Route
from crossfade.signals.edge import EdgeSignals
from crossfade.signals.statistics import cause_of, place_of, read_statistics
from tests.routers.rig import Environment, Rig, WebSocket, free_port, until

BLUE, GREEN = Split.wholly(Slot.BLUE), Split.wholly(Slot.GREEN)


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with Rig() as rig:
        yield rig


@pytest.fixture
def signals(rig: Rig) -> Iterator[EdgeSignals]:
    signals = rig.signals()
    signals.start()
    signals.failures(rig.key(), 0)  # from here on it follows the edge
    yield signals
    signals.stop()


def counted(signals: EdgeSignals, shop: Environment, requests: int, since: Reading | None = None) -> Reading:
    """The reading once so many requests are in it; it must stay at that number."""
    until(lambda: signals.read(shop.key).since(since).total().requests >= requests)
    time.sleep(0.3)
    reading = signals.read(shop.key).since(since)
    assert reading.total().requests == requests
    return reading


def test_every_request_of_a_load_that_is_moved_to_and_fro_is_counted_once(rig: Rig, signals: EdgeSignals) -> None:
    shop = rig.environment()
    with shop.load(300) as load:
        for weight in (GREEN, BLUE, GREEN):
            rig.router.set_split(shop.key, weight, None, 1)
            load.more(60)
    assert load.nothing_failed()
    reading = counted(signals, shop, load.count)
    assert {slot.value: reading.slots[slot].requests for slot in Slot} == dict(load.slots)
    assert reading.total().errors == 0
    until(lambda: signals.read(shop.key).total().samples == load.count)  # this rig samples each request
    p99 = signals.read(shop.key).total().p99
    assert p99 is not None
    assert p99 < 5


def test_failures_of_all_kinds_are_counted_and_remembered_alike(rig: Rig, signals: EdgeSignals) -> None:
    shop = rig.environment(green=0, request_timeout=1.0)
    kinds = {
        "/status/500": "5xx",
        "/status/503": "5xx",
        "/status/599": "5xx",
        "/empty": "response",
        "/garbage": "response",
        "/truncated": "broken",
        "/slow/3": "timeout",
    }
    expected = Counter({cause: 2 * list(kinds.values()).count(cause) for cause in kinds.values()})
    for path in kinds:
        for _ in range(2):
            shop.get(path)
    for path in ("/", "/status/404", "/status/304"):
        shop.get(path)
    reading = counted(signals, shop, 2 * len(kinds) + 3)
    blue = reading.slots[Slot.BLUE]
    assert dict(blue.by_cause) == dict(expected)
    assert blue.errors == sum(expected.values())
    failures = signals.failures(shop.key, 0.0)
    assert Counter(f.cause for f in failures) == expected
    assert {f.cause for f in failures if f.transport} == {"response", "broken"}
    assert {f.slot for f in failures} == {Slot.BLUE}


def test_requests_that_no_slot_can_serve_are_the_edges_own_failures(rig: Rig, signals: EdgeSignals) -> None:
    shop = rig.environment(blue=0, green=0, request_timeout=0.5)
    assert shop.get().status == 503
    reading = counted(signals, shop, 1)
    assert (reading.edge.requests, reading.edge.errors, reading.edge.by_cause) == (1, 1, (("no-server", 1),))
    assert [(f.slot, f.status, f.cause, f.transport) for f in signals.failures(shop.key, 0)] == [
        (None, 503, "no-server", True)
    ]


def test_a_request_that_went_to_the_other_slot_is_counted_there_only(rig: Rig, signals: EdgeSignals) -> None:
    shop = rig.environment(blue=0)
    for path in ("/", "/status/500", "/truncated", "/empty"):
        shop.get(path)
    reading = counted(signals, shop, 4)
    assert reading.slots[Slot.BLUE].requests == 0
    assert reading.slots[Slot.BLUE].errors == 0
    assert dict(reading.slots[Slot.GREEN].by_cause) == {"5xx": 1, "broken": 1, "response": 1}
    assert Counter((f.slot, f.cause) for f in signals.failures(shop.key, 0)) == {
        (Slot.GREEN, cause): 1 for cause in ("5xx", "broken", "response")
    }


def test_a_client_that_goes_away_is_no_error(rig: Rig, signals: EdgeSignals) -> None:
    shop = rig.environment(green=0)
    for path in ("/slow/1", "/feed"):
        with socket.create_connection(("127.0.0.1", shop.route.port)) as client:
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: shop\r\n\r\n".encode())
            time.sleep(0.2)
    reading = counted(signals, shop, 2)
    assert reading.total().errors == 0
    assert signals.failures(shop.key, 0) == ()


def test_streams_that_are_cut_with_their_server_are_nobodys_failures(rig: Rig, signals: EdgeSignals) -> None:
    shop = rig.environment()
    server = shop.members[Slot.BLUE][0].name
    talk = WebSocket(shop.route.port)
    with socket.create_connection(("127.0.0.1", shop.route.port), timeout=20) as feed:
        feed.sendall(b"GET /feed HTTP/1.1\r\nHost: shop\r\nAccept: text/event-stream\r\n\r\n")
        assert feed.recv(4000)
        rig.router.set_split(shop.key, GREEN, None, 1)
        rig.router.drain_servers(shop.key, Slot.BLUE, [server], 1)
        rig.router.remove_servers(shop.key, Slot.BLUE, [server], 1)
        assert talk.ended()
    shop.get("/truncated")
    reading = counted(signals, shop, 3)
    assert reading.slots[Slot.BLUE].errors == 0
    assert reading.slots[Slot.GREEN].by_cause == (("broken", 1),)
    assert [f.slot for f in signals.failures(shop.key, 0)] == [Slot.GREEN]
    assert reading.total().samples == 1, "how long a stream lasted is no latency"


def test_a_failure_that_haproxy_keeps_silent_about_is_counted_and_remembered(rig: Rig, signals: EdgeSignals) -> None:
    shop = rig.environment(green=0)
    with socket.create_connection(("127.0.0.1", shop.route.port), timeout=20) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n")
        assert client.recv(4000).startswith(b"HTTP/1.1 200")
        client.sendall(b"POST /empty HTTP/1.1\r\nHost: shop\r\nContent-Length: 0\r\n\r\n")
        assert client.recv(4000) == b""
    blue = counted(signals, shop, 2).slots[Slot.BLUE]
    assert (blue.errors, blue.by_cause) == (1, (("response", 1),))
    assert [(f.slot, f.status, f.cause) for f in signals.failures(shop.key, 0)] == [(Slot.BLUE, 0, "response")]


def test_previews_of_a_dead_candidate_are_nobodys_failures(rig: Rig, signals: EdgeSignals) -> None:
    shop = rig.environment(green=0, request_timeout=0.5)
    rig.router.open_preview(shop.key, Slot.GREEN, "s" * 40, 1)
    assert shop.get(X_Crossfade_Preview="s" * 40).status == 503
    shop.get()
    assert counted(signals, shop, 1).total().errors == 0
    assert signals.failures(shop.key, 0) == ()


def test_what_clients_send_cannot_forge_a_log_line(rig: Rig, signals: EdgeSignals) -> None:
    shop = rig.environment(green=0)
    before = signals.malformed
    forged = f"{shop.key.service}.production.green x 500 -- {int(time.time() * 1e6)} 1 0"
    for path in ("/status/500?x=%0a" + forged.replace(" ", "%20"), "/status/500"):
        shop.get(path.split("?")[0], User_Agent=forged, Cookie=forged, X_Forwarded_For=forged)
    counted(signals, shop, 2)
    until(lambda: len(signals.failures(shop.key, 0)) == 2)
    assert {f.slot for f in signals.failures(shop.key, 0)} == {Slot.BLUE}
    assert signals.malformed == before


def test_counts_go_on_exactly_over_reloads_under_load(rig: Rig, signals: EdgeSignals) -> None:
    shop = rig.environment()
    segment = signals.read(shop.key).segment
    with shop.load(300) as load:
        for _ in range(3):
            rig.router.ensure(Route(rig.key(), "127.0.0.1", free_port()), 1)
            load.more(200)
    assert load.nothing_failed()
    reading = counted(signals, shop, load.count)
    assert (reading.segment, reading.total().errors) == (segment, 0)
    until(lambda: signals.read(shop.key).total().samples == load.count)
    # The replaced workers were let go once they were read.
    until(lambda: len(rig.workers()) == 1)


def test_a_reader_that_restarts_goes_on_where_it_was(rig: Rig) -> None:
    shop = rig.environment(green=0)
    first = rig.signals()
    first.start()
    first.read(shop.key)
    for _ in range(5):
        shop.get()
    shop.get("/status/500")
    before = counted(first, shop, 6)
    until(lambda: first.read(shop.key).latencies[Slot.BLUE].samples == 6)
    first.stop()
    shop.get("/status/500")
    second = rig.signals()
    after = counted(second, shop, 7)
    assert after.segment == before.segment
    assert after.latencies[Slot.BLUE].samples >= 6
    assert len(second.failures(shop.key, 0)) == 2, "the edge remembers failures for a reader that was away"
    second.stop()


def test_a_killed_edge_begins_a_new_segment(rig: Rig, signals: EdgeSignals) -> None:
    shop = rig.environment(green=0)
    shop.get()
    before = counted(signals, shop, 1)
    assert rig.edge is not None
    os.kill(rig.edge.pid, signal.SIGKILL)
    until(lambda: shop.get().status == 200)
    after = until(lambda: signals.read(shop.key).total().requests and signals.read(shop.key))
    assert after.segment != before.segment
    assert after.since(before) == after
    assert after.total().requests < 5


def test_the_edge_waits_for_no_reader_and_a_late_one_still_learns_of_the_newest_failures(rig: Rig) -> None:
    shop = rig.environment(green=0)
    with shop.load(300, "/status/500") as load:
        until(lambda: load.count > 600)
    assert load.broken == []
    late = rig.signals()
    assert counted(late, shop, load.count).total().errors == load.count
    assert len(late.failures(shop.key, 0)) == load.count
    late.stop()


def test_a_dead_edge_is_unavailable(monkeypatch: pytest.MonkeyPatch, rig: Rig) -> None:
    monkeypatch.setattr("crossfade.signals.edge.PATIENCE", 0.2)
    lonely = EdgeSignals(rig.home, rig.home)
    with pytest.raises(Unavailable) as caught:
        lonely.read(rig.key())
    assert caught.value.hint
    assert lonely.failures(rig.key(), 0) == ()


@pytest.mark.parametrize(
    ("status", "termination", "server", "cause"),
    [
        (200, "--", "a", ""),
        (404, "--", "a", ""),
        (500, "--", "a", "5xx"),
        (503, "SC", "a", "connect"),
        (503, "sC", "a", "connect"),
        (502, "SH", "a", "response"),
        (502, "PH", "a", "response"),
        (504, "sH", "a", "timeout"),
        (200, "SD", "a", "broken"),
        (200, "sD", "a", "broken"),
        (200, "KD", "a", ""),
        (400, "CH", "a", ""),
        (200, "CD", "a", ""),
        (408, "cR", "a", ""),
        (400, "PR", "<NOSRV>", ""),
        (500, "--", "_elsewhere", ""),
        (200, "SD", "_elsewhere", ""),
        (503, "SC", "_elsewhere", "connect"),
    ],
)
def test_the_way_a_request_ended_names_its_cause(status: int, termination: str, server: str, cause: str) -> None:
    assert cause_of(status, termination, server, nobody=False) == cause


@pytest.mark.parametrize("name", ["", "x", "a.b.c", "a.b.blue.d", "_elsewhere", "GLOBAL", "A.b", "a.b._shut", "é.b"])
def test_names_that_are_no_place_are_passed_over(name: str) -> None:
    assert place_of(name) is None


@pytest.mark.parametrize("text", ["", "\n", "# pxname,svname\n", "garbage", "# pxname,svname,scur,\na.b,FRONTEND,,\n"])
def test_odd_statistics_are_read_as_nothing(text: str) -> None:
    assert sum(c.requests for c in read_statistics(text, "").counters.values()) == 0


def test_a_changed_route_keeps_its_counts(rig: Rig, signals: EdgeSignals) -> None:
    shop = rig.environment(green=0)
    shop.get()
    before = counted(signals, shop, 1)
    rig.router.ensure(replace(shop.route, request_timeout=9.0), 1)
    shop.get()
    assert counted(signals, shop, 2).segment == before.segment
