from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from crossfade.domain.errors import Unavailable
from crossfade.load import LoadPlan, Phase, Progress, Request, Result, Streams, run, run_sharded
from tests.free_port import free_port
from tests.load.local_server import LocalServer


@pytest.fixture
def server() -> Iterator[LocalServer]:
    with LocalServer() as running:
        yield running


def offer(url: str, rate: float, duration: float, *paths: str, **rest: object) -> Result:
    mix = tuple(Request.parse(path) for path in paths) or (Request("/"),)
    plan = LoadPlan(url, (Phase(rate, duration),), mix, **rest)  # type: ignore[arg-type] # each test gives what it is about
    return Result.of(plan, run(plan))


def test_every_planned_request_is_sent_at_the_rate_that_was_asked_for(server: LocalServer) -> None:
    began = time.monotonic()
    result = offer(server.url, 200, 2)
    assert (result.planned, result.requests, result.failed) == (400, 400, 0)
    assert server.asked["/"] == 400
    assert time.monotonic() - began >= 1.9, "it did not just send them all at once"
    assert [each.requests for each in result.slices] == [200, 200]
    assert result.latency.p50 is not None and result.latency.p50 < 1


def test_a_stall_is_charged_with_every_request_that_was_due_meanwhile(server: LocalServer) -> None:
    # The classic mistake is to wait for the stalled answer before sending on: one slow request, and a fine p99.
    timer = threading.Timer(1.0, server.stall, args=(1.0,))
    timer.start()
    result = offer(server.url, 200, 3)
    timer.join()
    assert result.requests == 600 and result.failed == 0
    assert result.latency.p99 is not None and result.latency.p99 > 0.8
    assert result.latency.p50 is not None and result.latency.p50 < 0.8
    stalled = max(result.slices, key=lambda each: each.quantile(0.5) or 0)
    assert stalled.requests == 200, "the schedule went on while nobody answered"


def test_requests_that_wait_for_a_connection_are_late_for_the_client_but_not_by_the_generators_fault(
    server: LocalServer,
) -> None:
    timer = threading.Timer(0.3, server.stall, args=(0.8,))
    timer.start()
    result = offer(server.url, 200, 1.5, max_in_flight=4)
    timer.join()
    assert result.requests == 300 and result.failed == 0
    assert server.most_at_once <= 4
    assert result.latency.p99 is not None and result.latency.p99 > 0.5
    assert result.lag.p50 is not None and result.lag.p50 < 0.3


@pytest.mark.parametrize(
    ("path", "kind", "status"),
    [
        ("/reset", "reset", 0),
        ("/half", "closed", 0),
        ("/noise", "protocol", 0),
        ("/hang", "timeout", 0),
        ("/status/503", "status-503", 503),
    ],
)
def test_a_failure_is_counted_under_its_kind_with_examples(
    server: LocalServer, path: str, kind: str, status: int
) -> None:
    # Short where that is what is looked at; else a slow machine would time out what is to fail in another way.
    result = offer(server.url, 40, 1, path, "/", timeout=0.7 if kind == "timeout" else 20.0)
    failed = result.by_request[path]
    assert result.by_kind == {kind: failed.requests}
    assert failed.requests == failed.failed > 0
    assert result.by_request["/"].failed == 0 < result.by_request["/"].requests
    assert len(result.examples[kind]) == min(5, failed.failed)
    example = result.examples[kind][0]
    assert (example.path, example.status, example.kind) == (path, status, kind)
    assert len(result.failures) == result.failed


def test_a_port_where_nobody_listens_is_refused_and_no_latency_is_made_of_it() -> None:
    result = offer(f"http://127.0.0.1:{free_port()}", 50, 1, lag_floor=60)
    assert result.by_kind == {"refused": 50}
    assert result.latency.p99 is None
    assert result.void == ()


def test_a_host_that_nobody_knows_is_an_error() -> None:
    with pytest.raises(Unavailable, match=r"nowhere\.invalid"):
        offer("http://nowhere.invalid:80", 1, 1)


def test_a_client_error_is_no_failure_unless_it_is_asked_for(server: LocalServer) -> None:
    assert offer(server.url, 20, 0.5, "/status/404").failed == 0
    strict = offer(server.url, 20, 0.5, "/status/404", fail_from=400)
    assert strict.by_kind == {"status-404": 10}
    assert strict.by_status == {404: 10}


def test_each_user_keeps_cookies_of_its_own(server: LocalServer) -> None:
    result = offer(server.url, 100, 2, "/visitor", users=5)
    assert result.by_status == {200: 200}
    # Before its first answer a user may be given more than one cookie; it sends one, as a browser would.
    assert 5 <= len(server.visitors) < 200
    assert sum(server.visitors.values()) == 200


def test_without_users_nobody_keeps_a_cookie(server: LocalServer) -> None:
    offer(server.url, 40, 0.5, "/visitor")
    assert len(server.visitors) == 20


def test_connections_are_kept_and_used_again(server: LocalServer) -> None:
    result = offer(server.url, 100, 2, "/", "/chunked", "HEAD /")
    assert result.failed == 0 and result.requests == 200
    assert server.connections < 200


def test_the_recorded_header_is_counted_whole_and_in_each_slice(server: LocalServer) -> None:
    def turn_green() -> None:
        server.header = b"green"

    timer = threading.Timer(1.0, turn_green)
    timer.start()
    result = offer(server.url, 100, 2, record_header="X-Slot", slice=0.5)
    timer.join()
    assert set(result.by_header) == {"blue", "green"}
    assert sum(group.requests for group in result.by_header.values()) == 200
    assert result.slices[0].by_header == {"blue": (50, 0)}
    assert result.slices[-1].by_header == {"green": (50, 0)}


