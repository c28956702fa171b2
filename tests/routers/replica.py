"""A small HTTP application for tests of the edge: ``python replica.py NAME PORT``. Each path behaves in its own way."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import sys

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


async def answer(
    name: str, path: str, headers: dict[str, str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> bool:
    """Serve one request; whether the connection may be used again.

    What stands after the path's ``?``, or in ``X-Say-Variants``, is told in ``X-Crossfade-Variant``.
    """
    path, _, made_with = path.partition("?")
    made_with = made_with or headers.get("x-say-variants", "")
    variants = "".join(f"X-Crossfade-Variant: {line}\r\n" for line in made_with.split("|")) if made_with else ""
    if path == "/empty":
        return False
    if path == "/garbage":
        writer.write(b"this is no HTTP\r\n\r\n")
    elif path == "/truncated":
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")
        await writer.drain()
        await asyncio.sleep(0.05)
        return False
    elif path == "/socket":
        accept = base64.b64encode(
            hashlib.sha1(headers["sec-websocket-key"].encode() + GUID, usedforsecurity=False).digest()
        )
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")
        writer.write(variants.encode() + b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n")
        while data := await reader.read(1000):
            writer.write(name.encode() + b":" + data)
            await writer.drain()
        return False
    elif path == "/feed":
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n" + variants.encode())
        writer.write(b"Transfer-Encoding: chunked\r\n\r\n")
        for i in range(600):
            event = b"data: %d\n\n" % i
            writer.write(b"%x\r\n%s\r\n" % (len(event), event))
            await writer.drain()
            await asyncio.sleep(0.1)
        writer.write(b"0\r\n\r\n")
    else:
        status = int(path.removeprefix("/status/")) if path.startswith("/status/") else 200
        if path.startswith("/slow/"):
            await asyncio.sleep(float(path.removeprefix("/slow/")))
        said = headers.get("x-say-events", "")
        if path.startswith("/tells/"):
            said = path.removeprefix("/tells/").replace("~", " ")
        lines = "".join(f"X-Crossfade-Event: {line}\r\n" for line in said.split("|")) if said else ""
        lines += variants + ("Content-Type: text/event-stream; charset=utf-8\r\n" if path == "/stream" else "")
        body = json.dumps({"name": name, "headers": headers}).encode()
        head = f"HTTP/1.1 {status} It\r\n{lines}Content-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode("latin-1") + body)
    await writer.drain()
    return True


async def connection(name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            path = head[0].split(" ")[1]
            pairs = [line.split(": ", 1) for line in head[1:] if ": " in line]
            headers: dict[str, str] = {}
            for key, value in pairs:
                headers[key.lower()] = f"{headers[key.lower()]}, {value}" if key.lower() in headers else value
            await reader.readexactly(int(headers.get("content-length", "0")))
            if not await answer(name, path, headers, reader, writer):
                return
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def main(name: str, port: int) -> None:
    server = await asyncio.start_server(lambda r, w: connection(name, r, w), "127.0.0.1", port, backlog=1000)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
