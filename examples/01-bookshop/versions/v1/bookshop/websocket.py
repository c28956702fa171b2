"""The server's side of WebSockets (RFC 6455): the handshake, and text messages in both directions."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import struct
from collections.abc import Callable

from bookshop.server import Request, Response, Upgrade

LONGEST_MESSAGE = 64 * 1024
GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

GOING_AWAY, PROTOCOL_ERROR, NOT_UTF8, TOO_BIG = 1001, 1002, 1007, 1009
_TEXT, _BINARY, _CLOSE, _PING, _PONG = 0x1, 0x2, 0x8, 0x9, 0xA


class WebSocket:
    """One conversation. ``on_text`` is called for each message, ``on_open`` and ``on_end`` once each."""

    def __init__(
        self,
        on_open: Callable[[WebSocket], None],
        on_text: Callable[[WebSocket, str], None],
        on_end: Callable[[WebSocket], None],
    ) -> None:
        self._on_open, self._on_text, self._on_end = on_open, on_text, on_end
        self._buffer = b""
        self._parts: list[bytes] = []
        self._code = 0
        self._closed = False

    def send(self, text: str) -> None:
        self._write(_TEXT, text.encode())

    def close(self, code: int = GOING_AWAY) -> None:
        """Say goodbye; the client answers and the connection ends, at the latest after two seconds."""
        if not self._closed:
            self._write(_CLOSE, struct.pack("!H", code))
            self._closed = True
            asyncio.get_running_loop().call_later(2, self._transport.abort)

    # What `server.Conversation` asks for

    def begin(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._on_open(self)

    def received(self, data: bytes) -> None:
        self._buffer += data
        while (frame := self._take_frame()) is not None:
            self._read(*frame)

    def ended(self) -> None:
        self._closed = True
        self._on_end(self)

    def _take_frame(self) -> tuple[bool, int, bytes] | None:
        """The next whole frame: is it the last of its message, its opcode, its payload."""
        data = self._buffer
        if len(data) < 2 or self._transport.is_closing():
            return None
        final, code, length, at = bool(data[0] & 0x80), data[0] & 0x0F, data[1] & 0x7F, 2
        # Clients must mask; no extension is agreed on, so no reserved bit may be set; control frames are short and whole.
        if not data[1] & 0x80 or data[0] & 0x70 or (code >= _CLOSE and (length > 125 or not final)):
            self._fail(PROTOCOL_ERROR)
            return None
        if length >= 126:
            size = 2 if length == 126 else 8
            if len(data) < at + size:
                return None
            length, at = int.from_bytes(data[at : at + size], "big"), at + size
        if length > LONGEST_MESSAGE:
            self._fail(TOO_BIG)
            return None
        if len(data) < at + 4 + length:
            return None
        mask, payload = data[at : at + 4], data[at + 4 : at + 4 + length]
        self._buffer = data[at + 4 + length :]
        return final, code, _unmask(payload, mask)

    def _read(self, final: bool, code: int, payload: bytes) -> None:
        if code == _CLOSE:
            if not self._closed:
                self._write(_CLOSE, payload[:2])
                self._closed = True
            self._transport.close()
        elif code == _PING:
            self._write(_PONG, payload)
        elif code == _PONG:
            pass
        elif code > _BINARY or (code == 0) != bool(self._parts):
            self._fail(PROTOCOL_ERROR)
        else:
            self._code = code or self._code
            self._parts.append(payload)
            if sum(map(len, self._parts)) > LONGEST_MESSAGE or len(self._parts) > 1000:
                self._fail(TOO_BIG)
            elif final:
                message, self._parts = b"".join(self._parts), []
                if self._code == _TEXT:
                    try:
                        text = message.decode()
                    except UnicodeDecodeError:
                        self._fail(NOT_UTF8)
                        return
                    if not self._closed:
                        self._on_text(self, text)

    def _fail(self, code: int) -> None:
        if not self._closed:
            self._write(_CLOSE, struct.pack("!H", code))
        self._closed = True
        self._transport.close()

    def _write(self, code: int, payload: bytes) -> None:
        if self._closed or self._transport.is_closing():
            return
        length = len(payload)
        if length < 126:
            head = bytes((0x80 | code, length))
        elif length < 65536:
            head = struct.pack("!BBH", 0x80 | code, 126, length)
        else:
            head = struct.pack("!BBQ", 0x80 | code, 127, length)
        self._transport.write(head + payload)


def upgrade(request: Request, socket: WebSocket) -> Upgrade | Response:
    """The handshake; 400 or 426 to a request that is none."""
    key = request.headers.get("sec-websocket-key", "")
    if "websocket" not in request.headers.get("upgrade", "").lower() or request.method != "GET":
        return Response(b"This is a WebSocket.\n", 426, "text/plain", (("Upgrade", "websocket"),))
    if request.headers.get("sec-websocket-version") != "13" or not _is_key(key):
        return Response(b"Not a handshake.\n", 400, "text/plain", (("Sec-WebSocket-Version", "13"),))
    accept = base64.b64encode(hashlib.sha1((key + GUID).encode(), usedforsecurity=False).digest()).decode()
    headers = (("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", accept))
    return Upgrade(headers, socket)


def _is_key(key: str) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False


def _unmask(payload: bytes, mask: bytes) -> bytes:
    """All at once, as one long number: bytes one by one would be slow."""
    size = len(payload)
    whole = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(whole, "big")).to_bytes(size, "big")
