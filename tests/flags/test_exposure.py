"""The header that tells the edge which variants an answer was made with."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import io
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from crossfade.flags.exposure import HEADER, AsgiVariants, Made, WsgiVariants, current, request


def note(flag: str, variant: str, chosen: bool = True) -> None:
    """As the provider does when it has served a variant."""
    made = current()
    if made is not None:
        made.note(flag, variant, chosen)


def test_a_request_tells_what_was_served_in_it_and_nothing_of_another() -> None:
    with request() as one:
        note("new-checkout", "on")
        with request() as inner:
            note("other", "b")
        note("new-checkout", "off")
    assert one.header() == "new-checkout=off"
    assert inner.header() == "other=b"
    assert current() is None
    note("nobody", "asks")


def test_without_flags_there_is_no_header() -> None:
    with request() as made:
        pass
    assert made.headers() == {}


EDGES = re.compile(r"[A-Za-z0-9._-]{1,100}=[A-Za-z0-9._-]{1,100}")


@given(st.dictionaries(st.text(max_size=30), st.text(max_size=30), max_size=40))
def test_a_header_holds_only_what_the_edge_takes(variants: dict[str, str]) -> None:
    made = Made()
    for flag, variant in variants.items():
        made.note(flag, variant, False)
    pairs = made.header().split(", ") if made.header() else []
    assert len(pairs) <= 16
    assert all(EDGES.fullmatch(pair) for pair in pairs)
    assert dict(pair.split("=", 1) for pair in pairs).items() <= variants.items()


def test_of_many_flags_those_that_were_chosen_for_who_asks_are_told_first() -> None:
    with request() as made:
        for number in range(30):
            note(f"same-for-all-{number}", "on", chosen=False)
        note("experiment", "b")
    pairs = made.header().split(", ")
    assert pairs[:2] == ["experiment=b", "same-for-all-0=on"]
    assert len(pairs) == 16


def test_threads_and_tasks_of_a_request_count_as_it() -> None:
    async def main() -> str:
        with request() as made:
            await asyncio.gather(asyncio.to_thread(note, "in-thread", "on"), asyncio.create_task(noting("in-task")))
        return made.header()

    async def noting(flag: str) -> None:
        note(flag, "on")

    assert sorted(asyncio.run(main()).split(", ")) == ["in-task=on", "in-thread=on"]
    with request() as made, concurrent.futures.ThreadPoolExecutor() as pool:
        pool.submit(contextvars.copy_context().run, note, "copied", "on").result()
    assert made.header() == "copied=on"


# WSGI


def call(application: Callable[..., Iterable[bytes]]) -> tuple[str, dict[str, str], bytes, str]:
    """Status, headers, body and what went to the error log, as a server sees them."""
    environ: dict[str, Any] = {}
    setup_testing_defaults(environ)
    environ["wsgi.errors"] = io.StringIO()
    begun: list[Any] = []
    written: list[bytes] = []

    def start_response(status: str, headers: list[tuple[str, str]], failure: Any = None) -> Callable[[bytes], object]:
        assert failure or not begun, "a server refuses a second start without a failure"
        begun[:] = [status, dict(headers)]
        return written.append

    body = application(environ, start_response)
    try:
        for chunk in body:
            assert begun, "a body needs its head first"
            written.append(chunk)
    finally:
        body.close()  # type: ignore[attr-defined] # a generator's, as PEP 3333 has it
    return begun[0], begun[1], b"".join(written), environ["wsgi.errors"].getvalue()


def test_a_wsgi_answer_carries_the_variants_it_was_made_with() -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        note("new-checkout", "on")
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"a", b"b"]

    status, headers, body, _ = call(WsgiVariants(application))
    assert (status, body) == ("200 OK", b"ab")
    assert headers == {"Content-Type": "text/plain", HEADER: "new-checkout=on"}


def test_what_a_generator_asks_before_its_first_byte_is_told_too() -> None:
    closed = []

    class Body:
        def __init__(self, start_response: Any) -> None:
            self._start = start_response

        def __iter__(self) -> Iterator[bytes]:
            self._start("200 OK", [])
            note("late", "on")
            yield b"first"
            note("too-late", "on")
            yield b"second"

        def close(self) -> None:
            closed.append(True)

    _, headers, body, _ = call(WsgiVariants(lambda environ, start_response: Body(start_response)))
    assert headers == {HEADER: "late=on"}
    assert body == b"firstsecond"
    assert closed == [True]


def test_what_is_written_the_old_way_arrives_in_order() -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        note("new-checkout", "on")
        write = start_response("200 OK", [])
        write(b"written ")
        return [b"returned"]

    _, headers, body, _ = call(WsgiVariants(application))
    assert (headers, body) == ({HEADER: "new-checkout=on"}, b"written returned")


def test_an_empty_wsgi_answer_has_its_head() -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        note("new-checkout", "on")
        start_response("204 No Content", [])
        return []

    status, headers, body, _ = call(WsgiVariants(application))
    assert (status, headers, body) == ("204 No Content", {HEADER: "new-checkout=on"}, b"")


@pytest.mark.parametrize("after_head", [False, True])
def test_a_wsgi_application_that_fails_answers_500_with_its_variants_and_says_why(after_head: bool) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        note("new-checkout", "on")
        if after_head:
            start_response("200 OK", [])
        raise ZeroDivisionError("the new checkout is broken")

    status, headers, body, log = call(WsgiVariants(application))
    assert status == "500 Internal Server Error"
    assert headers[HEADER] == "new-checkout=on"
    assert body == b"Internal Server Error"
    assert "the new checkout is broken" in log


def test_a_wsgi_answer_that_fails_when_half_is_sent_is_the_servers_affair() -> None:
    def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"half"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        call(WsgiVariants(application))


def test_two_requests_that_one_thread_streams_by_turns_do_not_mix() -> None:
    def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        note(environ["which"], "on")
        start_response("200 OK", [])
        yield b"1"
        assert current() is not None
        yield b"2"

    wrapped = WsgiVariants(application)
    heads: dict[str, Any] = {}

    def start(which: str) -> Any:
        return lambda status, headers, *failure: heads.update({which: dict(headers)})

    one, two = wrapped({"which": "one"}, start("one")), wrapped({"which": "two"}, start("two"))
    for _ in zip(one, two, strict=True):
        assert current() is None
    assert heads == {"one": {HEADER: "one=on"}, "two": {HEADER: "two=on"}}


# ASGI


def ask(application: Any, path: str = "/") -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of one request; an exception that gets out is the server's to log."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": [], "http_version": "1.1"}
    try:
        asyncio.run(application(scope, receive, send))
    except ZeroDivisionError:
        pass
    starts = [message for message in sent if message["type"] == "http.response.start"]
    assert len(starts) == 1
    headers = {name.decode(): value.decode() for name, value in starts[0]["headers"]}
    return starts[0]["status"], headers, b"".join(message.get("body", b"") for message in sent)


async def fine(request: Request) -> Response:
    note("new-checkout", "on")
    return PlainTextResponse("fine")


async def broken(request: Request) -> Response:
    note("new-checkout", "on")
    raise ZeroDivisionError


async def own_words(request: Request, error: Exception) -> Response:
    return PlainTextResponse("our own words", 500)


ROUTES = [Route("/", fine), Route("/broken", broken)]
TOLD = HEADER.lower()


def test_an_asgi_answer_carries_the_variants_it_was_made_with() -> None:
    status, headers, body = ask(AsgiVariants(Starlette(routes=ROUTES)))
    assert (status, headers[TOLD], body) == (200, "new-checkout=on", b"fine")


def test_the_500_that_a_framework_makes_carries_them_too() -> None:
    status, headers, body = ask(AsgiVariants(Starlette(routes=ROUTES)), "/broken")
    assert (status, headers[TOLD], body) == (500, "new-checkout=on", b"Internal Server Error")
    own = Starlette(routes=ROUTES, exception_handlers={500: own_words})
    status, headers, body = ask(AsgiVariants(own), "/broken")
    assert (status, headers[TOLD], body) == (500, "new-checkout=on", b"our own words")


def test_a_bare_asgi_application_that_fails_answers_500_with_its_variants() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        note("new-checkout", "on")
        raise ZeroDivisionError

    status, headers, body = ask(AsgiVariants(application))
    assert (status, headers[TOLD], body) == (500, "new-checkout=on", b"Internal Server Error")


def test_inside_a_framework_its_own_answer_to_an_error_is_left_to_it() -> None:
    inside = Starlette(routes=ROUTES, middleware=[Middleware(AsgiVariants)], exception_handlers={500: own_words})
    assert ask(inside)[1][TOLD] == "new-checkout=on"
    status, _, body = ask(inside, "/broken")
    assert (status, body) == (500, b"our own words")


def test_a_websocket_or_a_lifespan_passes_as_it_is() -> None:
    seen = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope["type"], send))

    async def send(message: Any) -> None: ...

    asyncio.run(AsgiVariants(application)({"type": "lifespan"}, send, send))  # type: ignore[arg-type] # never called
    assert seen == [("lifespan", send)]
