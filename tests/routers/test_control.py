"""The control pool on the real edge, and business events that applications tell in their answers."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfade.domain.errors import Invalid
from crossfade.domain.traffic import CONTROL, Lease, Slot, Split
from crossfade.domain.values import Weight
from crossfade.routers.haproxy.state import read_state
from tests.routers.rig import Environment, Rig, until

BUCKETS = range(0, 10_000, 97)


@st.composite
def splits(draw: st.DrawFn) -> Split:
    green = draw(st.integers(0, 10_000))
    side = draw(st.sampled_from(Slot))
    split = Split(Weight(green))
    return split.with_control(side, Weight(draw(st.integers(0, split.of(side).bp))))


@given(splits())
def test_a_split_and_its_control_are_one_number_and_come_back_from_it(split: Split) -> None:
    assert Split.from_code(split.code) == split
    assert split.code == split.green.bp or split.control.bp > 0


@given(splits(), st.integers(0, 9999))
def test_the_control_takes_its_share_from_its_own_side_alone(split: Split, bucket: int) -> None:
    served, alone = split.admits(bucket), Split(split.green).admits(bucket)
    assert served == alone or (served is CONTROL and alone is split.control_of)


@given(splits())
def test_the_control_has_exactly_its_share_of_the_buckets(split: Split) -> None:
    if split.control.bp % 100 == 0 and split.green.bp % 100 == 0:
        assert sum(split.admits(bucket) is CONTROL for bucket in range(50, 10_000, 100)) == split.control.bp // 100


def test_a_control_of_more_than_its_side_is_refused() -> None:
    with pytest.raises(Invalid, match="at most the weight of blue"):
        Split(Weight(9000)).with_control(Slot.BLUE, Weight(1001))


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with Rig() as rig:
        yield rig


@pytest.fixture(scope="module")
def shop(rig: Rig) -> Environment:
    shop = rig.environment()
    server = rig.start(f"{shop.key.service}.control-1")
    rig.router.add_servers(shop.key, CONTROL, [server], 1)
    return shop


def split(shop: Environment, wanted: Split, lease: Lease | None = None) -> None:
    shop.rig.router.set_split(shop.key, wanted, lease, 1)


@pytest.mark.parametrize(
    "wanted",
    [
        Split(Weight(500)).with_control(Slot.BLUE, Weight(500)),
        Split(Weight(9500)).with_control(Slot.GREEN, Weight(500)),
        Split(Weight(5000)).with_control(Slot.BLUE, Weight(2500)),
        Split(Weight(5000)).with_control(Slot.GREEN, Weight(2500)),
    ],
    ids=str,
)
def test_every_bucket_is_served_where_the_split_says(shop: Environment, wanted: Split) -> None:
    split(shop, wanted)
    edges = {0, 499, 500, 2499, 2500, 4999, 5000, 7499, 7500, 9499, 9500, 9999}
    for bucket in sorted(edges):
        served = shop.slot(Cookie=f"cf-{shop.key.service}={bucket}")
        assert served == wanted.admits(bucket).value, bucket
    assert shop.rig.router.read(shop.key).split == wanted


def test_requests_of_the_control_are_counted_apart_and_in_the_total(shop: Environment) -> None:
    signals = shop.rig.signals()
    split(shop, Split(Weight(5000)).with_control(Slot.BLUE, Weight(2500)))
    before = signals.read(shop.key)
    served = Counter(shop.slot(Cookie=f"cf-{shop.key.service}={bucket}") for bucket in BUCKETS)
    since = signals.read(shop.key).since(before)
    counted = {"control": since.control.requests, **{slot.value: since.slots[slot].requests for slot in Slot}}
    assert counted == dict(served)
    assert since.total().requests == len(BUCKETS)


def test_without_the_control_nothing_is_left_of_it(shop: Environment) -> None:
    split(shop, Split(Weight(500)))
    served = {shop.slot(Cookie=f"cf-{shop.key.service}={bucket}") for bucket in BUCKETS}
    assert served == {"blue", "green"}


def test_a_lease_that_lapses_takes_the_control_back_too(shop: Environment) -> None:
    lease = Lease(time.time() + 0.5, Split.wholly(Slot.BLUE))
    split(shop, Split(Weight(500)).with_control(Slot.BLUE, Weight(500)), lease)
    assert until(lambda: shop.rig.router.read(shop.key).split == Split.wholly(Slot.BLUE))
    assert {shop.slot(Cookie=f"cf-{shop.key.service}={bucket}") for bucket in BUCKETS} == {"blue"}


def test_the_split_with_its_control_is_on_disk(shop: Environment) -> None:
    wanted = Split(Weight(700)).with_control(Slot.BLUE, Weight(300))
    split(shop, wanted)
    assert read_state(shop.rig.router._folder).environments[shop.key].split == wanted


def test_the_requests_of_a_dead_control_are_the_baselines(rig: Rig) -> None:
    shop = rig.environment()
    name = f"{shop.key.service}.control-1"
    rig.router.add_servers(shop.key, CONTROL, [rig.start(name)], 1)
    split(shop, Split(Weight(500)).with_control(Slot.BLUE, Weight(2000)))
    assert shop.slot(Cookie=f"cf-{shop.key.service}=9999") == "control"
    rig.kill(name)
    for _ in range(20):
        assert shop.get("/", Cookie=f"cf-{shop.key.service}=9999").status == 200
    assert shop.slot(Cookie=f"cf-{shop.key.service}=9999") == "blue"
    rig.router.remove_servers(shop.key, CONTROL, [name], 1)
    assert shop.slot(Cookie=f"cf-{shop.key.service}=9999") == "blue"


# --- business events


def told(shop: Environment, slot: Slot = Slot.BLUE) -> dict[str, tuple[float, float, float]]:
    events = shop.rig.signals().read(shop.key).events.get(slot, {})
    return {name: (m.n, m.sum, m.sum_sq) for name, m in events.items()}


def test_events_of_an_answer_are_counted_and_no_client_sees_them(rig: Rig) -> None:
    shop = rig.environment()
    split(shop, Split.wholly(Slot.BLUE))
    for _ in range(3):
        answer = shop.get("/tells/checkout=23.5,~signup")
        assert answer.status == 200
        assert "x-crossfade-event" not in {name.lower() for name in answer.headers}
    shop.get("/tells/checkout=-1.5")
    assert told(shop) == {"checkout": (4, 69.0, 3 * 23.5**2 + 1.5**2), "signup": (3, 3.0, 3.0)}
    split(shop, Split.wholly(Slot.GREEN))
    shop.get("/tells/checkout")
    assert told(shop, Slot.GREEN) == {"checkout": (1, 1.0, 1.0)}


@pytest.mark.parametrize(
    "said",
    ["Checkout=1", "a=nan", "a=inf", "a=0x10", "a=1e5", "a=1;b=2", "=5", "a==5", "a=9999999999999999", "a" * 41, "a=", "a=1~2"],
)  # fmt: skip
def test_what_is_no_event_is_not_counted_and_not_sent_on(rig: Rig, said: str) -> None:
    shop = rig.environment()
    split(shop, Split.wholly(Slot.BLUE))
    answer = shop.get(f"/tells/{said}")
    assert answer.status == 200
    assert "x-crossfade-event" not in {name.lower() for name in answer.headers}
    assert told(shop) == {}


def test_more_than_eight_events_of_one_answer_are_not_counted(rig: Rig) -> None:
    shop = rig.environment()
    split(shop, Split.wholly(Slot.BLUE))
    shop.get("/tells/" + ",".join(f"e{i}" for i in range(12)))
    assert len(told(shop)) == 8


def test_events_outlive_a_reload_of_the_edge(rig: Rig) -> None:
    shop = rig.environment()
    split(shop, Split.wholly(Slot.BLUE))
    signals = rig.signals()
    signals.start()
    try:
        shop.get("/tells/checkout=2")
        assert signals.read(shop.key).events[Slot.BLUE]["checkout"].n == 1
        route = rig.router.read(shop.key).route
        rig.router.ensure(replace(route, request_timeout=route.request_timeout + 1), 1)
        shop.get("/tells/checkout=3")
        assert until(lambda: signals.read(shop.key).events[Slot.BLUE]["checkout"].sum == 5.0)
    finally:
        signals.stop()
