"""What clients see of the real edge while it is driven, reloaded and killed."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crossfade.domain.errors import CrossfadeError, Invalid, Refused, StorageFailed, Unavailable
from crossfade.domain.traffic import CONTROL, Lease, Pool, Server, Slot, Split, Sticky, StickyBy
from crossfade.domain.values import EVERYTHING, EnvKey, Weight
from crossfade.ports import Route
from crossfade.routers.haproxy import HAProxyRouter, config, edge_command, prepare
from tests.free_port import free_port
from tests.routers.rig import Answer, Environment, Load, Rig, WebSocket, until

BLUE, GREEN, HALF = Split.wholly(Slot.BLUE), Split.wholly(Slot.GREEN), Split(Weight(5000))
SECRET = "s" * 40


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with Rig() as rig:
        yield rig


@pytest.fixture(scope="module")
def shop(rig: Rig) -> Environment:
    """One replica in each slot; each test sets the split it needs."""
    return rig.environment()


def split(environment: Environment, split: Split) -> None:
    environment.rig.router.set_split(environment.key, split, None, 1)


# --- weights and buckets


def test_weights_move_under_load_and_no_request_fails(shop: Environment) -> None:
    split(shop, BLUE)
    with shop.load() as load:
        for weight in (0, 1, 500, 5000, 9999, 10_000, 0, 10_000, 0, 2500, 10_000):
            split(shop, Split(Weight(weight)))
            load.more(20)
    assert load.nothing_failed()
    assert load.slots["blue"] > 20
    assert load.slots["green"] > 20


def test_a_switch_takes_effect_for_the_next_request(shop: Environment) -> None:
    for _ in range(20):
        split(shop, GREEN)
        assert shop.slot() == "green"
        split(shop, BLUE)
        assert shop.slot() == "blue"


def test_at_0_nobody_is_admitted_and_at_10000_everybody(shop: Environment) -> None:
    buckets = [0, 1, 4999, 9998, 9999]
    split(shop, BLUE)
    assert {shop.slot(Cookie=f"cf-{shop.key.service}={b}") for b in buckets} == {"blue"}
    split(shop, GREEN)
    assert {shop.slot(Cookie=f"cf-{shop.key.service}={b}") for b in buckets} == {"green"}


@pytest.mark.parametrize("weight", [1, 2, 3333, 9999])
def test_the_bucket_below_the_weight_goes_to_green_and_the_next_to_blue(shop: Environment, weight: int) -> None:
    split(shop, Split(Weight(weight)))
    assert shop.slot(Cookie=f"cf-{shop.key.service}={weight - 1}") == "green"
    assert shop.slot(Cookie=f"cf-{shop.key.service}={weight}") == "blue"


def test_a_raised_weight_evicts_nobody(shop: Environment) -> None:
    cookies = [f"cf-{shop.key.service}={b}" for b in range(0, 10_000, 250)]
    green: set[str] = set()
    for weight in (1, 500, 2500, 5000, 9999):
        split(shop, Split(Weight(weight)))
        now = {cookie for cookie in cookies if shop.slot(Cookie=cookie) == "green"}
        assert green <= now
        green = now
    assert green == set(cookies)


def test_a_client_that_keeps_its_cookie_stays_in_its_slot(shop: Environment) -> None:
    split(shop, HALF)
    for _ in range(10):
        first = shop.get()
        cookie = first.cookie.split(";")[0]
        slots = {shop.slot(Cookie=cookie) for _ in range(5)}
        assert slots == {first.seen["x-crossfade-slot"]}


def test_the_cookie_is_only_given_while_traffic_is_divided_and_only_without_a_valid_one(shop: Environment) -> None:
    name = f"cf-{shop.key.service}"
    for whole in (BLUE, GREEN):
        split(shop, whole)
        assert shop.get().cookie == ""
    split(shop, HALF)
    given = shop.get().cookie
    value, *attributes = given.split("; ")
    assert value.startswith(f"{name}=")
    assert 0 <= int(value.partition("=")[2]) <= 9999
    assert set(attributes) == {"Path=/", "HttpOnly", "SameSite=Lax"}
    assert shop.get(Cookie=f"{name}=17").cookie == ""
    for bad in ("10000", "-1", "007", "", "abc", "1e3", "1 2", "99999999999999999999"):
        assert shop.get(Cookie=f"{name}={bad}").cookie.startswith(f"{name}="), bad


@pytest.mark.parametrize("by", [StickyBy.HEADER, StickyBy.COOKIE])
def test_a_hashed_header_or_cookie_decides_the_slot_and_its_absence_is_drawn(rig: Rig, by: StickyBy) -> None:
    shop = rig.environment(sticky=Sticky(by, "X-User"))
    split(shop, HALF)

    def slot(user: str) -> str:
        return shop.slot(X_User=user) if by is StickyBy.HEADER else shop.slot(Cookie=f"a=b; X-User={user}")

    users = [f"user-{i}" for i in range(30)]
    first = [slot(user) for user in users]
    assert [slot(user) for user in users] == first
    assert set(first) == {"blue", "green"}
    assert {shop.slot() for _ in range(40)} == {"blue", "green"}
    assert shop.get().cookie == ""


def test_without_stickiness_each_request_is_drawn_by_weight(rig: Rig) -> None:
    shop = rig.environment(sticky=Sticky(StickyBy.NOTHING))
    split(shop, Split(Weight(3000)))
    slots = [shop.slot() for _ in range(300)]
    assert 45 <= slots.count("green") <= 140  # 90 expected; a run in a billion is outside
    assert shop.get().cookie == ""


# --- the control pool


@pytest.fixture(scope="module")
def trio(rig: Rig) -> Environment:
    """One replica in each pool; each test sets the split it needs."""
    return rig.environment(control=1)


def compared(candidate: Slot, weight: int, share: int) -> Split:
    return Split.giving(candidate, Weight(weight)).with_control(candidate.other, Weight(share))


@pytest.mark.parametrize("candidate", Slot)
@pytest.mark.parametrize(("weight", "share"), [(0, 1), (500, 500), (5000, 5000), (9000, 1000), (1, 9999), (9999, 0)])
def test_the_edge_admits_each_bucket_where_the_split_says(
    trio: Environment, candidate: Slot, weight: int, share: int
) -> None:
    wanted = compared(candidate, weight, share)
    split(trio, wanted)
    borders = {0, weight, 10_000 - weight, share, 10_000 - share, 10_000, 5000}
    buckets = sorted({b + near for b in borders for near in (-1, 0)} & set(range(10_000)))
    seen = {bucket: trio.slot(Cookie=f"cf-{trio.key.service}={bucket}") for bucket in buckets}
    assert seen == {bucket: wanted.admits(bucket).value for bucket in buckets}


def test_a_control_pool_gets_its_share_of_all_requests(rig: Rig) -> None:
    shop = rig.environment(control=1, sticky=Sticky(StickyBy.NOTHING))
    split(shop, compared(Slot.GREEN, 2000, 3000))
    slots = [shop.slot() for _ in range(600)]
    # 120 and 180 expected; less than a run in a billion is outside
    assert 65 <= slots.count("green") <= 180
    assert 115 <= slots.count("control") <= 250


def test_a_control_alone_divides_the_traffic_too(trio: Environment) -> None:
    split(trio, compared(Slot.GREEN, 0, 5000))
    given = trio.get().cookie.split(";")[0]
    assert given.startswith(f"cf-{trio.key.service}=")
    assert len({trio.slot(Cookie=given) for _ in range(5)}) == 1
    split(trio, BLUE.with_control(Slot.BLUE, EVERYTHING))
    assert {trio.slot() for _ in range(5)} == {"control"}


def test_a_control_comes_and_goes_under_load_and_no_request_fails(trio: Environment) -> None:
    split(trio, BLUE)
    with trio.load() as load:
        for candidate in (Slot.GREEN, Slot.BLUE):
            for weight, share in ((0, 500), (500, 500), (2500, 2500), (5000, 5000), (9000, 0), (10_000, 0)):
                split(trio, compared(candidate, weight, share))
                load.more(20)
    assert load.nothing_failed()
    assert set(load.slots) == {"blue", "green", "control"}


def test_a_control_leaves_the_traffic_with_its_lease(trio: Environment) -> None:
    with trio.load(100) as load:
        everything = BLUE.with_control(Slot.BLUE, EVERYTHING)
        trio.rig.router.set_split(trio.key, everything, Lease(time.time() + 1.0, BLUE), 1)
        until(lambda: load.slots["control"] > 10)
        until(lambda: trio.slot() == "blue")
    assert load.nothing_failed()
    assert trio.rig.router.read(trio.key).split == BLUE


@pytest.mark.parametrize("candidate", Slot)
def test_a_dead_control_pool_falls_to_the_baseline_even_with_requests_under_way(rig: Rig, candidate: Slot) -> None:
    shop = rig.environment(control=1)
    split(shop, Split.wholly(candidate.other).with_control(candidate.other, EVERYTHING))
    with shop.load(200, "/slow/0.01") as load:
        rig.kill(shop.members[CONTROL][0].name)
        until(lambda: load.slots[candidate.other.value] > 50)
    assert load.nothing_failed()
    assert load.slots[candidate.value] == 0


def test_a_control_pool_without_servers_leaves_its_requests_with_the_baseline(rig: Rig) -> None:
    shop = rig.environment()
    for candidate in Slot:
        # The slot with more weight is not always the baseline's: the split says which one is.
        split(shop, compared(candidate, 7000, 3000))
        bucket = 9999 if candidate is Slot.GREEN else 0
        assert shop.slot(Cookie=f"cf-{shop.key.service}={bucket}") == candidate.other.value


def test_the_control_is_the_last_resort_of_an_environment_whose_slots_are_dead(rig: Rig) -> None:
    shop = rig.environment(blue=0, green=0, control=1)
    assert {shop.slot() for _ in range(3)} == {"control"}
    rig.router.open_preview(shop.key, Slot.GREEN, SECRET, 1)
    rig.router.ensure(replace(shop.route, request_timeout=1.0), 1)
    assert shop.get(X_Crossfade_Preview=SECRET).status == 503, "a preview is no reason to go anywhere else"


def test_an_environment_from_a_version_without_a_control_pool_gets_one_when_it_is_ensured(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = config._exit
    monkeypatch.setattr(config, "POOLS", tuple(Slot))
    monkeypatch.setattr(config, "_exit", lambda name: tuple(rule for rule in rules(name) if "control " not in rule))
    shop = rig.environment()
    server = rig.start(f"{shop.key.service}-control")
    with pytest.raises(Unavailable, match="Deploy again"):
        rig.router.add_servers(shop.key, CONTROL, [server], 1)
    monkeypatch.undo()
    split(shop, GREEN)
    with shop.load() as load:
        rig.router.ensure(shop.route, 1)
        rig.router.add_servers(shop.key, CONTROL, [server], 1)
    assert load.nothing_failed()
    assert shop.slot() == "green"
    written = (rig.folder / "haproxy.cfg").read_text()
    rig.router.ensure(shop.route, 1)
    assert (rig.folder / "haproxy.cfg").read_text() == written, "once"


# --- releases


def test_the_application_learns_its_release_and_clients_cannot_say_it(rig: Rig) -> None:
    shop = rig.environment(blue=0, green=0)
    releases: dict[Pool, str] = {Slot.BLUE: "r12", Slot.GREEN: "r13", CONTROL: "r12"}
    for pool, number in releases.items():
        shop.fill(pool, release=number)
    generation = (rig.folder / "haproxy.cfg").read_text().split("generation ")[1].split('"')[0]
    split(shop, compared(Slot.GREEN, 1000, 1000))

    def release(bucket: int, **headers: str) -> tuple[str, str]:
        seen = shop.get(Cookie=f"cf-{shop.key.service}={bucket}", **headers).seen
        return seen["x-crossfade-slot"], seen["x-crossfade-release"]

    spoofed = {"X_Crossfade_Release": "r99", "x_crossfade_slot": "green"}
    for headers in ({}, spoofed):
        assert release(0, **headers) == ("green", "r13")
        assert release(5000, **headers) == ("blue", "r12")
        assert release(9999, **headers) == ("control", "r12")
    rig.router.add_servers(shop.key, Slot.GREEN, shop.members[Slot.GREEN], 1, "r14")
    assert release(0) == ("green", "r14")
    assert f'generation {generation}"' in (rig.folder / "haproxy.cfg").read_text(), "that was no reload"
    rig.router.ensure(Route(rig.key(), "127.0.0.1", free_port()), 1)
    assert release(0) == ("green", "r14")
    kill_edge(rig, master=True)
    answered(shop)
    assert (release(0), release(9999)) == (("green", "r14"), ("control", "r12"))


def test_a_request_that_went_to_another_pool_is_told_that_ones_release_or_none(rig: Rig) -> None:
    shop = rig.environment(green=0)
    green = shop.fill(Slot.GREEN, release="r7")[0]
    split(shop, GREEN)
    rig.kill(green.name)
    until(lambda: rig.router.read(shop.key).servers[Slot.GREEN][0].status == "down")
    assert "x-crossfade-release" not in shop.get().seen
    rig.router.add_servers(shop.key, Slot.BLUE, shop.members[Slot.BLUE], 1, "r6")
    assert shop.get().seen["x-crossfade-release"] == "r6"


# --- preview and headers


def test_the_preview_reaches_the_standby_at_weight_0_and_only_with_the_secret(shop: Environment) -> None:
    router, key = shop.rig.router, shop.key
    split(shop, BLUE)
    assert shop.slot(X_Crossfade_Preview=SECRET) == "blue"
    router.open_preview(key, Slot.GREEN, SECRET, 1)
    assert shop.slot(X_Crossfade_Preview=SECRET) == "green"
    for wrong in ("", " ", "s" * 39, "s" * 41, "green", f"green:{SECRET}", ":", "-", "blue:"):
        assert shop.slot(X_Crossfade_Preview=wrong) == "blue", wrong
    assert shop.slot() == "blue"
    split(shop, GREEN)
    router.open_preview(key, Slot.BLUE, SECRET, 1)
    assert (shop.slot(X_Crossfade_Preview=SECRET), shop.slot()) == ("blue", "green")
    router.close_preview(key, 1)
    assert shop.slot(X_Crossfade_Preview=SECRET) == "green"


def test_a_preview_of_a_slot_without_servers_never_shows_the_other_slot(rig: Rig) -> None:
    shop = rig.environment(green=0, request_timeout=2.0)
    rig.router.open_preview(shop.key, Slot.GREEN, SECRET, 1)
    answer = shop.get(X_Crossfade_Preview=SECRET)
    assert (answer.status, answer.name) == (503, "")
    assert shop.slot() == "blue"


def test_the_secret_of_one_environment_opens_no_other(rig: Rig, shop: Environment) -> None:
    other = rig.environment()
    split(shop, BLUE)
    rig.router.open_preview(other.key, Slot.GREEN, SECRET, 1)
    assert (other.slot(X_Crossfade_Preview=SECRET), shop.slot(X_Crossfade_Preview=SECRET)) == ("green", "blue")


def test_what_clients_say_about_slots_is_removed_before_the_application_sees_it(shop: Environment) -> None:
    split(shop, BLUE)
    shop.rig.router.open_preview(shop.key, Slot.GREEN, SECRET, 1)
    spoofed = {"X_Crossfade_Slot": "green", "x_crossfade_anything": "1", "X_CROSSFADE_PREVIEW": "guess"}
    for headers in (spoofed, {"X_Crossfade_Preview": SECRET}):
        seen = shop.get(**headers).seen
        assert [name for name in seen if name.startswith("x-crossfade")] == ["x-crossfade-slot"]
    assert shop.get(**spoofed).seen["x-crossfade-slot"] == "blue"
    shop.rig.router.close_preview(shop.key, 1)


def test_the_application_learns_who_asked_and_how(shop: Environment) -> None:
    seen = shop.get().seen
    assert (seen["x-forwarded-for"], seen["x-forwarded-proto"]) == ("127.0.0.1", "http")
    behind_tls = shop.get(X_Forwarded_Proto="https", X_Forwarded_For="192.0.2.7").seen
    assert behind_tls["x-forwarded-proto"] == "https"
    assert behind_tls["x-forwarded-for"] == "192.0.2.7, 127.0.0.1"


# --- leases


def test_a_canary_that_nobody_renews_leaves_the_traffic_by_itself(shop: Environment) -> None:
    with shop.load(100) as load:
        shop.rig.router.set_split(shop.key, GREEN, Lease(time.time() + 1.0, BLUE), 1)
        until(lambda: load.slots["green"] > 10)
        until(lambda: shop.slot() == "blue")
    assert load.nothing_failed()
    assert shop.rig.router.read(shop.key).lapsed


def test_a_lease_that_ran_out_while_the_edge_was_dead_never_takes_effect_again(rig: Rig) -> None:
    shop = rig.environment()
    rig.router.set_split(shop.key, GREEN, Lease(time.time() + 0.01, BLUE), 1)
    kill_edge(rig, master=True)
    assert answered(shop).seen["x-crossfade-slot"] == "blue"
    assert rig.router.read(shop.key).lapsed
    assert not rig.router.renew(shop.key, Lease(time.time() + 60, BLUE), 1)
    assert shop.slot() == "blue"


def test_renewing_against_the_clock_never_leaves_a_dead_lease_that_says_it_lives(shop: Environment) -> None:
    for i in range(12):
        shop.rig.router.set_split(shop.key, GREEN, Lease(time.time() + 0.24 + i * 0.004, BLUE), 1)
        time.sleep(0.25)
        renewed = shop.rig.router.renew(shop.key, Lease(time.time() + 60, BLUE), 1)
        state = shop.rig.router.read(shop.key)
        assert (state.split, state.lapsed) == ((GREEN, False) if renewed else (BLUE, True))
        assert shop.slot() == ("green" if renewed else "blue")


# --- servers


def test_a_websocket_and_a_feed_survive_a_switch_and_a_drain_until_they_are_removed(rig: Rig) -> None:
    shop = rig.environment()
    split(shop, BLUE)
    talk = WebSocket(shop.route.port)
    feed = socket.create_connection(("127.0.0.1", shop.route.port), timeout=20)
    feed.sendall(b"GET /feed HTTP/1.1\r\nHost: shop\r\nAccept: text/event-stream\r\n\r\n")
    name = shop.members[Slot.BLUE][0].name
    assert talk.say("hello") == f"{name}:hello"
    split(shop, GREEN)
    rig.router.drain_servers(shop.key, Slot.BLUE, [name], 1)
    assert talk.say("still here") == f"{name}:still here"
    seen = b""
    while b"data: 9\n" not in seen:
        seen += feed.recv(1000)
    status = rig.router.read(shop.key).servers[Slot.BLUE][0]
    assert (status.status, status.sessions) == ("draining", 2)
    assert shop.slot() == "green"
    rig.router.remove_servers(shop.key, Slot.BLUE, [name], 1)
    assert talk.ended()
    assert rig.router.read(shop.key).servers[Slot.BLUE] == ()
    feed.close()


def test_the_sessions_of_a_worker_that_a_reload_replaced_are_counted_and_cut_too(rig: Rig) -> None:
    shop = rig.environment()
    talk = WebSocket(shop.route.port)
    name = shop.members[Slot.BLUE][0].name
    rig.router.ensure(Route(rig.key(), "127.0.0.1", free_port()), 1)
    assert talk.say("after a reload") == f"{name}:after a reload"
    assert rig.router.read(shop.key).servers[Slot.BLUE][0].sessions == 1
    split(shop, GREEN)
    rig.router.remove_servers(shop.key, Slot.BLUE, [name], 1)
    assert talk.ended()


def test_a_server_that_does_not_listen_is_never_up_and_gets_no_traffic(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crossfade.routers.haproxy.router.UP_WITHIN", 3.0)
    shop = rig.environment(green=0)
    split(shop, GREEN)
    with pytest.raises(Unavailable, match=r"ghost.*refused"):
        rig.router.add_servers(shop.key, Slot.GREEN, [Server("ghost", "127.0.0.1", free_port())], 1)
    assert rig.router.read(shop.key).servers[Slot.GREEN][0].status != "up"
    assert shop.slot() == "blue"
    rig.router.remove_servers(shop.key, Slot.GREEN, ["ghost"], 1)


def test_a_server_that_moved_to_another_port_is_found_there(rig: Rig) -> None:
    shop = rig.environment(green=0)
    server = shop.members[Slot.BLUE][0]
    rig.kill(server.name)
    moved = rig.start(server.name)
    rig.router.add_servers(shop.key, Slot.BLUE, [moved], 1)
    assert shop.get().name == server.name
    assert rig.router.read(shop.key).servers[Slot.BLUE][0].server == moved


def test_a_replica_killed_under_load_costs_no_idempotent_request(rig: Rig) -> None:
    shop = rig.environment(blue=2, green=0)
    victim, survivor = shop.members[Slot.BLUE]
    with shop.load(400, "/slow/0.01") as load:
        rig.kill(victim.name)
        load.more(400)
        rig.start(victim.name, victim.port)
        until(lambda: rig.router.read(shop.key).servers[Slot.BLUE][0].status == "up")
        rig.kill(survivor.name)
    assert load.nothing_failed()


def test_requests_wait_for_the_only_replica_to_be_restarted(rig: Rig) -> None:
    shop = rig.environment(green=0)
    only = shop.members[Slot.BLUE][0]
    with shop.load(200, "/slow/0.01") as load:
        rig.kill(only.name)
        time.sleep(1.0)
        rig.start(only.name, only.port)
    assert load.nothing_failed()


def test_a_slot_whose_replicas_all_died_falls_to_the_other_even_with_requests_under_way(rig: Rig) -> None:
    shop = rig.environment()
    split(shop, GREEN)
    with shop.load(200, "/slow/0.01") as load:
        rig.kill(shop.members[Slot.GREEN][0].name)
        until(lambda: load.slots["blue"] > 50)
    assert load.nothing_failed()
    assert shop.slot() == "blue"


def test_a_request_that_may_not_be_repeated_is_not_repeated(shop: Environment) -> None:
    split(shop, BLUE)
    signals = shop.rig.signals()
    before = signals.read(shop.key)
    assert shop.get("/empty", method="POST").status == 502

    def counted() -> bool:
        return signals.read(shop.key).since(before).total().requests >= 1

    until(counted)
    assert signals.read(shop.key).since(before).slots[Slot.BLUE].retries == 0
    signals.stop()


def test_a_connection_that_was_idle_over_a_reload_reaches_servers_that_came_later(rig: Rig) -> None:
    shop = rig.environment(green=0)
    with socket.create_connection(("127.0.0.1", shop.route.port), timeout=20) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n")
        assert b"200" in client.recv(4000)
        rig.router.ensure(Route(rig.key(), "127.0.0.1", free_port()), 1)
        shop.fill(Slot.GREEN)
        split(shop, GREEN)
        old = shop.members[Slot.BLUE][0].name
        rig.router.drain_servers(shop.key, Slot.BLUE, [old], 1)
        rig.router.remove_servers(shop.key, Slot.BLUE, [old], 1)
        rig.kill(old)
        client.sendall(b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n")
        answer = client.recv(4000)
        assert answer.startswith(b"HTTP/1.1 200"), answer
        assert b'"x-crossfade-slot": "green"' in answer


# --- holds


def test_held_requests_wait_then_pass_and_none_fails(shop: Environment) -> None:
    split(shop, BLUE)
    with shop.load(200) as load:
        shop.rig.router.hold(shop.key, 1.0, 1)
        split(shop, GREEN)
        until(lambda: load.slots["green"] > 50)
    assert load.nothing_failed()
    assert load.longest > 0.5
    began = time.monotonic()
    assert shop.slot() == "green"
    assert time.monotonic() - began < 0.5


def test_a_hold_can_be_ended_early_and_previews_pass_it(shop: Environment) -> None:
    split(shop, BLUE)
    shop.rig.router.open_preview(shop.key, Slot.GREEN, SECRET, 1)
    shop.rig.router.hold(shop.key, 30, 1)
    try:
        assert shop.slot(X_Crossfade_Preview=SECRET) == "green"
        waiting: list[str] = []
        client = threading.Thread(target=lambda: waiting.append(shop.slot()))
        client.start()
        time.sleep(0.3)
        assert waiting == []
    finally:
        shop.rig.router.hold(shop.key, 0, 1)
    client.join(timeout=20)
    assert waiting == ["blue"]


# --- reloads and restarts


def kill_edge(rig: Rig, *, master: bool) -> None:
    """SIGKILL the master or the worker, and wait until another edge serves."""
    before = set(rig.workers())
    assert rig.edge is not None
    for pid in [rig.edge.pid] if master else before:
        os.kill(pid, signal.SIGKILL)
    until(lambda: (now := set(rig.workers())) and not now & before)


def answered(environment: Environment) -> Answer:
    """The first answer of an edge that comes back."""
    answer = until(lambda: (answer := environment.get()).status and answer)
    assert isinstance(answer, Answer)
    return answer


@pytest.mark.parametrize("master", [True, False], ids=["master", "worker"])
def test_a_killed_edge_comes_back_from_disk_as_it_was(rig: Rig, master: bool) -> None:
    shop = rig.environment(blue=2, control=1)
    drained = shop.members[Slot.BLUE][0]
    lease = Lease(round(time.time() + 600, 2), BLUE)
    rig.router.drain_servers(shop.key, Slot.BLUE, [drained.name], 3)
    rig.router.open_preview(shop.key, Slot.GREEN, SECRET, 3)
    wanted = compared(Slot.GREEN, 1234, 1000)
    rig.router.set_split(shop.key, wanted, lease, 3)
    kill_edge(rig, master=master)
    answered(shop)
    state = rig.router.read(shop.key)
    assert (state.split, state.lease, state.lapsed, state.fence) == (wanted, lease, False, 3)
    assert [s.status for s in state.servers[Slot.BLUE]] == ["draining", "up"]
    cookie = f"cf-{shop.key.service}="
    assert {shop.get(Cookie=cookie + "1234").name for _ in range(6)} == {shop.members[Slot.BLUE][1].name}
    assert shop.slot(Cookie=cookie + "1233") == "green"
    assert shop.slot(Cookie=cookie + "9000") == "control"
    assert shop.slot(Cookie=cookie + "1234", X_Crossfade_Preview=SECRET) == "green"
    rig.router.add_servers(shop.key, Slot.BLUE, [drained], 3)
    assert {shop.get(Cookie=cookie + "1234").name for _ in range(6)} == {s.name for s in shop.members[Slot.BLUE]}


def test_calls_wait_for_an_edge_that_is_coming_back(rig: Rig, shop: Environment) -> None:
    assert rig.edge is not None
    os.kill(rig.edge.pid, signal.SIGKILL)
    split(shop, GREEN)
    assert answered(shop).seen["x-crossfade-slot"] == "green"


def test_another_environment_can_come_change_and_go_under_load(rig: Rig, shop: Environment) -> None:
    split(shop, BLUE)
    with shop.load(300) as load:
        for _ in range(3):
            other = Route(rig.key(), "127.0.0.1", free_port())
            rig.router.ensure(other, 1)
            rig.router.ensure(replace(other, port=free_port(), sticky=Sticky(StickyBy.NOTHING)), 1)
            rig.router.remove(other.key, 1)
    assert load.nothing_failed()


def test_a_moved_port_answers_at_the_new_one_only(rig: Rig) -> None:
    shop = rig.environment()
    old, shop.route = shop.route, replace(shop.route, port=free_port())
    rig.router.ensure(shop.route, 1)
    assert shop.slot() == "blue"
    assert refused(old.port)


def test_a_removed_environment_listens_no_more(rig: Rig) -> None:
    shop = rig.environment()
    assert not refused(shop.route.port)
    rig.router.remove(shop.key, 1)
    assert refused(shop.route.port)


def refused(port: int) -> bool:
    with socket.socket() as trial:
        return trial.connect_ex(("127.0.0.1", port)) != 0


def test_an_environment_listens_where_it_says_and_nowhere_else(rig: Rig) -> None:
    shop = rig.environment(green=0)
    with socket.socket() as elsewhere:
        elsewhere.settimeout(2)
        assert elsewhere.connect_ex(("127.0.0.2", shop.route.port)) != 0


def test_a_taken_port_is_refused_by_number_and_nothing_changes(rig: Rig, shop: Environment) -> None:
    written = (rig.folder / "haproxy.cfg").read_text()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        key = rig.key()
        with pytest.raises(Refused, match=f"Port {port} .*another process"):
            rig.router.ensure(Route(key, "127.0.0.1", port), 1)
    assert key not in set(rig.router.keys())
    assert (rig.folder / "haproxy.cfg").read_text() == written
    assert shop.get().status == 200


def test_a_configuration_that_haproxy_refuses_leaves_the_edge_and_the_disk_as_they_were(
    rig: Rig, shop: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = (rig.folder / "haproxy.cfg").read_text()
    monkeypatch.setattr("crossfade.routers.haproxy.config.LOG_FORMAT", "%[no_such_thing]")
    key = rig.key()
    with pytest.raises(Refused, match="no_such_thing"):
        rig.router.ensure(Route(key, "127.0.0.1", free_port()), 1)
    monkeypatch.undo()
    assert key not in set(rig.router.keys())
    assert (rig.folder / "haproxy.cfg").read_text() == written
    assert shop.get().status == 200


def test_an_ensure_that_died_between_disk_and_edge_is_healed_by_doing_it_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    route = Route(rig.key(), "127.0.0.1", free_port())

    def die(self: object, generation: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(HAProxyRouter, "_reload", die)
    with pytest.raises(KeyboardInterrupt):
        rig.router.ensure(route, 1)
    monkeypatch.undo()
    assert refused(route.port)
    HAProxyRouter(rig.folder, rig.run, rig.options).ensure(route, 1)
    assert not refused(route.port)


def test_servers_whose_addition_died_between_disk_and_edge_are_healed_by_doing_it_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = rig.environment(blue=0, green=0)
    server = rig.start(f"{shop.key.service}.production.r1-1")
    for step in ("_place", "_await", "_tell"):

        def die(self: object, *_: object, **__: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(HAProxyRouter, step, die)
        with pytest.raises(KeyboardInterrupt):
            rig.router.add_servers(shop.key, Slot.BLUE, [server], 1)
        monkeypatch.undo()
    HAProxyRouter(rig.folder, rig.run, rig.options).add_servers(shop.key, Slot.BLUE, [server], 1)
    assert shop.get().name == server.name


def test_two_writers_in_parallel_lose_nothing(rig: Rig) -> None:
    shops = [rig.environment(blue=0, green=0) for _ in range(4)]
    faults: list[Exception] = []

    def write(shop: Environment) -> None:
        router = HAProxyRouter(rig.folder, rig.run, rig.options)  # as another process would
        try:
            for weight in range(1, 21):
                router.set_split(shop.key, Split(Weight(weight)), None, weight)
        except CrossfadeError as error:
            faults.append(error)

    writers = [threading.Thread(target=write, args=(shop,)) for shop in shops]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(timeout=60)
    assert faults == []
    for shop in shops:
        state = rig.router.read(shop.key)
        assert (state.split, state.fence) == (Split(Weight(20)), 20)


# --- faults of the ground


def test_a_full_disk_changes_nothing_at_the_edge(rig: Rig, shop: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    split(shop, BLUE)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("crossfade.routers.haproxy.state.os.fsync", full)
    with pytest.raises(StorageFailed, match="No space left"):
        split(shop, GREEN)
    monkeypatch.undo()
    assert shop.slot() == "blue"
    assert rig.router.read(shop.key).split == BLUE
    kill_edge(rig, master=True)
    assert answered(shop).seen["x-crossfade-slot"] == "blue"


def test_an_edge_that_does_not_run_is_unavailable_with_a_hint_and_gets_the_split_when_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crossfade.routers.haproxy.client.PATIENCE", 0.2)
    with Rig() as rig:
        shop = rig.environment()
        rig._wanted = False
        rig._keeper.join()
        rig._end_edge()
        with pytest.raises(Unavailable) as caught:
            split(shop, GREEN)
        assert caught.value.hint
        rig._wanted = True
        rig._keeper = threading.Thread(target=rig._keep, daemon=True)
        rig._keeper.start()
        assert answered(shop).seen["x-crossfade-slot"] == "green"


def test_a_damaged_state_file_is_named_and_not_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "edge"
    prepare(folder, tmp_path / "r")
    (folder / "state.json").write_text('{"generation": 1')
    router = HAProxyRouter(folder, tmp_path / "r")
    with pytest.raises(StorageFailed, match=r"state\.json is damaged"):
        router.keys()
    assert (folder / "state.json").read_text() == '{"generation": 1'


def test_only_the_owner_can_reach_the_sockets_and_read_the_files(rig: Rig) -> None:
    for path in [*rig.run.iterdir(), *rig.folder.iterdir()]:
        assert path.stat().st_mode & 0o077 == 0, path


@pytest.mark.parametrize("name", ["a" * 120, "with,comma", "with'quote", "with\nline"])
def test_folders_that_haproxy_cannot_take_are_refused(name: str) -> None:
    with pytest.raises(Invalid):
        edge_command(Path("/tmp/edge"), Path("/tmp") / name)


@pytest.mark.parametrize(
    "change",
    [
        {"bind": "example.org"},
        {"bind": "127.0.0.1:80\n    bind *"},
        {"bind": ""},
        {"port": 0},
        {"port": 65536},
        {"request_timeout": 0.0},
        {"request_timeout": float("nan")},
        {"sticky": Sticky(StickyBy.HEADER, "")},
        {"sticky": Sticky(StickyBy.HEADER, "X-User)\n  http-request deny")},
        {"sticky": Sticky(StickyBy.HEADER, "X-Crossfade-Slot")},
        {"sticky": Sticky(StickyBy.COOKIE, "a b")},
    ],
)
def test_a_route_that_could_break_out_of_the_configuration_is_invalid(rig: Rig, change: dict[str, Any]) -> None:
    key = rig.key()
    with pytest.raises(Invalid):
        rig.router.ensure(replace(Route(key, "127.0.0.1", free_port()), **change), 1)
    assert key not in set(rig.router.keys())


@pytest.mark.parametrize(
    "server",
    [
        Server("a b", "127.0.0.1", 80),
        Server("a;shutdown", "127.0.0.1", 80),
        Server("_elsewhere", "127.0.0.1", 80),
        Server("a", "example.org", 80),
        Server("a", "127.0.0.1", 0),
        Server("a", "127.0.0.1 disabled", 80),
    ],
)
@pytest.mark.parametrize("pool", [Slot.BLUE, CONTROL])
def test_a_server_that_could_break_out_of_a_command_is_invalid(shop: Environment, server: Server, pool: Pool) -> None:
    with pytest.raises(Invalid):
        shop.rig.router.add_servers(shop.key, pool, [server], 1)


def test_names_with_dashes_are_environments_like_others(rig: Rig) -> None:
    key = EnvKey("a-b-c", "x-y")
    rig.router.ensure(Route(key, "127.0.0.1", free_port()), 1)
    assert rig.router.read(key).split == BLUE
    rig.router.remove(key, 1)


def test_a_load_that_meets_failures_says_so(shop: Environment) -> None:
    """The other tests stand on this: their client hides nothing."""
    split(shop, BLUE)
    load = Load(shop.route.port, 100, "/truncated", "GET")
    load.start()
    until(lambda: load.count > 5)
    load.stop()
    assert len(load.broken) >= 5
