from __future__ import annotations

import asyncio
import itertools
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from crossfade.load.wire import Connection, field, fields


class Line(asyncio.Transport):
    """A transport to nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = False

    def write(self, data: Any) -> None:
        pass

    def abort(self) -> None:
        self.ended = True

    def is_closing(self) -> bool:
        return self.ended


class Ear:
    def __init__(self) -> None:
        self.heard: list[tuple[object, ...]] = []

    def answered(self, connection: Connection, status: int, head: bytes, reusable: bool) -> None:
        self.heard.append(("answered", status, field(head.lower(), head, b"x-slot"), reusable))

    def broken(self, connection: Connection, kind: str, detail: str) -> None:
        self.heard.append(("broken", kind))

    def left(self, connection: Connection) -> None:
        self.heard.append(("left",))


def exchange(
    answer: bytes, cuts: list[int], *, head_only: bool = False, ends: bool = False
) -> list[tuple[object, ...]]:
    """What the owner hears when ``answer`` comes in pieces."""
    ear, line = Ear(), Line()
    connection = Connection(ear)
    connection.connection_made(line)
    connection.send(b"", head_only=head_only)
    edges = [0, *sorted({cut % (len(answer) + 1) for cut in cuts}), len(answer)]
    for start, end in itertools.pairwise(edges):
        if end > start:
            connection.data_received(answer[start:end])
    if ends:
        connection.connection_lost(None)
    return ear.heard


ANSWERS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Slot: blue\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nX-SLOT:blue\r\n\r\n5\r\nhello\r\n1;e=f\r\n!\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Slot: blue\r\n\r\n5\r\n\r\n\r\n\n\r\n0\r\nA: b\r\nC: d\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Slot: blue\r\n\r\n",
]


@settings(deadline=None)
@given(st.sampled_from(ANSWERS), st.lists(st.integers(0, 300), max_size=12))
def test_an_answer_is_the_same_in_whatever_pieces_it_comes(answer: bytes, cuts: list[int]) -> None:
    assert exchange(answer, cuts) == [("answered", 200, b"blue", True)]


@settings(deadline=None)
@given(st.sampled_from(ANSWERS), st.integers(0, 300), st.lists(st.integers(0, 300), max_size=5))
def test_an_answer_that_breaks_off_is_never_taken_for_whole(answer: bytes, length: int, cuts: list[int]) -> None:
    assert exchange(answer[: length % len(answer)], cuts, ends=True) == [("broken", "closed")]


@settings(deadline=None)
@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=5))
def test_whatever_comes_the_owner_hears_one_end_and_no_error(noise: bytes, cuts: list[int]) -> None:
    for answer in (noise, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + noise):
        heard = [event for event in exchange(answer, cuts, ends=True) if event != ("left",)]
        assert len(heard) == 1


def test_a_body_without_a_length_ends_with_the_connection() -> None:
    answer = b"HTTP/1.1 200 OK\r\nX-Slot: blue\r\n\r\nhello"
    assert exchange(answer, [], ends=True) == [("answered", 200, b"blue", False)]


def test_an_answer_to_HEAD_has_no_body_whatever_its_length_says() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
    assert exchange(answer, [], head_only=True) == [("answered", 200, None, True)]


def test_connection_close_is_believed() -> None:
    assert exchange(b"HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 0\r\n\r\n", [])[0][3] is False
    assert exchange(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", [])[0][3] is False


def test_bytes_behind_an_answer_make_its_connection_unusable() -> None:
    assert exchange(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok+", [])[0][3] is False


def test_headers_are_found_by_name_and_not_inside_of_values() -> None:
    head = b"HTTP/1.1 200 OK\r\nX-Note: x-slot: red\r\nX-Slot: blue\r\nSet-Cookie: a=1\r\nSet-cookie: b=2\r\n"
    assert field(head.lower(), head, b"x-slot") == b"blue"
    assert field(head.lower(), head, b"x-other") is None
    assert fields(head.lower(), head, b"set-cookie") == [b"a=1", b"b=2"]
