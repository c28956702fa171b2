"""What the edge's signals say of real traffic, over reloads and crashes."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossfade.domain.analysis.sample import Moments
from crossfade.domain.errors import Unavailable
from crossfade.domain.signal import Reading
from crossfade.domain.traffic import POOLS, Pool, Slot, Split
from crossfade.domain.values import EVERYTHING, Weight
from crossfade.fakes.signals import FakeSignals
from crossfade.ports import Route
from crossfade.signals.edge import WINDOWS, EdgeSignals
from crossfade.signals.statistics import cause_of, place_of, read_statistics
from tests.free_port import free_port
from tests.routers.rig import Environment, Rig, WebSocket, until

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
    until(lambda: signals.read(shop.key).segment != before.segment)
    until(lambda: shop.get().status == 200)
    after = until(lambda: (reading := signals.read(shop.key)).total().requests and reading)
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


# --- business events


def told(signals: EdgeSignals, shop: Environment, pool: Pool, name: str) -> Moments:
    return signals.read(shop.key).events.get(pool, {}).get(name, Moments(0, 0, 0))


def test_events_are_counted_exactly_over_reloads_under_load(rig: Rig, signals: EdgeSignals) -> None:
    shop = rig.environment(control=1)
    split = Split(Weight(3000)).with_control(Slot.BLUE, Weight(3000))
    rig.router.set_split(shop.key, split, None, 1)
    with shop.load(300, "/tells/sale=2.5,visit") as load:
        for _ in range(3):
            rig.router.ensure(Route(rig.key(), "127.0.0.1", free_port()), 1)
            load.more(200)
    assert load.nothing_failed()
    reading = counted(signals, shop, load.count)
    served = {pool.value: events["visit"] for pool, events in reading.events.items()}
    assert served == {pool: Moments(n, n, n) for pool, n in load.slots.items()}
    assert {pool.value: events["sale"] for pool, events in reading.events.items()} == {
        pool: Moments(n, 2.5 * n, 6.25 * n) for pool, n in load.slots.items()
    }
    assert set(served) == {"blue", "green", "control"}
    assert reading.control.requests == load.slots["control"]


def test_an_event_of_a_request_that_went_to_another_pool_is_counted_there_only(rig: Rig, signals: EdgeSignals) -> None:
    shop = rig.environment(blue=0)
    answer = shop.get("/tells/sale")
    assert "x-crossfade-event" not in answer.headers
    reading = counted(signals, shop, 1)
    assert reading.events == {Slot.GREEN: {"sale": Moments(1, 1, 1)}}


def test_what_previews_tell_is_taken_out_and_not_counted(rig: Rig, signals: EdgeSignals) -> None:
    shop = rig.environment()
    rig.router.open_preview(shop.key, Slot.GREEN, "s" * 40, 1)
    answer = shop.get("/tells/sale,!", X_Crossfade_Preview="s" * 40)
    assert answer.seen["x-crossfade-slot"] == "green"
    assert "x-crossfade-event" not in answer.headers
    reading = counted(signals, shop, 1)
    assert (reading.events, reading.refused) == ({}, {})


def test_what_an_application_tells_with_a_failure_counts_too(rig: Rig, signals: EdgeSignals) -> None:
    shop = rig.environment()
    shop.get("/status/500", X_Say_Events="sale")
    shop.get("/status/304", X_Say_Events="sale")
    assert counted(signals, shop, 2).events == {Slot.BLUE: {"sale": Moments(2, 2, 2)}}


def test_clients_can_tell_no_events(rig: Rig, signals: EdgeSignals) -> None:
    shop = rig.environment()
    assert "x-crossfade-event" not in shop.get(X_Crossfade_Event="sale=9").seen
    assert counted(signals, shop, 1).events == {}


def test_another_release_brings_its_own_names_and_nothing_that_was_counted_is_lost(rig: Rig) -> None:
    shop = rig.environment(green=0)
    signals = rig.signals()
    rig.router.add_servers(shop.key, Slot.BLUE, shop.members[Slot.BLUE], 1, "r1")
    for i in range(8):
        shop.get(X_Say_Events=",".join(f"old-{8 * i + k}=3" for k in range(8)))
    assert len(signals.read(shop.key).events[Slot.BLUE]) == 50
    assert signals.read(shop.key).refused == {Slot.BLUE: 14}
    rig.router.add_servers(shop.key, Slot.BLUE, shop.members[Slot.BLUE], 1, "r1")
    shop.get(X_Say_Events="old-0=3, new")
    assert signals.read(shop.key).refused == {Slot.BLUE: 15}
    rig.router.add_servers(shop.key, Slot.BLUE, shop.members[Slot.BLUE], 1, "r2")
    shop.get(X_Say_Events="old-0=3, new")
    assert told(signals, shop, Slot.BLUE, "new") == Moments(1, 1, 1)
    assert told(signals, shop, Slot.BLUE, "old-0") == Moments(3, 9, 27)
    assert told(signals, shop, Slot.BLUE, "old-49") == Moments(1, 3, 9)
    before = signals.read(shop.key)
    signals.stop()
    later = rig.signals()
    assert later.read(shop.key).events == before.events
    assert later.read(shop.key).refused == before.refused
    later.stop()


def test_more_sums_than_fit_a_buffer_of_the_edge_are_read_whole(rig: Rig, signals: EdgeSignals) -> None:
    shops = [rig.environment(control=1) for _ in range(2)]
    wanted = {f"{'n' * 37}-{i:02}" for i in range(50)}
    for shop in shops:
        for split in (BLUE, GREEN, BLUE.with_control(Slot.BLUE, EVERYTHING)):
            rig.router.set_split(shop.key, split, None, 1)
            for header in batched(sorted(wanted), 8):
                shop.get(X_Say_Events=",".join(f"{name}=123456.123456" for name in header))
    for shop in shops:
        events = signals.read(shop.key).events
        assert {pool: set(names) for pool, names in events.items()} == dict.fromkeys(POOLS, wanted)


def batched(names: list[str], size: int) -> list[list[str]]:
    return [names[i : i + size] for i in range(0, len(names), size)]


def test_the_edge_reads_events_as_its_twin_does(rig: Rig, signals: EdgeSignals) -> None:
    shop = rig.environment()
    twin = FakeSignals()
    twin.ensure(shop.key)
    names = st.text("ab0_.-A ", max_size=6)
    values = st.text("0123456789.-e x", max_size=8)
    item = st.one_of(
        st.sampled_from(["sale", "sale=1", "", " "]), names, st.builds("{}={}".format, names, values), st.text("=,;\t ")
    )
    lines = st.lists(st.lists(item, max_size=6).map(",".join), min_size=1, max_size=3)

    @settings(max_examples=150, deadline=None, database=None)
    @given(lines)
    def same(said: list[str]) -> None:
        twin.tell(shop.key, Slot.BLUE, "\n".join(said))
        assert "x-crossfade-event" not in shop.get(X_Say_Events="|".join(said)).headers
        edge, known = signals.read(shop.key), twin.read(shop.key)
        assert edge.events == known.events
        assert edge.refused == known.refused

    same()


@pytest.mark.parametrize(
    "text",
    [
        "Unknown command: 'crossfade events'",
        "shop.production.blue sale 1",
        "shop.production.blue sale 1 nan 1",
        "shop.production.blue sale -1 1 1",
        "shop.production.red sale 1 1 1",
        "shop.production.blue Sale 1 1 1",
        "shop.production.blue sale 1 1 1 1",
    ],
)
def test_odd_sums_of_events_are_read_as_nothing(text: str) -> None:
    assert read_statistics("", "", text + "\n").events == {}


# --- history


class Clock:
    def __init__(self) -> None:
        self.at = 1_000_000.0

    def __call__(self) -> float:
        return self.at


def test_the_history_has_the_windows_in_which_the_release_served_and_outlives_the_server(rig: Rig) -> None:
    shop = rig.environment()
    clock = Clock()
    signals = EdgeSignals(rig.folder, rig.run, every=0.05, now=clock)
    signals.start()

    def window(good: int, bad: int, seconds: float = 10.0) -> None:
        """What is served, and then the end of a window."""
        before = signals.read(shop.key)
        for i in range(good + bad):
            shop.get("/status/500" if i < bad else "/")
        until(lambda: signals.read(shop.key).since(before).total().requests == good + bad)
        clock.at += seconds
        until(lambda: signals._windows.at == clock.at)

    window(9, 9)  # nobody knows what was before it
    window(4, 1)
    window(0, 0)
    window(2, 3)
    window(5, 5, 60.0)  # one that nobody closed in time
    history = signals.history(shop.key, Slot.BLUE)
    assert (history.errors_per_10s, history.requests, history.seconds) == ((1.0, 3.0), 10, 20.0)
    assert signals.history(shop.key, Slot.GREEN).errors_per_10s == ()
    signals.stop()

    signals = EdgeSignals(rig.folder, rig.run, every=0.05, now=clock)
    assert signals.history(shop.key, Slot.BLUE).errors_per_10s == (1.0, 3.0)
    signals.start()
    window(1, 0)
    window(1, 0)
    signals.forget(shop.key, Slot.BLUE)
    window(3, 0)  # not the whole of it is of this release
    window(6, 2)
    history = signals.history(shop.key, Slot.BLUE)
    assert (history.errors_per_10s, history.requests) == ((2.0,), 8)
    assert history.histogram is not None
    until(lambda: (found := signals.history(shop.key, Slot.BLUE).histogram) and sum(found.counts) == 11)
    signals.stop()


def test_the_history_is_of_an_hour(rig: Rig) -> None:
    shop = rig.environment()
    signals = rig.signals()
    kept = signals._windows.of.setdefault((shop.key, Slot.BLUE), deque(maxlen=WINDOWS))
    kept.extend((1, i % 2) for i in range(1000))
    assert len(signals.history(shop.key, Slot.BLUE).errors_per_10s) == 360
    signals.stop()


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
