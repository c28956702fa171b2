"""Signed webhooks, as Standard Webhooks 1.0.0 has them: https://www.standardwebhooks.com.

What is signed is ``{webhook-id}.{webhook-timestamp}.{body}``, by HMAC-SHA256. The id is the same for every try, the
timestamp is the try's own: who receives it refuses what is older than some minutes, and what has come before.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Sequence
from typing import Final

from crossfade.domain.errors import Invalid
from crossfade.domain.notice import Notice
from crossfade.notifiers.posting import WITHIN, post
from crossfade.ports.notices import Answer, Dispatch

PREFIX: Final = "whsec_"
SHORTEST, LONGEST = 24, 64
"""Bytes of a secret, as the specification wants."""
MOST_SECRETS: Final = 2
"""A new one and an old one, while they are changed."""


def secrets_of(text: str) -> tuple[bytes, ...]:
    """The secrets of a file: one a line, ``whsec_`` and base64; two while one takes the place of the other. Raises Invalid."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    allowed = f"one or {MOST_SECRETS} lines of {PREFIX} and {SHORTEST} to {LONGEST} random bytes in base64"
    if not 1 <= len(lines) <= MOST_SECRETS:
        raise Invalid("secret_file", f"{len(lines)} lines", allowed)
    found = []
    for line in lines:
        try:
            secret = base64.b64decode(line.removeprefix(PREFIX), validate=True)
        except (binascii.Error, ValueError):
            secret = b""
        if not line.startswith(PREFIX) or not SHORTEST <= len(secret) <= LONGEST:
            raise Invalid("secret_file", "a line that is no such secret", allowed)
        found.append(secret)
    return tuple(found)


def sign(secret: bytes, id: str, timestamp: int, body: bytes) -> str:
    """``v1,`` and the signature in base64."""
    signed = b".".join((id.encode(), str(timestamp).encode(), body))
    return "v1," + base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()


def payload(notice: Notice) -> bytes:
    """The body: what happened, as JSON."""
    said = notice.to_data()
    data = {name: value for name, value in said.items() if name not in ("at", "nth")}
    document = {"type": notice.type, "timestamp": notice.time, "data": data}
    return json.dumps(document, separators=(",", ":")).encode()


class Webhook:
    """`ports.notices.Courier` to a program. Each of ``secrets`` signs."""

    people = True
    """What it drives mostly calls people: a pager wants to be reminded."""

    def __init__(self, url: str, secrets: Sequence[bytes], within: float = WITHIN) -> None:
        self._url, self._secrets, self._within = url, tuple(secrets), within

    def takes(self, notice: Notice) -> bool:
        """See the port."""
        return True

    def carry(self, dispatch: Dispatch) -> Answer:
        """See the port."""
        body, timestamp = payload(dispatch.notice), int(dispatch.now)
        headers = {
            "Content-Type": "application/json",
            "webhook-id": dispatch.id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": " ".join(sign(secret, dispatch.id, timestamp, body) for secret in self._secrets),
        }
        return post(self._url, body, headers, within=self._within)
