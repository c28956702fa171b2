"""What answers a request for one flag without looking at it: what the same server costs, and the machine, by themselves."""

from __future__ import annotations

from typing import Any, Final

BODY: Final = b'{"key":"flag-00002","reason":"TARGETING_MATCH","variant":"on","value":true}'
HEAD: Final = [(b"content-type", b"application/json"), (b"content-length", str(len(BODY)).encode())]


async def app(_scope: Any, receive: Any, send: Any) -> None:
    """The same to everybody."""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": HEAD})
    await send({"type": "http.response.body", "body": BODY})
