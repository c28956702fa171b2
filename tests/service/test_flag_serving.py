"""What is served of flags: at once, to the right release, from memory, and on while the ledger is away."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from crossfade.domain.errors import (
    NotFound,
    StorageFailed,
)
from crossfade.domain.values import EnvKey
from crossfade.ports import Change
from crossfade.service import flag_serving
from crossfade.service.flags import Flags
from tests.service.flag_stage import OFF, ON, flag_stage, served, settle, written
from tests.service.stage import ADMIN, KEY, OPERATOR, STAGING, Stage


@pytest.fixture
def stage() -> Stage:
    return flag_stage()


@pytest.fixture
def flags(stage: Stage) -> Flags:
    return stage.service.flags


@pytest.fixture
def always_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks looks."""
    monkeypatch.setattr(flag_serving, "LOOK_EVERY", 0.0)


# --- what is served


def test_an_environment_serves_nothing_until_a_flag_is_made(flags: Flags) -> None:
    serving = flags.serving(KEY)
    assert (serving.version, serving.evaluator.keys, str(serving.release)) == (0, (), "r1")
    assert flags.view(KEY)["flags"] == []


def test_an_environment_that_there_is_not_has_no_flags(flags: Flags) -> None:
    nowhere = EnvKey("nowhere", "production")
    with pytest.raises(NotFound, match="nowhere"):
        flags.serving(nowhere)
    with pytest.raises(NotFound):
        flags.save(nowhere, "a", OFF, ADMIN)


def test_a_change_is_served_at_once_and_is_told_to_those_who_watch(stage: Stage, flags: Flags) -> None:
    version = written(flags.save(KEY, "a", ON, OPERATOR, note="hello"))
    assert (version.number, version.by, version.flags, version.note) == (1, "olga", ("a",), "hello")
    assert served(flags) == "on"
    change = next(one for one in stage.parts.store.changes(0) if one.kind == "flags")
    assert (change.key, change.data) == (str(KEY), {"version": 1, "flags": ["a"], "count": 1})
    assert flags.serving(STAGING).version == 0


def test_another_servers_change_is_served_within_a_look(stage: Stage, flags: Flags, always_looking: None) -> None:
    other = stage.another_server().flags
    flags.save(KEY, "a", OFF, OPERATOR)
    assert served(other) == "off"
    other.kill(KEY, "a", "it burns", OPERATOR)
    flags.save(KEY, "b", ON, OPERATOR)
    assert (served(other, "b"), served(flags, "b")) == ("on", "on")


def test_nothing_is_asked_of_the_ledger_between_two_looks(
    stage: Stage, flags: Flags, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flag_serving, "LOOK_EVERY", 1e9)
    flags.save(KEY, "a", ON, OPERATOR)
    monkeypatch.setattr(stage.parts.flags, "newest", None)
    monkeypatch.setattr(stage.parts.store, "environment", None)
    for _ in range(1000):
        assert served(flags) == "on"


def test_what_is_written_by_the_engine_is_served_before_those_who_watch_are_told(stage: Stage, flags: Flags) -> None:
    flags.save(KEY, "a", OFF, OPERATOR)
    before = stage.parts.store.changes_kept()[1]
    stage.parts.flags.write(KEY, {"flags": {"a": ON}}, ["a"], "crossfade", 1.0, expects=1)
    flags.heard(stage.parts.store.changes(before))
    assert flags._servings._served[KEY].version == 2


def test_whoever_is_told_of_a_change_finds_it_served(stage: Stage, flags: Flags) -> None:
    other = stage.another_server()
    other.flags.save(KEY, "a", OFF, OPERATOR)
    flags.serving(KEY)

    async def watching() -> list[int]:
        subscription = stage.service.hub.subscribe(None, lambda _: True)
        stage.service.hub.enter(subscription)
        seen: list[int] = []

        def offer(changes: list[Change]) -> None:
            assert changes
            seen.append(flags._servings._served[KEY].version)

        subscription.offer = offer  # type: ignore[method-assign] # in place of a reader
        other.flags.save(KEY, "a", ON, OPERATOR)
        stage.service.hub._look()
        await asyncio.sleep(0)
        return seen

    assert asyncio.run(watching()) == [2]