def test_phases_follow_each_other(server: LocalServer) -> None:
    plan = LoadPlan(server.url, (Phase(40, 1), Phase(120, 1)))
    result = Result.of(plan, run(plan))
    assert [each.requests for each in result.slices] == [40, 120]


def test_a_closed_kept_connection_is_a_failure_unless_resending_is_asked_for(server: LocalServer) -> None:
    # Ten a second: on a slow machine, too, the next request finds the connection of the one before.
    strict = offer(server.url, 10, 2, "/once")
    assert strict.by_kind.keys() <= {"closed", "reset"} and strict.failed > 0
    assert "kept connection" in strict.failures[0].detail
    kind = offer(server.url, 10, 2, "/once", resend=True)
    assert kind.failed == 0 < kind.resent
    unsafe = offer(server.url, 10, 2, "POST /once", resend=True)
    assert unsafe.failed > 0 and unsafe.resent == 0, "what is not idempotent is never sent twice"


def test_a_generator_that_is_late_by_its_own_fault_makes_the_run_void(server: LocalServer) -> None:
    plan = LoadPlan(server.url, (Phase(200, 1.5),), lag_floor=0.02)
    result = Result.of(plan, run(plan, on_progress=lambda _: time.sleep(0.25), every=0.3))
    assert result.requests == 300, "late, but all of them"
    assert result.lag.p99 is not None and result.lag.p99 > 0.1
    assert "requests started late" in result.void[0]


def test_progress_adds_up_to_the_whole(server: LocalServer) -> None:
    seen: list[Progress] = []
    plan = LoadPlan(server.url, (Phase(100, 2),), (Request("/"), Request("/status/500")), record_header="X-Slot")
    result = Result.of(plan, run(plan, on_progress=seen.append, every=0.5))
    assert len(seen) >= 3
    assert sum(each.requests for each in seen) == result.requests == seen[-1].finished
    assert sum(sum(each.failures.values()) for each in seen) == result.failed == seen[-1].failed
    assert sum(each.by_header.get("blue", 0) for each in seen) == result.by_header["blue"].requests
    assert seen[-1].in_flight == 0


def test_shards_in_processes_of_their_own_are_one_run(server: LocalServer) -> None:
    seen: list[Progress] = []
    plan = LoadPlan(
        server.url, (Phase(101, 2),), (Request("/"), Request("/status/500")), (Streams("/events", count=3),), slice=0.5
    )
    result = Result.of(plan, run_sharded(plan, 2, on_progress=seen.append, every=0.5))
    assert result.requests == 202 and result.by_kind == {"status-500": result.by_request["/status/500"].requests}
    assert server.asked["/"] + server.asked["/status/500"] == 202
    assert [each.requests for each in result.slices] == [51, 50, 51, 50]
    assert result.streams[0].opened == result.streams[0].wanted == 3
    assert seen


@pytest.mark.parametrize(("path", "kind"), [("/events", "sse"), ("/socket", "websocket")])
class TestStreams:
    def test_a_stream_that_stays_is_counted_with_its_messages(self, server: LocalServer, path: str, kind: str) -> None:
        facts = offer(server.url, 20, 1.5, streams=(Streams(path, kind, 2),)).streams[0]
        assert (facts.opened, facts.ended, facts.cut, facts.refused, facts.open) == (2, 0, 0, 0, 0)
        assert facts.messages > 10
        assert facts.longest_life > 0.1

    def test_an_orderly_end_is_no_cut(self, server: LocalServer, path: str, kind: str) -> None:
        timer = threading.Timer(0.7, server.end_streams, kwargs={"orderly": True})
        timer.start()
        # Long enough for a slow machine to open them anew as well.
        facts = offer(server.url, 20, 4, streams=(Streams(path, kind, 2),)).streams[0]
        timer.join()
        assert facts.ended >= 2 and facts.cut == 0
        assert facts.opened > 2, "it is opened again"

    def test_a_broken_connection_is_a_cut(self, server: LocalServer, path: str, kind: str) -> None:
        timer = threading.Timer(0.7, server.end_streams, kwargs={"orderly": False})
        timer.start()
        facts = offer(server.url, 20, 1.5, streams=(Streams(path, kind, 2),)).streams[0]
        timer.join()
        assert facts.cut >= 2 and facts.ended == 0
        assert facts.cuts[0][0] > time.time() - 60

    def test_what_is_no_stream_is_refused(self, server: LocalServer, path: str, kind: str) -> None:
        facts = offer(server.url, 20, 0.6, streams=(Streams("/", kind, 2),)).streams[0]
        assert facts.opened == 0 < facts.refused


def test_a_stop_ends_a_run_with_what_there_is(server: LocalServer) -> None:
    import asyncio

    from crossfade.load import Generator
    from crossfade.load.generator import new_event_loop

    plan = LoadPlan(server.url, (Phase(100, 60),), (Request("/"), Request("/hang")), stop_grace=0.2)

    async def main() -> Result:
        generator = Generator(plan)
        asyncio.get_running_loop().call_later(1.0, generator.stop)
        return Result.of(plan, await generator.run())

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        result = runner.run(main())
    assert result.stopped and result.seconds < 30
    assert 10 < result.requests < 3000
    assert result.unfinished > 0, "those that were left hanging are neither failures nor forgotten"
    assert result.failed == 0


def test_an_error_in_the_callers_progress_ends_the_run_with_it(server: LocalServer) -> None:
    def fail(_: Progress) -> None:
        raise RuntimeError("the screen is gone")

    plan = LoadPlan(server.url, (Phase(50, 60),))
    with pytest.raises(RuntimeError, match="the screen is gone"):
        run(plan, on_progress=fail, every=0.1)
