"""Faults that a game day has the edge make: of one slot only, leased, counted as an application's."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from crossfade.domain.drill import EdgeFault
from crossfade.domain.traffic import Slot, Split
from crossfade.domain.values import Weight
from tests.routers.rig import Rig, until

BLUE, GREEN = Split.wholly(Slot.BLUE), Split.wholly(Slot.GREEN)
ALL_FAIL = EdgeFault(status=500)


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with Rig() as rig:
        yield rig


def test_only_the_slot_that_has_the_fault_fails_and_its_replicas_never_hear_of_it(rig: Rig) -> None:
    shop = rig.environment()
    rig.router.inject(shop.key, Slot.GREEN, ALL_FAIL, time.time() + 60, 1)
    assert [shop.get().status for _ in range(5)] == [200] * 5
    rig.router.set_split(shop.key, GREEN, None, 1)
    answers = [shop.get() for _ in range(5)]
    assert [answer.status for answer in answers] == [500] * 5
    assert {answer.name for answer in answers} == {""}
    rig.router.inject(shop.key, Slot.GREEN, None, 0.0, 1)
    assert [shop.get().status for _ in range(5)] == [200] * 5


def test_a_share_of_the_requests_fails_about_as_often_as_it_says(rig: Rig) -> None:
    shop = rig.environment()
    rig.router.inject(shop.key, Slot.BLUE, EdgeFault(Weight(5000), status=503), time.time() + 60, 1)
    with shop.load() as load:
        load.more(400)
    assert load.broken == []
    assert set(load.statuses) == {200, 503}
    # Of 400 at one half, 6 standard deviations either way.
    assert abs(load.statuses[503] / sum(load.statuses.values()) - 0.5) < 0.15


def test_a_delay_is_waited_at_the_edge_and_the_answer_is_the_applications(rig: Rig) -> None:
    shop = rig.environment()
    rig.router.inject(shop.key, Slot.BLUE, EdgeFault(delay=0.3), time.time() + 60, 1)
    began = time.monotonic()
    answer = shop.get()
    assert time.monotonic() - began >= 0.3
    assert (answer.status, answer.name != "") == (200, True)


def test_it_ends_by_itself_when_nobody_renews_it(rig: Rig) -> None:
    shop = rig.environment()
    rig.router.inject(shop.key, Slot.BLUE, ALL_FAIL, time.time() + 1.5, 1)
    assert shop.get().status == 500
    until(lambda: shop.get().status == 200)
    assert rig.router.read(shop.key).faults == {}


def test_an_edge_that_is_killed_comes_back_with_it_and_still_lets_it_end(rig: Rig) -> None:
    shop = rig.environment()
    rig.router.inject(shop.key, Slot.BLUE, ALL_FAIL, time.time() + 5, 1)
    for pid in rig.workers():
        os.kill(pid, signal.SIGKILL)
    until(lambda: shop.get().status == 500)
    until(lambda: shop.get().status == 200)


def test_a_reload_keeps_it(rig: Rig) -> None:
    shop = rig.environment()
    rig.router.inject(shop.key, Slot.BLUE, ALL_FAIL, time.time() + 60, 1)
    rig.environment()
    assert shop.get().status == 500


def test_previews_are_spared(rig: Rig) -> None:
    shop = rig.environment()
    secret = "s" * 40
    rig.router.open_preview(shop.key, Slot.GREEN, secret, 1)
    rig.router.inject(shop.key, Slot.GREEN, ALL_FAIL, time.time() + 60, 1)
    assert shop.get(X_Crossfade_Preview=secret).status == 200


def test_they_count_as_errors_of_the_slot_and_as_no_failure_of_the_edge(rig: Rig) -> None:
    shop = rig.environment()
    signals = rig.signals()
    began = time.time()
    before = signals.read(shop.key)
    rig.router.inject(shop.key, Slot.BLUE, EdgeFault(status=503), time.time() + 60, 1)
    for _ in range(7):
        assert shop.get().status == 503
    since = until(lambda: (s := signals.read(shop.key).since(before)).slots[Slot.BLUE].requests >= 7 and s)
    assert since.slots[Slot.BLUE].errors == 7
    assert dict(since.slots[Slot.BLUE].by_cause) == {"5xx": 7}
    assert since.slots[Slot.GREEN].requests == 0
    assert signals.failures(shop.key, began) == ()