def test_the_release_that_serves_decides_whether_a_need_is_met(
    stage: Stage, flags: Flags, always_looking: None
) -> None:
    flags.save(KEY, "a", {**ON, "crossfade": {"needs": "r3", "off": "off"}}, OPERATOR)
    assert served(flags) == "off"
    settle(stage)
    assert str(flags.serving(KEY).release) == "r3"
    assert served(flags) == "on"


def test_while_the_ledger_is_away_the_last_good_set_goes_on_and_its_age_is_told(
    stage: Stage, flags: Flags, always_looking: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags.save(KEY, "a", ON, OPERATOR)
    assert flags.serving(KEY).stale_since is None

    def away(_: EnvKey) -> int:
        raise StorageFailed("the disk is gone")

    with monkeypatch.context() as gone:
        gone.setattr(stage.parts.flags, "newest", away)
        since = stage.now
        assert served(flags) == "on"
        stage.now += 42.0
        serving = flags.serving(KEY)
        assert (serving.stale_since, serving.age(stage.now)) == (since, 42.0)
        assert flags.view(KEY)["age"] == 42.0
        with pytest.raises(StorageFailed):
            flags.kill(KEY, "a", "", OPERATOR)
    serving = flags.serving(KEY)
    assert (serving.stale_since, serving.age(stage.now)) == (None, 0.0)


@pytest.fixture
def started(flags: Flags) -> Iterator[Flags]:
    flags.start()
    yield flags
    flags.stop()


def test_once_it_is_started_a_thread_looks(stage: Stage, started: Flags) -> None:
    started.save(KEY, "a", OFF, OPERATOR)
    looked = threading.Event()
    newest = stage.parts.flags.newest

    def watched(key: EnvKey) -> int:
        if threading.current_thread().name == "flags":
            looked.set()
        return newest(key)

    stage.parts.flags.newest = watched  # type: ignore[method-assign] # to see who asks
    assert served(started) == "off"
    assert looked.wait(30)


def test_a_providers_set_has_a_tag_of_all_that_it_holds(stage: Stage, flags: Flags, always_looking: None) -> None:
    flags.save(KEY, "a", ON, OPERATOR)
    first = flags.serving(KEY)
    assert first.etag == stage.another_server().flags.serving(KEY).etag
    settle(stage)
    assert flags.serving(KEY).etag != first.etag
    flags.save(KEY, "a", OFF, OPERATOR)
    assert flags.serving(KEY).etag != first.etag


def test_contexts_are_remembered_each_once_and_not_too_many(flags: Flags) -> None:
    serving = flags.serving(KEY)
    for n in range(flag_serving.CONTEXTS_KEPT + 10):
        serving.remember({"targetingKey": str(n % 505)})
    serving.remember({"x": "y" * 20_000})
    serving.remember({"x": object()})
    found = flags.serving(KEY).contexts.all()
    assert (len(found), found[0]) == (flag_serving.CONTEXTS_KEPT, {"targetingKey": "4"})


@pytest.mark.usefixtures("always_looking")
def test_a_version_that_nobody_can_read_leaves_the_last_good_one_served_and_is_written_over(
    stage: Stage, flags: Flags
) -> None:
    flags.save(KEY, "a", ON, OPERATOR)
    broken = {"flags": {"a": {"state": "by hand"}}}
    stage.parts.flags.write(KEY, broken, ("a",), "nobody", stage.now, expects=1)
    for server in (flags, stage.another_server().flags):
        assert served(server) == "on"
        assert server.serving(KEY).stale_since == stage.now
    settle(stage)
    assert flags.serving(KEY).stale_since == stage.now, "a release that comes does not make it readable"
    assert written(flags.save(KEY, "a", OFF, OPERATOR)).number == 3
    assert (served(flags), flags.serving(KEY).stale_since) == ("off", None)


def test_a_set_of_which_no_version_can_be_read_is_told_to_be_so(stage: Stage, flags: Flags) -> None:
    stage.parts.flags.write(KEY, {"flags": 5}, (), "nobody", stage.now, expects=0)
    with pytest.raises(StorageFailed, match="can be read"):
        flags.serving(KEY)
