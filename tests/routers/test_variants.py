"""What the edge counts of the variants that answers tell, of real traffic: over reloads, releases and hostile answers."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossfade.domain.analysis import latency
from crossfade.domain.analysis.sample import Moments
from crossfade.domain.signal import Reading, VariantFacts
from crossfade.domain.traffic import POOLS, Pool, Slot, Split
from crossfade.domain.values import Weight
from crossfade.fakes.signals import FakeSignals
from crossfade.ports import Route
from crossfade.signals.edge import EdgeSignals
from crossfade.signals.sockets import Session
from tests.free_port import free_port
from tests.routers.rig import Environment, Load, Rig, WebSocket, until

HALF = Split(Weight(5000))


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


def told(reading: Reading, pool: Pool = Slot.BLUE) -> Mapping[str, VariantFacts]:
    return reading.variants.get(pool, {})


def requests(reading: Reading, pool: Pool = Slot.BLUE) -> dict[str, int]:
    return {name: facts.requests for name, facts in told(reading, pool).items()}


def reload(rig: Rig) -> None:
    """A new environment makes the edge load its configuration again."""
    rig.router.ensure(Route(rig.key(), "127.0.0.1", free_port()), 1)


@contextlib.contextmanager
def loads(shop: Environment, paths: Mapping[str, str], rate: float = 80.0) -> Iterator[dict[str, Load]]:
    """Load on several paths at once, by what its answers tell."""
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(shop.load(rate, path)) for name, path in paths.items()}


def check(reading: Reading, by_variant: Mapping[str, list[Load]]) -> None:
    """Each variant has exactly the requests of its loads, in each slot, and all of their latencies."""
    for slot in Slot:
        served = {name: sum(load.slots[slot.value] for load in loads) for name, loads in by_variant.items()}
        assert requests(reading, slot) == {name: n for name, n in served.items() if n}
        for facts in told(reading, slot).values():
            assert facts.latencies.samples == facts.requests


def test_variants_are_counted_exactly_under_concurrent_load_in_two_slots_and_over_reloads(
    rig: Rig, signals: EdgeSignals
) -> None:
    shop = rig.environment()
    rig.router.set_split(shop.key, HALF, None, 1)
    paths = {
        "on": "/tells/checkout=2.5?new=on,other=b",
        "off": "/tells/checkout=1,visit?new=off,other=b",
        "bad": "/status/500?new=worse,other=c",
        "none": "/",
    }
    with loads(shop, paths) as running:
        for _ in range(3):
            reload(rig)
            for load in running.values():
                load.more(40)
    assert all(load.broken == [] for load in running.values())
    on, off, bad = running["on"], running["off"], running["bad"]
    total = sum(load.count for load in running.values())
    reading = until(lambda: (r := signals.read(shop.key)).total().requests >= total and r)
    check(reading, {"new=on": [on], "new=off": [off], "new=worse": [bad], "other=b": [on, off], "other=c": [bad]})
    for slot in Slot:
        ons, offs, bads = (load.slots[slot.value] for load in (on, off, bad))
        facts = told(reading, slot)
        assert min(ons, offs, bads) > 0
        assert {name: f.errors for name, f in facts.items() if f.errors} == {"new=worse": bads, "other=c": bads}
        assert facts["new=on"].events == {"checkout": Moments(ons, 2.5 * ons, 6.25 * ons)}
        assert facts["new=off"].events == {"checkout": Moments(offs, offs, offs), "visit": Moments(offs, offs, offs)}
        assert facts["other=b"].events["checkout"] == Moments(ons + offs, 2.5 * ons + offs, 6.25 * ons + offs)
        assert facts["new=worse"].events == {}
    until(lambda: len(rig.workers()) == 1)
    assert signals.read(shop.key).variants == reading.variants, "replaced workers are let go with all that they told"


def test_a_reader_that_restarts_goes_on_where_it_was_and_loses_nothing_that_came_meanwhile(rig: Rig) -> None:
    shop = rig.environment()
    rig.router.set_split(shop.key, HALF, None, 1)
    segments = set()
    with loads(shop, {"on": "/tells/sale=2?new=on", "off": "/status/503?new=off"}) as running:
        for _ in range(3):
            signals = rig.signals()
            signals.start()
            segments.add(signals.read(shop.key).segment)
            reload(rig)
            for load in running.values():
                load.more(30)
            until(lambda: len(rig.workers()) == 1)
            segments.add(signals.read(shop.key).segment)
            signals.stop()
            for load in running.values():
                load.more(30)
    signals = rig.signals()
    reading = signals.read(shop.key)
    assert segments == {reading.segment}
    check(reading, {"new=on": [running["on"]], "new=off": [running["off"]]})
    for slot in Slot:
        n = running["on"].slots[slot.value]
        assert told(reading, slot)["new=on"].events == {"sale": Moments(n, 2 * n, 4 * n)}
        assert told(reading, slot)["new=off"].errors == running["off"].slots[slot.value]
    signals.stop()


def test_other_releases_in_the_pool_under_load_lose_nothing(rig: Rig) -> None:
    shop = rig.environment(green=0)
    servers = shop.members[Slot.BLUE]
    rig.router.add_servers(shop.key, Slot.BLUE, servers, 1, "r1")
    signals = rig.signals()  # it reads only when it is asked: never just before a release comes
    before = signals.read(shop.key)
    with loads(shop, {"on": "/tells/sale?new=on", "off": "/?new=off"}, 150) as running:
        for release in range(2, 8):
            for load in running.values():
                load.more(30)
            rig.router.add_servers(shop.key, Slot.BLUE, servers, 1, f"r{release}")
            for load in running.values():
                load.more(10)
            if release % 2:
                signals.read(shop.key)
            if release == 4:
                signals.stop()
                signals = rig.signals()
    reading = signals.read(shop.key)
    check(reading, {"new=on": [running["on"]], "new=off": [running["off"]]})
    assert told(reading)["new=on"].events["sale"].n == reading.events[Slot.BLUE]["sale"].n == running["on"].count
    assert reading.segment == before.segment
    signals.stop()


def test_a_release_makes_room_for_its_own_variants(rig: Rig, signals: EdgeSignals) -> None:
    shop = rig.environment(green=0)
    servers = shop.members[Slot.BLUE]
    for release in (1, 2, 3):
        rig.router.add_servers(shop.key, Slot.BLUE, servers, 1, f"r{release}")
        for i in range(14):
            shop.get(X_Say_Variants=",".join(f"r{release}-{16 * i + k}=on" for k in range(16)))
    reading = signals.read(shop.key)
    names = {f"r{release}-{i}=on": 1 for release in (1, 2, 3) for i in range(200)}
    assert requests(reading) == names
    assert reading.refused == {Slot.BLUE: 3 * 24}


def test_a_killed_edge_begins_a_new_segment_without_variants(rig: Rig, signals: EdgeSignals) -> None:
    shop = rig.environment(green=0)
    shop.get(X_Say_Variants="a=on")
    before = signals.read(shop.key)
    assert requests(before) == {"a=on": 1}
    assert rig.edge is not None
    os.kill(rig.edge.pid, signal.SIGKILL)
    until(lambda: signals.read(shop.key).segment != before.segment)
    assert signals.read(shop.key).variants == {}
    until(lambda: shop.get(X_Say_Variants="a=on").status == 200)
    assert requests(signals.read(shop.key)) == {"a=on": 1}


# --- latencies


def test_latencies_stand_in_the_right_buckets(rig: Rig, signals: EdgeSignals) -> None:
    shop = rig.environment(green=0)
    waits = {"fast": 0.0, "slow": 0.2, "slower": 0.8}
    longest = dict.fromkeys(waits, 0.0)
    for _ in range(5):
        for name, seconds in waits.items():
            began = time.monotonic()
            shop.get(f"/slow/{seconds}", X_Say_Variants=f"pace={name}")
            longest[name] = max(longest[name], time.monotonic() - began)
    facts = told(signals.read(shop.key))
    for name, seconds in waits.items():
        latencies = facts[f"pace={name}"].latencies
        assert latencies.samples == 5
        assert latencies.counts[0][0] >= latency.bucket_of(seconds)
        assert latencies.counts[-1][0] <= latency.bucket_of(longest[name]) + 1  # HAProxy's clock stands still in a turn


def test_the_buckets_are_those_of_the_samples(rig: Rig, signals: EdgeSignals) -> None:
    """The body comes with the headers here, so both measure the same to a microsecond or so."""
    shop = rig.environment(green=0)
    for i in range(60):
        shop.get(f"/slow/{i * 0.002}", X_Say_Variants="a=on")
    until(lambda: signals.read(shop.key).latencies[Slot.BLUE].samples == 60)
    reading = signals.read(shop.key)
    sampled = dict(reading.latencies[Slot.BLUE].counts)
    counted = dict(told(reading)["a=on"].latencies.counts)
    assert set(counted) <= {bucket + near for bucket in sampled for near in (-1, 0)}


def test_how_long_a_stream_lasts_or_waits_is_no_latency(rig: Rig, signals: EdgeSignals) -> None:
    shop = rig.environment(green=0)
    WebSocket(shop.route.port, "/socket?kind=socket").close()
    for path, accept in (("/feed?kind=feed", ""), ("/slow/0.1?kind=asked", "Accept: text/event-stream\r\n")):
        with socket.create_connection(("127.0.0.1", shop.route.port), timeout=20) as client:
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: shop\r\n{accept}\r\n".encode())
            assert client.recv(4000)
    shop.get("/stream?kind=told")
    facts = told(signals.read(shop.key))
    assert {name: (f.requests, f.latencies.samples) for name, f in facts.items()} == {
        "kind=socket": (1, 0),
        "kind=feed": (1, 0),
        "kind=asked": (1, 0),
        "kind=told": (1, 0),
    }


# --- whose answers count


def test_an_answer_of_another_pool_is_counted_there_only_with_all_of_its_time(rig: Rig, signals: EdgeSignals) -> None:
    shop = rig.environment(blue=0)
    answer = shop.get("/slow/0.2?a=on")
    assert answer.seen["x-crossfade-slot"] == "green"
    assert "x-crossfade-variant" not in answer.headers
    reading = signals.read(shop.key)
    assert requests(reading) == {}
    assert requests(reading, Slot.GREEN) == {"a=on": 1}
    assert told(reading, Slot.GREEN)["a=on"].latencies.counts[0][0] >= latency.bucket_of(0.2)


@pytest.mark.parametrize("dead", [False, True])
def test_what_previews_tell_is_taken_out_and_not_counted(rig: Rig, signals: EdgeSignals, dead: bool) -> None:
    shop = rig.environment(blue=0 if dead else 1)
    rig.router.open_preview(shop.key, Slot.GREEN, "s" * 40, 1)
    answer = shop.get("/tells/sale?a=on,!", X_Crossfade_Preview="s" * 40)
    assert answer.seen["x-crossfade-slot"] == "green"
    assert not [name for name in answer.headers if name.startswith("x-crossfade")]
    reading = signals.read(shop.key)
    assert (reading.variants, reading.events, reading.refused) == ({}, {}, {})


def test_clients_can_tell_no_variants(rig: Rig, signals: EdgeSignals) -> None:
    shop = rig.environment()
    assert "x-crossfade-variant" not in shop.get(X_Crossfade_Variant="a=on").seen
    assert signals.read(shop.key).variants == {}


def test_a_request_that_got_no_answer_tells_nothing(rig: Rig, signals: EdgeSignals) -> None:
    shop = rig.environment(green=0, request_timeout=0.5)
    for path in ("/empty", "/garbage", "/slow/2"):
        assert shop.get(path, X_Say_Variants="a=on").status >= 502
    assert signals.read(shop.key).variants == {}


@pytest.mark.parametrize("status", [200, 204, 301, 304, 404, 499, 500, 502, 503, 599])
def test_a_status_from_500_is_an_error(rig: Rig, signals: EdgeSignals, status: int) -> None:
    shop = rig.environment()
    shop.get(f"/status/{status}?a=on")
    facts = told(signals.read(shop.key))["a=on"]
    assert (facts.requests, facts.errors, facts.latencies.samples) == (1, int(status >= 500), 1)


# --- hostile answers

HOSTILE = {
    "huge": ("a=on," * 3000, 0, 1),
    "one word": ("a" * 12_000, 0, 1),
    "thousands of items": ("|".join(["a=b," * 1000] * 3), 1, 0),
    "thousands of others": (
        "|".join([",".join(f"a=b{i}" for i in range(k, k + 500)) for k in (0, 500, 1000)]),
        16,
        1484,
    ),
    "many lines": ("|".join(f"a{i}=b" for i in range(60)), 16, 44),
    "no equals sign": ("a,b,c", 0, 3),
    "not ASCII": ("\u00e4=on, a=\u00f6, \u00ff=\u00fe", 0, 3),
    "control characters": ("a=\x01, \x7f=b, a=b\x1b[2J", 0, 3),
    "a prompt": ("a=b\x0b> , > =b", 0, 2),
    "patterns": ("%a=b, .*=b, [a]=b, a=%s%n, a=^b$", 0, 5),
    "separators": ("a:b=c, a b=c, a=b;c=d|", 0, 3),
    "quotes": ("\"a\"='b'", 0, 1),
}


@pytest.mark.parametrize(("header", "good", "bad"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_answers_are_bounded_counted_and_never_sent_on(
    rig: Rig, signals: EdgeSignals, header: str, good: int, bad: int
) -> None:
    shop = rig.environment(green=0)
    answer = raw(shop, header)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"x-crossfade-variant" not in answer.lower()
    reading = signals.read(shop.key)
    assert sum(requests(reading).values()) == good
    assert reading.refused.get(Slot.BLUE, 0) == bad


def raw(shop: Environment, header: str) -> bytes:
    """The answer to a request of an application that writes this header as it is."""
    with socket.create_connection(("127.0.0.1", shop.route.port), timeout=20) as client:
        said = header.encode("latin-1")
        client.sendall(b"GET / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\nX-Say-Variants: " + said + b"\r\n\r\n")
        data = b""
        while chunk := client.recv(65536):
            data += chunk
        return data


def test_ten_thousand_names_fill_one_pool_and_no_other(rig: Rig, signals: EdgeSignals) -> None:
    shop = rig.environment()
    other = rig.environment(green=0)
    other.get(X_Say_Variants="a=on")
    with socket.create_connection(("127.0.0.1", shop.route.port), timeout=20) as client:
        for i in range(0, 10_000, 16):
            names = ",".join(f"flag-{k}={'v' * 90}" for k in range(i, min(i + 16, 10_000)))
            client.sendall(f"GET / HTTP/1.1\r\nHost: shop\r\nX-Say-Variants: {names}\r\n\r\n".encode())
            data = b""
            while b"}}" not in data:
                data += client.recv(65536)
    reading = signals.read(shop.key)
    assert len(told(reading)) == 200
    assert reading.refused == {Slot.BLUE: 9800}
    assert requests(signals.read(other.key)) == {"a=on": 1}
    assert told(signals.read(shop.key), Slot.GREEN) == {}


def test_more_than_fits_a_buffer_of_the_edge_is_read_whole_and_told_once(rig: Rig, signals: EdgeSignals) -> None:
    shop = rig.environment(green=0)
    for i in range(0, 192, 16):
        names = ",".join(f"{'f' * 90}{k:03}={'v' * 100}" for k in range(i, i + 16))
        shop.get(X_Say_Variants=names, X_Say_Events="sale=0.1,basket=3")
    assert len(told(signals.read(shop.key))) == 192
    with Session(str(rig.run / "edge.sock")) as session:
        whole = session.ask("crossfade variants 0")
        tick = whole.split("\n", 1)[0].split(" ")[1]
        assert len(whole) > 40_000
        assert session.ask(f"crossfade variants {tick}").split("\n", 1)[1].strip() == ""
        shop.get("/?only=this")
        assert session.ask(f"crossfade variants {tick}").count("shop-") == 1
        assert session.ask("crossfade variants nonsense").count("shop-") >= 193


def test_the_edge_reads_variants_as_its_twin_does(rig: Rig, signals: EdgeSignals) -> None:
    shop = rig.environment()
    twin = FakeSignals()
    twin.ensure(shop.key)
    words = st.text("abZ09._-= \t;", max_size=5)
    item = st.one_of(
        st.sampled_from(["a=on", "a=off", "b=on", "", " "]), words, st.builds("{}={}".format, words, words)
    )
    lines = st.lists(st.lists(item, max_size=25).map(",".join), min_size=1, max_size=3).map(tuple)

    @settings(max_examples=150, deadline=None, database=None)
    @given(lines, st.sampled_from(["", "sale=2", "sale, Sale", "sale=-1,visit"]), st.sampled_from([200, 503]))
    def same(said: tuple[str, ...], events: str, status: int) -> None:
        twin.answer(shop.key, Slot.BLUE, "\n".join(said), events, status=status)
        answer = shop.get(f"/status/{status}", X_Say_Variants="|".join(said), X_Say_Events=events)
        assert answer.status == status
        assert "x-crossfade-variant" not in answer.headers
        edge, known = signals.read(shop.key), twin.read(shop.key)
        assert {name: plain(f) for name, f in told(edge).items()} == {name: plain(f) for name, f in told(known).items()}
        assert edge.refused == known.refused

    same()


def plain(facts: VariantFacts) -> tuple[int, int, int, Mapping[str, Moments]]:
    return facts.requests, facts.errors, facts.latencies.samples, facts.events


def test_variants_of_all_pools_are_told_apart(rig: Rig, signals: EdgeSignals) -> None:
    shop = rig.environment(control=1)
    rig.router.set_split(shop.key, Split(Weight(3000)).with_control(Slot.BLUE, Weight(3000)), None, 1)
    with shop.load(200, "/?a=on") as load:
        load.more(200)
    reading = until(lambda: (r := signals.read(shop.key)).total().requests >= load.count and r)
    assert Counter({pool.value: requests(reading, pool)["a=on"] for pool in POOLS}) == load.slots
