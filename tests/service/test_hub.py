"""The feed as those who watch have it: in order, nothing lost, nothing twice, nobody held up by another."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from crossfade.domain.rollout import Rollout
from crossfade.domain.signal import Latencies, Reading
from crossfade.domain.traffic import Counters, Slot
from crossfade.domain.values import EnvKey
from crossfade.ports import Change
from crossfade.service.hub import MOST_UNREAD, Hub, Subscription, sampled
from crossfade.store.sql import SqlStore
from tests.service.stage import ADMIN, KEY, STAGING, Stage

DEADLINE = 20.0
T = TypeVar("T")


def everything(_key: EnvKey) -> bool:
    return True


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """On a real ledger: several threads read and write it."""
    store = SqlStore(f"sqlite:///{tmp_path / 'ledger.db'}")
    stage = Stage(store)
    yield stage
    stage.service.hub.stop()
    store.dispose()


def run(watching: Coroutine[Any, Any, T]) -> T:
    """Watch, in an event loop of its own, with a deadline."""

    async def limited() -> T:
        async with asyncio.timeout(DEADLINE):
            return await watching

    return asyncio.run(limited())


@asynccontextmanager
async def watching(
    hub: Hub, since: int | None = None, seen: Callable[[EnvKey], bool] = everything
) -> AsyncIterator[tuple[Subscription, AsyncIterator[Change]]]:
    """A subscription, entered: what is told from now on comes."""
    subscription = hub.subscribe(since, seen)
    changes = aiter(subscription)
    first = asyncio.ensure_future(anext(changes, None))
    await asyncio.sleep(0)  # its first step enters

    async def whole() -> AsyncIterator[Change]:
        change = await first
        while change is not None:
            yield change
            change = await anext(changes, None)

    try:
        yield subscription, whole()
    finally:
        subscription.close()
        await asyncio.gather(first, return_exceptions=True)


async def take(changes: AsyncIterator[Change], count: int) -> list[int]:
    """The marks of so many changes."""
    return [int((await anext(changes)).data["n"]) for _ in range(count)]


def tell(stage: Stage, *marks: int, key: EnvKey = KEY) -> None:
    for n in marks:
        stage.parts.store.tell("approval", str(key), {"n": n}, stage.now)


@contextmanager
def writer(stage: Stage, count: int) -> Iterator[None]:
    """Another thread that tells the marks 0, 1, 2, …"""
    thread = threading.Thread(target=tell, args=(stage, *range(count)))
    thread.start()
    try:
        yield
    finally:
        thread.join()


def test_what_happens_is_told_to_all_who_watch_in_order(stage: Stage) -> None:
    hub = stage.service.hub
    tell(stage, 98, 99)
    hub.start()

    async def watch() -> list[list[int]]:
        async with watching(hub) as (_, one), watching(hub) as (_, other):
            tell(stage, 1, 2, 3)
            return [await take(one, 3), await take(other, 3)]

    assert run(watch()) == [[1, 2, 3]] * 2
    assert hub.viewers == 0


def test_who_comes_back_again_and_again_while_much_happens_misses_nothing_and_hears_nothing_twice(
    stage: Stage,
) -> None:
    hub, count = stage.service.hub, 400
    hub.start()

    async def watch() -> list[int]:
        heard: list[int] = []
        since = 0
        while len(heard) < count:
            async with watching(hub, since) as (_, changes):
                for _ in range(min(17, count - len(heard))):
                    change = await anext(changes)
                    heard.append(int(change.data["n"]))
                    since = change.seq
        return heard

    with writer(stage, count):
        assert run(watch()) == list(range(count))


def test_who_knows_more_than_the_hub_has_looked_at_hears_nothing_twice(stage: Stage) -> None:
    hub = stage.service.hub
    hub.start()

    async def watch() -> list[int]:
        tell(stage, 1, 2)
        async with watching(hub, stage.parts.store.changes_kept()[1]) as (_, changes):
            tell(stage, 3)
            return await take(changes, 1)

    assert run(watch()) == [3]


@pytest.mark.parametrize("since", [0, 40, 5000])
def test_who_was_away_too_long_or_comes_from_another_ledger_is_told_to_begin_anew(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, since: int
) -> None:
    monkeypatch.setattr("crossfade.store.feed.CHANGES_KEPT", 50)
    tell(stage, *range(100))
    hub = stage.service.hub
    hub.start()

    async def watch() -> tuple[Change, list[int]]:
        async with watching(hub, since) as (_, changes):
            reset = await anext(changes)
            tell(stage, 7)
            return reset, await take(changes, 1)

    reset, heard = run(watch())
    assert (reset.kind, reset.seq, heard) == ("reset", 100, [7])


def test_who_has_just_all_that_is_kept_before_it_need_not_begin_anew(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crossfade.store.feed.CHANGES_KEPT", 50)
    tell(stage, *range(1, 101))
    hub = stage.service.hub
    hub.start()

    async def watch() -> list[int]:
        async with watching(hub, 50) as (_, changes):
            return await take(changes, 50)

    assert run(watch()) == list(range(51, 101))


def test_one_hears_only_of_environments_that_one_may_see_and_never_of_the_audit_log(stage: Stage) -> None:
    hub = stage.service.hub
    tell(stage, 1, key=STAGING)
    tell(stage, 2)
    hub.start()

    async def watch() -> list[int]:
        async with watching(hub, 0, lambda key: key == KEY) as (_, changes):
            tell(stage, 3, key=STAGING)
            stage.parts.store.tell("audit", str(KEY), {"n": 4}, stage.now)
            stage.parts.store.tell("approval", "no environment", {"n": 5}, stage.now)
            tell(stage, 6)
            return await take(changes, 2)

    assert run(watch()) == [2, 6]


def test_a_slow_reader_is_let_go_and_the_others_go_on(stage: Stage) -> None:
    hub = stage.service.hub
    hub.start()

    async def watch() -> tuple[bool, int, list[int]]:
        async with watching(hub) as (slow, unread), watching(hub) as (quick, changes):
            flood = [Change(10**6 + n, 0.0, "approval", str(KEY), None, {"n": n}) for n in range(MOST_UNREAD + 1)]
            slow.offer(flood)
            left = len([change async for change in unread])
            tell(stage, 1)
            heard = await take(changes, 1)
            return slow.dropped and not quick.dropped, left, heard

    assert run(watch()) == (True, MOST_UNREAD + 1, [1])


def test_when_the_hub_stops_all_subscriptions_end_and_later_ones_too(stage: Stage) -> None:
    hub = stage.service.hub
    hub.start()

    async def watch() -> list[list[Change]]:
        async with watching(hub) as (_, one), watching(hub, 0) as (_, other):
            await asyncio.to_thread(hub.stop)
            ended = [[change async for change in one], [change async for change in other]]
        late = [change async for change in hub.subscribe(None, everything)]
        return [*ended, late]

    assert run(watch()) == [[], [], []]
    assert hub.viewers == 0


def test_many_come_and_go_while_much_happens_and_those_who_stay_miss_nothing(stage: Stage) -> None:
    hub, count = stage.service.hub, 300
    hub.start()

    async def come_and_go() -> None:
        while True:
            async with watching(hub):
                await asyncio.sleep(0)

    async def watch() -> list[int]:
        async with watching(hub, 0) as (_, changes):
            restless = [asyncio.ensure_future(come_and_go()) for _ in range(4)]
            heard = await take(changes, count)
            for task in restless:
                task.cancel()
            await asyncio.gather(*restless, return_exceptions=True)
            return heard

    with writer(stage, count):
        assert run(watch()) == list(range(count))


# --- samples


def under_way(stage: Stage) -> Rollout:
    stage.live()
    state = stage.deploy(ADMIN)
    assert isinstance(state, Rollout)
    return state


def test_a_rollout_under_way_is_sampled_for_all_and_one_that_came_late_has_the_earlier_ones(stage: Stage) -> None:
    stage.signals.ensure(KEY)
    state = under_way(stage)
    hub = stage.service.hub
    hub.start()

    async def watch() -> Change:
        async with watching(hub) as (_, changes):
            turning = asyncio.ensure_future(turn())
            try:
                while (change := await anext(changes)).kind != "sample":
                    pass
                return change
            finally:
                turning.cancel()

    async def turn() -> None:
        while True:
            stage.now += 0.6
            stage.signals.serve(KEY, state.plan.slot, 10, 1)
            await asyncio.sleep(0.01)

    change = run(watch())
    assert (change.seq, change.key, change.rollout) == (0, str(KEY), state.id)
    assert change.data in hub.samples(state.id)
    assert change.data["arms"]["candidate"]["error_rate"] == 0.1
    assert hub.samples(state.id + 1) == []


def reading(at: float, *counts: tuple[Slot, int, int]) -> Reading:
    return Reading(at, "s", {slot: Counters(requests, errors) for slot, requests, errors in counts})


def test_a_samples_rates_are_between_two_readings_and_nothing_served_has_no_error_rate(stage: Stage) -> None:
    state = under_way(stage)
    candidate = state.plan.slot
    before = reading(10.0, (candidate, 100, 10), (candidate.other, 50, 0))
    now = reading(12.0, (candidate, 140, 20), (candidate.other, 50, 0))
    said = sampled(state, now, before, before)
    assert said["arms"]["candidate"] == {
        "rps": 20.0,
        "errors_per_s": 5.0,
        "error_rate": 0.25,
        "p50_ms": None,
        "p99_ms": None,
    }
    assert (said["arms"]["baseline"]["rps"], said["arms"]["baseline"]["error_rate"]) == (0.0, None)
    assert (said["t"], said["weight"]) == (12.0, state.weight.bp)


def test_a_samples_quantiles_look_further_back_than_its_rates(stage: Stage) -> None:
    state = under_way(stage)
    candidate = state.plan.slot

    def served(at: float, requests: int) -> Reading:
        latencies = {candidate: Latencies(((1000, requests),))} if requests else {}
        return Reading(at, "s", {candidate: Counters(requests, 0)}, Counters(0, 0), latencies)

    said = sampled(state, served(12.0, 50), served(11.0, 50), served(8.0, 0))
    assert said["arms"]["candidate"]["rps"] == 0.0
    assert said["arms"]["candidate"]["p50_ms"] > 0
