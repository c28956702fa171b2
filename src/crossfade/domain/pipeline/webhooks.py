"""What a forge's webhook says, once it is proven that the forge has said it.

The signature is checked over the bytes as they came, before anything of them is read.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from crossfade.domain.errors import Invalid, Unauthenticated

LARGEST: Final = 1024 * 1024
"""Bytes of a body. A larger one is refused unread."""
TOLERANCE: Final = 300.0
"""Seconds that the time of a Standard Webhook may be off."""
FORGES: Final = ("github", "gitlab", "gitea")

_COMMIT: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_HEADS: Final = "refs/heads/"
_PRINTED: Final = re.compile(r"[^\x20-\x7e]")


@dataclass(frozen=True, slots=True)
class Push:
    """A branch that stands on another commit now. ``delivery`` is the same when the forge sends it again."""

    delivery: str
    branch: str
    commit: str
    repository: str
    pusher: str
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class Ignored:
    """Signed, but nothing that a run would come of."""

    reason: str


def read(forge: str, headers: Mapping[str, str], body: bytes, secret: str, now: float) -> Push | Ignored:
    """What came. Names of headers count in any case; ``now`` is epoch s.

    Raises Unauthenticated for what the secret's holder has not signed, Invalid for what is no webhook of this forge.
    """
    if forge not in FORGES:
        raise Invalid("forge", forge, ", ".join(FORGES))
    if len(body) > LARGEST:
        raise Invalid("body", f"{len(body)} bytes", f"at most {LARGEST} bytes")
    found = {name.lower(): value for name, value in headers.items()}
    if not secret or not _SIGNED[forge](found, body, secret, now):
        raise Unauthenticated("The signature of this webhook is not valid.", hint="Both sides need the same secret.")
    event = _event(forge, found)
    if event == "ping":
        return Ignored("ping: webhooks arrive here")
    if event != "push":
        return Ignored(f"a webhook of the kind {_plain(event)!r}: only pushes begin a run")
    return _push(forge, found, _parsed(found, body))


# --- signatures


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode("utf-8", "replace"), other.encode("utf-8", "replace"))


def _hex(secret: str, body: bytes) -> str:
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def _github(found: Mapping[str, str], body: bytes, secret: str, _: float) -> bool:
    return _same(found.get("x-hub-signature-256", ""), f"sha256={_hex(secret, body)}")


def _gitea(found: Mapping[str, str], body: bytes, secret: str, _: float) -> bool:
    given = found.get("x-forgejo-signature") or found.get("x-gitea-signature", "")
    return _same(given, _hex(secret, body))


def _gitlab(found: Mapping[str, str], body: bytes, secret: str, now: float) -> bool:
    """A signature counts when there is one: a right token does not make up for a wrong signature."""
    if "webhook-signature" in found:
        return _standard(found, body, secret, now)
    return _same(found.get("x-gitlab-token", ""), secret)


def _standard(found: Mapping[str, str], body: bytes, secret: str, now: float) -> bool:
    """Standard Webhooks: HMAC over ``id.timestamp.body``; one signature of several has to be right."""
    id, at = found.get("webhook-id", ""), found.get("webhook-timestamp", "")
    if not id or not re.fullmatch(r"[0-9]{1,12}", at) or abs(now - int(at)) > TOLERANCE:
        return False
    key = secret.encode()
    if secret.startswith("whsec_"):
        try:
            key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        except binascii.Error:
            return False
    if not key:
        return False
    signed = f"{id}.{at}.".encode("utf-8", "replace") + body
    wanted = "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    return any(_same(one, wanted) for one in found["webhook-signature"].split(" ")[:16])


_SIGNED: Final = {"github": _github, "gitea": _gitea, "gitlab": _gitlab}


# --- what it says


def _event(forge: str, found: Mapping[str, str]) -> str:
    if forge == "gitlab":
        said = found.get("x-gitlab-event", "")
        return "push" if said == "Push Hook" else said
    if forge == "gitea":
        return found.get("x-forgejo-event") or found.get("x-gitea-event", "")
    return found.get("x-github-event", "")


def _parsed(found: Mapping[str, str], body: bytes) -> Mapping[str, Any]:
    kind = found.get("content-type", "application/json").split(";")[0].strip().lower()
    if kind != "application/json":
        raise Invalid("content-type", _plain(kind), "application/json: set it so in the forge")
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        raise Invalid("body", _plain(body[:60].decode("utf-8", "replace")), "JSON") from None
    if not isinstance(said, dict):
        raise Invalid("body", type(said).__name__, "a JSON object")
    return said


def _push(forge: str, found: Mapping[str, str], said: Mapping[str, Any]) -> Push | Ignored:
    ref, commit = _text(said, "ref"), _text(said, "after")
    if not ref.startswith(_HEADS):
        return Ignored(f"a push of {_plain(ref)}: only branches begin a run")
    branch = ref.removeprefix(_HEADS)
    if not branch or branch.startswith("-") or len(branch) > 250 or any(ord(sign) < 33 for sign in branch):
        raise Invalid("ref", _plain(ref), "refs/heads/ and the name of a branch")
    if not _COMMIT.fullmatch(commit):
        raise Invalid("after", _plain(commit), "a whole commit id")
    if not commit.strip("0") or said.get("deleted") is True:
        return Ignored(f"{_plain(branch)} was deleted")
    if forge == "gitlab":
        repository, pusher = _at(said, "project", "path_with_namespace"), _at(said, "user_username")
    else:
        repository = _at(said, "repository", "full_name")
        pusher = _at(said, "pusher", "login") or _at(said, "pusher", "name") or _at(said, "sender", "login")
    named = {
        "github": ("x-github-delivery",),
        "gitea": ("x-forgejo-delivery", "x-gitea-delivery"),
        "gitlab": ("webhook-id", "idempotency-key", "x-gitlab-event-uuid"),
    }[forge]
    delivery = next((found[name] for name in named if found.get(name)), "")
    if not delivery:  # the same push is the same delivery then
        delivery = hashlib.sha256(f"{repository}\0{ref}\0{said.get('before')}\0{commit}".encode()).hexdigest()
    return Push(_plain(delivery)[:200], branch, commit, _plain(repository), _plain(pusher) or "somebody")


def _text(said: Mapping[str, Any], name: str) -> str:
    value = said.get(name)
    if not isinstance(value, str):
        raise Invalid(name, value, "text")
    return value


def _at(said: Any, *path: str) -> str:
    for name in path:
        said = said.get(name) if isinstance(said, dict) else None
    return said if isinstance(said, str) else ""


def _plain(text: str) -> str:
    return _PRINTED.sub("?", text[:200])
