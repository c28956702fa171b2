"""The promises of `ports.Runtime`, kept by processes and by their twin."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from crossfade.domain.errors import Invalid, Refused, StaleFence
from crossfade.domain.values import EnvKey
from crossfade.fakes.runtime import FakeRuntime
from crossfade.ports import Replica, ReplicaSpec, Runtime
from crossfade.runtimes.process import ProcessRuntime
from crossfade.runtimes.supervisor import Supervisor

KEY = EnvKey("bookshop", "production")
OTHER = EnvKey("bookshop", "staging")
STAYS = (sys.executable, "-S", "-c", "import time; print('up', flush=True); time.sleep(600)")


def spec(name: str, key: EnvKey = KEY, command: tuple[str, ...] = STAYS) -> ReplicaSpec:
    return ReplicaSpec(f"{key.service}.{key.environment}.{name}", command, Path("/"), {"A": "1"})


def until(holds: Callable[[], object], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came to hold"
        time.sleep(0.02)


@pytest.fixture(params=["fake", "process"])
def runtime(request: pytest.FixtureRequest) -> Iterator[Runtime]:
    if request.param == "fake":
        fake = FakeRuntime()
        fake.exits = lambda spec: "exited with status 3" if "exit 3" in spec.command else ""
        yield fake
        return
    state = Path(tempfile.mkdtemp(prefix="cf-", dir="/tmp"))
    supervisor = Supervisor(state)
    supervisor.start()
    try:
        yield ProcessRuntime(state, supervisor)
    finally:
        supervisor.shutdown()
        shutil.rmtree(state)


def only(found: tuple[Replica, ...]) -> Replica:
    assert len(found) == 1
    return found[0]


def test_started_replicas_run_each_on_a_port_of_its_own(runtime: Runtime) -> None:
    started = runtime.start(KEY, [spec("r1-1"), spec("r1-2")], 1)
    assert [r.name for r in started] == ["bookshop.production.r1-1", "bookshop.production.r1-2"]
    assert len({r.port for r in started}) == 2
    until(lambda: [r.state for r in runtime.replicas(KEY)] == ["running", "running"])
    assert all(r.pid > 0 and r.restarts == 0 for r in runtime.replicas(KEY))
    nobody = EnvKey("nobody", "here")
    assert runtime.replicas_of([KEY, nobody]) == {KEY: runtime.replicas(KEY), nobody: ()}


def test_starting_twice_is_starting_once(runtime: Runtime) -> None:
    first = only(runtime.start(KEY, [spec("r1-1")], 1))
    second = only(runtime.start(KEY, [spec("r1-1")], 1))
    assert (second.pid, second.port) == (first.pid, first.port)
    both = runtime.start(KEY, [spec("r1-1"), spec("r1-2")], 1)
    assert (both[0].pid, both[0].port) == (first.pid, first.port)


def test_a_running_replica_is_not_replaced_by_another_command_under_its_name(runtime: Runtime) -> None:
    first = only(runtime.start(KEY, [spec("r1-1")], 1))
    with pytest.raises(Refused):
        runtime.start(KEY, [spec("r1-1", command=(*STAYS, "more"))], 1)
    assert only(runtime.replicas(KEY)).pid == first.pid


def test_environments_do_not_see_each_others_replicas(runtime: Runtime) -> None:
    runtime.start(KEY, [spec("r1-1")], 1)
    runtime.start(OTHER, [spec("r1-1", OTHER)], 1)
    assert only(runtime.replicas(KEY)).name == "bookshop.production.r1-1"
    assert only(runtime.replicas(OTHER)).port != only(runtime.replicas(KEY)).port
    runtime.stop(KEY, ["bookshop.staging.r1-1"], 1)
    assert len(runtime.replicas(OTHER)) == 1


def test_a_name_of_another_environment_is_not_allowed(runtime: Runtime) -> None:
    with pytest.raises(Invalid):
        runtime.start(KEY, [spec("r1-1", OTHER)], 1)


def test_stopped_replicas_are_gone_and_stopping_again_is_fine(runtime: Runtime) -> None:
    runtime.start(KEY, [spec("r1-1"), spec("r1-2")], 1)
    runtime.stop(KEY, ["bookshop.production.r1-1", "bookshop.production.unknown"], 1)
    assert only(runtime.replicas(KEY)).name == "bookshop.production.r1-2"
    runtime.stop(KEY, ["bookshop.production.r1-1"], 1)
    runtime.stop(KEY, ["bookshop.production.r1-2"], 1)
    assert runtime.replicas(KEY) == ()


def test_a_stopped_name_can_be_started_anew_with_another_command(runtime: Runtime) -> None:
    runtime.start(KEY, [spec("r1-1")], 1)
    runtime.stop(KEY, ["bookshop.production.r1-1"], 1)
    again = only(runtime.start(KEY, [spec("r1-1", command=(*STAYS, "more"))], 1))
    assert again.restarts == 0
    until(lambda: only(runtime.replicas(KEY)).state == "running")


def test_a_replica_that_exits_at_once_is_reported_with_its_exit_status(runtime: Runtime) -> None:
    runtime.start(KEY, [spec("r1-1", command=("sh", "-c", "exit 3"))], 1)
    until(lambda: only(runtime.replicas(KEY)).state == "exited")
    until(lambda: only(runtime.replicas(KEY)).restarts >= 1)
    found = only(runtime.replicas(KEY))
    assert "exited with status 3" in found.detail
    runtime.stop(KEY, [found.name], 1)
    assert runtime.replicas(KEY) == ()


def test_an_overtaken_holder_can_neither_start_nor_stop(runtime: Runtime) -> None:
    runtime.start(KEY, [spec("r1-1")], 5)
    for write in (
        lambda: runtime.start(KEY, [spec("r1-2")], 4),
        lambda: runtime.stop(KEY, ["bookshop.production.r1-1"], 4),
    ):
        with pytest.raises(StaleFence):
            write()
    assert only(runtime.replicas(KEY)).name == "bookshop.production.r1-1"
    runtime.start(OTHER, [spec("r1-1", OTHER)], 1)
    runtime.stop(KEY, ["bookshop.production.r1-1"], 6)
    with pytest.raises(StaleFence):
        runtime.start(KEY, [spec("r1-3")], 5)


def test_the_log_of_an_unknown_replica_is_empty(runtime: Runtime) -> None:
    assert runtime.logs("bookshop.production.r9-9") == ()
    assert runtime.replicas(EnvKey("nobody", "anywhere")) == ()
