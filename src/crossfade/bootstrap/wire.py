"""HTTP/1.1 as the server reads it: by uvicorn's parser in C, which by itself keeps whatever a client sends."""

from __future__ import annotations

from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

LARGEST_HEAD: Final = 64 * 1024
"""Bytes that may come without a request, or a part of its body, having come in whole."""
MOST_WAITING: Final = 32
"""Requests of one connection that may have been sent before the first of them is answered."""


class Bounded(HttpToolsProtocol):
    """One connection, which is ended with 400 when it sends a head, or trailers, without end, or asks without listening."""

    _held = 0
    _came = False

    def data_received(self, data: bytes) -> None:
        self._came = False
        super().data_received(data)
        self._held = 0 if self._came else self._held + len(data)
        if self._held > LARGEST_HEAD and not self.transport.is_closing():
            self.send_400_response("The head of a request is too large.")

    def on_headers_complete(self) -> None:
        self._came = True
        if len(self.pipeline) >= MOST_WAITING:
            raise ValueError("too many requests wait")  # the parser refuses what it is in
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._came = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._came = True
        super().on_message_complete()
