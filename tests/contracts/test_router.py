"""The promises of `ports.Router`, kept by HAProxy and by its twin."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest

from crossfade.domain.drill import EdgeFault
from crossfade.domain.errors import Invalid, NotFound, Refused, StaleFence
from crossfade.domain.traffic import CONTROL, POOLS, Lease, Pool, Server, Slot, Split
from crossfade.domain.values import EVERYTHING, EnvKey, Weight
from crossfade.fakes.router import FakeRouter
from crossfade.ports import Route, Router
from tests.free_port import free_port
from tests.routers.rig import Environment, Rig, until

BLUE = Split.wholly(Slot.BLUE)
HALF = Split(Weight(5000))
COMPARED = Split(Weight(500)).with_control(Slot.BLUE, Weight(700))
SECRET = "s" * 40
ERRORS = EdgeFault(Weight(5000), status=500)
SLOW = EdgeFault(delay=0.5)


@dataclass
class Bench:
    """A router, servers that it can reach, and the release that a pool's requests are told (empty: none)."""

    router: Router
    server: Callable[[str], Server]
    key: Callable[[], EnvKey]
    release: Callable[[EnvKey, Pool], str]

    def environment(self) -> EnvKey:
        key = self.key()
        self.router.ensure(Route(key, "127.0.0.1", free_port()), 1)
        return key


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with Rig() as rig:
        yield rig


@pytest.fixture(params=["fake", "haproxy"])
def bench(request: pytest.FixtureRequest, rig: Rig) -> Bench:
    if request.param == "fake":
        ports = iter(range(20_000, 30_000))
        fake = FakeRouter()
        return Bench(fake, lambda name: Server(name, "127.0.0.1", next(ports)), rig.key, fake.release)

    def release(key: EnvKey, pool: Pool) -> str:
        environment = Environment(rig, rig.router.read(key).route)
        whole = Split.wholly(pool) if isinstance(pool, Slot) else BLUE.with_control(Slot.BLUE, EVERYTHING)
        rig.router.set_split(key, whole, None, 1)
        seen = environment.get().seen
        assert seen["x-crossfade-slot"] == pool
        return seen.get("x-crossfade-release", "")

    return Bench(rig.router, rig.start, rig.key, release)


def test_a_new_environment_has_all_weight_on_blue_no_lease_and_no_servers(bench: Bench) -> None:
    key = bench.environment()
    state = bench.router.read(key)
    assert (state.split, state.lease, state.lapsed, state.fence) == (BLUE, None, False, 1)
    assert state.servers == {Slot.BLUE: (), Slot.GREEN: ()}
    assert key in set(bench.router.keys())


def test_many_are_read_as_each_alone_and_those_that_are_not_there_are_left_out(bench: Bench) -> None:
    keys = [bench.environment() for _ in range(2)]
    bench.router.add_servers(keys[0], Slot.GREEN, [bench.server(f"{keys[0].service}-1")], 1)
    bench.router.set_split(keys[1], HALF, None, 1)
    found = bench.router.read_many([*keys, EnvKey("nobody", "here")])
    assert found == {key: bench.router.read(key) for key in keys}


def test_ensuring_twice_is_ensuring_once(bench: Bench) -> None:
    key = bench.environment()
    bench.router.set_split(key, HALF, None, 1)
    bench.router.ensure(bench.router.read(key).route, 1)
    assert bench.router.read(key).split == HALF


def test_a_changed_route_keeps_servers_and_split(bench: Bench) -> None:
    key = bench.environment()
    server = bench.server(f"{key.service}-1")
    bench.router.add_servers(key, Slot.GREEN, [server], 1)
    bench.router.set_split(key, HALF, None, 1)
    bench.router.ensure(replace(bench.router.read(key).route, request_timeout=7.0), 1)
    state = bench.router.read(key)
    assert (state.route.request_timeout, state.split) == (7.0, HALF)
    assert [s.server for s in state.servers[Slot.GREEN]] == [server]


def test_a_port_of_another_environment_is_refused_by_name(bench: Bench) -> None:
    key = bench.environment()
    port = bench.router.read(key).route.port
    with pytest.raises(Refused, match=f"{port}.*{key}"):
        bench.router.ensure(Route(bench.key(), "127.0.0.1", port), 1)


def test_a_server_is_up_when_adding_returns_and_adding_twice_is_adding_once(bench: Bench) -> None:
    key = bench.environment()
    server = bench.server(f"{key.service}-1")
    for _ in range(2):
        bench.router.add_servers(key, Slot.BLUE, [server], 1)
        assert [(s.server, s.status) for s in bench.router.read(key).servers[Slot.BLUE]] == [(server, "up")]


def test_a_drained_server_says_so_and_comes_back_when_it_is_added_again(bench: Bench) -> None:
    key = bench.environment()
    server = bench.server(f"{key.service}-1")
    bench.router.add_servers(key, Slot.BLUE, [server], 1)
    bench.router.drain_servers(key, Slot.BLUE, [server.name, "unknown"], 1)
    assert bench.router.read(key).servers[Slot.BLUE][0].status == "draining"
    bench.router.add_servers(key, Slot.BLUE, [server], 1)
    assert bench.router.read(key).servers[Slot.BLUE][0].status == "up"


def test_a_removed_server_is_gone_and_an_unknown_one_is_ignored(bench: Bench) -> None:
    key = bench.environment()
    servers = [bench.server(f"{key.service}-{i}") for i in (1, 2)]
    bench.router.add_servers(key, Slot.BLUE, servers, 1)
    bench.router.remove_servers(key, Slot.BLUE, [servers[0].name, "unknown"], 1)
    assert [s.server for s in bench.router.read(key).servers[Slot.BLUE]] == [servers[1]]


def test_the_control_pool_takes_servers_like_a_slot(bench: Bench) -> None:
    key = bench.environment()
    server = bench.server(f"{key.service}-1")
    bench.router.add_servers(key, CONTROL, [server], 1)
    assert [(s.server, s.status) for s in bench.router.read(key).servers[CONTROL]] == [(server, "up")]
    bench.router.drain_servers(key, CONTROL, [server.name], 1)
    assert bench.router.read(key).servers[CONTROL][0].status == "draining"
    bench.router.remove_servers(key, CONTROL, [server.name], 1)
    assert CONTROL not in bench.router.read(key).servers


@pytest.mark.parametrize("of", Slot)
def test_a_split_with_a_control_pool_reads_back(bench: Bench, of: Slot) -> None:
    key = bench.environment()
    for weight, share in ((0, 1), (0, 10_000), (500, 500), (9_999, 1), (2_500, 7_500)):
        split = Split.giving(of.other, Weight(weight)).with_control(of, Weight(share))
        bench.router.set_split(key, split, None, 1)
        assert bench.router.read(key).split == split
    bench.router.set_split(key, HALF, None, 1)
    assert bench.router.read(key).split == HALF


def test_a_control_pool_stands_as_long_as_its_lease_and_goes_with_it(bench: Bench) -> None:
    key = bench.environment()
    bench.router.set_split(key, COMPARED, Lease(time.time() + 60, BLUE), 1)
    assert bench.router.renew(key, Lease(time.time() + 0.5, BLUE), 1)
    assert bench.router.read(key).split == COMPARED
    until(lambda: bench.router.read(key).lapsed)
    assert bench.router.read(key).split == BLUE


@pytest.mark.parametrize("pool", POOLS)
def test_a_pools_requests_are_told_its_release_until_it_has_no_servers(bench: Bench, pool: Pool) -> None:
    key = bench.environment()
    first, second = bench.server(f"{key.service}-1"), bench.server(f"{key.service}-2")
    bench.router.add_servers(key, pool, [first], 1)
    assert bench.release(key, pool) == ""
    bench.router.add_servers(key, pool, [first], 1, "r12")
    assert bench.release(key, pool) == "r12"
    bench.router.add_servers(key, pool, [second], 1)
    bench.router.remove_servers(key, pool, [first.name], 1)
    assert bench.release(key, pool) == "r12", "nobody said otherwise, and there is a server yet"
    bench.router.add_servers(key, pool, [second], 1, "r13")
    assert bench.release(key, pool) == "r13"
    bench.router.remove_servers(key, pool, [second.name], 1)
    bench.router.add_servers(key, pool, [first], 1)
    assert bench.release(key, pool) == ""


@pytest.mark.parametrize("release", ["12", "r0", "r", "R12", "r12 ", "r12\nx", "r1234567890", "r1;shutdown", "r1 r2"])
def test_what_is_no_release_is_not_told(bench: Bench, release: str) -> None:
    key = bench.environment()
    with pytest.raises(Invalid, match="release"):
        bench.router.add_servers(key, Slot.BLUE, [bench.server(f"{key.service}-1")], 1, release)
    assert bench.router.read(key).servers[Slot.BLUE] == ()


def test_a_split_and_its_lease_read_back(bench: Bench) -> None:
    key = bench.environment()
    lease = Lease(round(time.time() + 60, 2), BLUE)
    bench.router.set_split(key, HALF, lease, 1)
    state = bench.router.read(key)
    assert (state.split, state.lease, state.lapsed) == (HALF, lease, False)
    bench.router.set_split(key, HALF, None, 1)
    assert bench.router.read(key).lease is None


def test_a_lease_that_nobody_renews_lapses_to_its_fallback(bench: Bench) -> None:
    key = bench.environment()
    bench.router.set_split(key, HALF, Lease(time.time() + 0.5, Split(Weight(100))), 1)
    until(lambda: bench.router.read(key).lapsed)
    state = bench.router.read(key)
    assert (state.split, state.lease) == (Split(Weight(100)), None)


def test_a_renewed_lease_stands(bench: Bench) -> None:
    key = bench.environment()
    bench.router.set_split(key, HALF, Lease(time.time() + 2, BLUE), 1)
    assert bench.router.renew(key, Lease(time.time() + 60, BLUE), 1)
    time.sleep(2.5)
    state = bench.router.read(key)
    assert (state.split, state.lapsed) == (HALF, False)


def test_a_lapsed_lease_is_not_brought_back_by_renewing_it(bench: Bench) -> None:
    key = bench.environment()
    bench.router.set_split(key, HALF, Lease(time.time() - 1, BLUE), 1)
    for _ in range(2):
        assert not bench.router.renew(key, Lease(time.time() + 60, BLUE), 1)
        state = bench.router.read(key)
        assert (state.split, state.lapsed, state.lease) == (BLUE, True, None)
    bench.router.set_split(key, HALF, None, 1)
    assert not bench.router.read(key).lapsed


def test_a_split_without_a_lease_has_nothing_to_renew(bench: Bench) -> None:
    key = bench.environment()
    with pytest.raises(Refused, match="no lease"):
        bench.router.renew(key, Lease(time.time() + 60, BLUE), 1)


def test_a_writer_with_a_lower_fence_is_refused_and_changes_nothing(bench: Bench) -> None:
    key = bench.environment()
    server = bench.server(f"{key.service}-1")
    bench.router.set_split(key, HALF, None, 5)
    router, lease = bench.router, Lease(time.time() + 60, BLUE)
    for stale in (
        lambda: router.ensure(Route(key, "127.0.0.1", free_port()), 4),
        lambda: router.remove(key, 4),
        lambda: router.add_servers(key, Slot.BLUE, [server], 4, "r1"),
        lambda: router.add_servers(key, CONTROL, [server], 4),
        lambda: router.drain_servers(key, Slot.BLUE, ["a"], 4),
        lambda: router.remove_servers(key, Slot.BLUE, ["a"], 4),
        lambda: router.set_split(key, BLUE, None, 4),
        lambda: router.renew(key, lease, 4),
        lambda: router.open_preview(key, Slot.GREEN, SECRET, 4),
        lambda: router.close_preview(key, 4),
        lambda: router.hold(key, 1, 4),
        lambda: router.inject(key, Slot.BLUE, ERRORS, time.time() + 60, 4),
    ):
        with pytest.raises(StaleFence, match="fence 5"):
            stale()
    state = bench.router.read(key)
    assert (state.split, state.fence, state.servers[Slot.BLUE]) == (HALF, 5, ())
    bench.router.set_split(key, BLUE, None, 5)


def test_a_fence_outlives_the_removal_of_its_environment(bench: Bench) -> None:
    key = bench.environment()
    route = bench.router.read(key).route
    bench.router.remove(key, 7)
    bench.router.remove(key, 7)
    assert key not in set(bench.router.keys())
    with pytest.raises(StaleFence):
        bench.router.ensure(route, 6)
    bench.router.ensure(route, 7)


def test_an_unknown_environment_is_not_found(bench: Bench) -> None:
    key = bench.key()
    for call in (
        lambda: bench.router.read(key),
        lambda: bench.router.set_split(key, HALF, None, 1),
        lambda: bench.router.drain_servers(key, Slot.BLUE, ["a"], 1),
        lambda: bench.router.close_preview(key, 1),
        lambda: bench.router.hold(key, 1, 1),
        lambda: bench.router.inject(key, Slot.BLUE, None, 0.0, 1),
    ):
        with pytest.raises(NotFound, match=key.service):
            call()


@pytest.mark.parametrize("secret", ["", "short", "with spaces in it, and commas", "s" * 201, "s" * 20 + "\n"])
def test_a_secret_that_could_match_by_accident_or_break_out_is_not_taken(bench: Bench, secret: str) -> None:
    key = bench.environment()
    with pytest.raises(Invalid) as caught:
        bench.router.open_preview(key, Slot.GREEN, secret, 1)
    assert not secret or secret not in str(caught.value)


@pytest.mark.parametrize("seconds", [-1.0, 30.1, float("nan"), float("inf")])
def test_a_hold_is_at_most_half_a_minute(bench: Bench, seconds: float) -> None:
    key = bench.environment()
    with pytest.raises(Invalid, match="hold"):
        bench.router.hold(key, seconds, 1)


def test_a_fault_is_of_one_slot_replaces_the_one_before_and_ends_when_it_is_lifted(bench: Bench) -> None:
    key = bench.environment()
    assert bench.router.read(key).faults == {}
    for fault in (ERRORS, SLOW, SLOW):
        bench.router.inject(key, Slot.GREEN, fault, time.time() + 60, 1)
        assert bench.router.read(key).faults == {Slot.GREEN: fault}
    bench.router.inject(key, Slot.BLUE, ERRORS, time.time() + 60, 1)
    for _ in range(2):
        bench.router.inject(key, Slot.GREEN, None, 0.0, 1)
        assert bench.router.read(key).faults == {Slot.BLUE: ERRORS}


def test_a_fault_whose_time_is_over_is_no_more(bench: Bench) -> None:
    key = bench.environment()
    bench.router.inject(key, Slot.GREEN, ERRORS, time.time() - 1, 1)
    assert bench.router.read(key).faults == {}


@pytest.mark.parametrize(
    "fault",
    [EdgeFault(delay=-1.0), EdgeFault(delay=31.0), EdgeFault(delay=float("nan")), EdgeFault(status=404)],
)
def test_a_fault_that_the_edge_cannot_do_is_not_taken(bench: Bench, fault: EdgeFault) -> None:
    key = bench.environment()
    with pytest.raises(Invalid, match="fault"):
        bench.router.inject(key, Slot.GREEN, fault, time.time() + 60, 1)
    assert bench.router.read(key).faults == {}
