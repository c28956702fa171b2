"""Webhooks: what a forge has signed, and nothing else."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfade.domain.errors import Invalid, Unauthenticated
from crossfade.domain.pipeline.webhooks import LARGEST, Ignored, Push, _hex, read

COMMIT = "4f2c81a" + "0" * 32 + "1"
SECRET = "s3cret"
NOW = 1_700_000_000.0


def push(**other: Any) -> bytes:
    said = {
        "ref": "refs/heads/main",
        "after": COMMIT,
        "repository": {"full_name": "ada/shop"},
        "pusher": {"name": "ada", "login": "ada"},
        "project": {"path_with_namespace": "ada/shop"},
        "user_username": "ada",
    }
    return json.dumps(said | other).encode()


def headers(forge: str, body: bytes, secret: str = SECRET) -> dict[str, str]:
    digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return {
        "github": {"X-GitHub-Event": "push", "X-GitHub-Delivery": "d-1", "X-Hub-Signature-256": f"sha256={digest}"},
        "gitea": {"X-Gitea-Event": "push", "X-Gitea-Delivery": "d-1", "X-Gitea-Signature": digest},
        "gitlab": {"X-Gitlab-Event": "Push Hook", "Idempotency-Key": "d-1", "X-Gitlab-Token": secret},
    }[forge]


FORGES = pytest.mark.parametrize("forge", ["github", "gitea", "gitlab"])


@FORGES
def test_a_signed_push_is_heard(forge: str) -> None:
    found = read(forge, headers(forge, push()), push(), "s3cret", NOW)
    assert found == Push("d-1", "main", COMMIT, "ada/shop", "ada")


@FORGES
def test_what_another_secret_has_signed_is_refused(forge: str) -> None:
    with pytest.raises(Unauthenticated):
        read(forge, headers(forge, push(), "guessed"), push(), "s3cret", NOW)
    with pytest.raises(Unauthenticated):
        read(forge, {}, push(), "s3cret", NOW)
    with pytest.raises(Unauthenticated):
        read(forge, headers(forge, push(), ""), push(), "", NOW)


def test_the_example_of_githubs_documentation_is_signed_as_it_says() -> None:
    assert (
        _hex("It's a Secret to Everybody", b"Hello, World!")
        == "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    )


def test_the_example_of_standard_webhooks_is_signed_as_it_says() -> None:
    body = b'{"test": 2432232314}'
    found = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        "x-gitlab-event": "Note Hook",
    }
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    assert isinstance(read("gitlab", found, body, secret, 1614265330.0), Ignored)
    with pytest.raises(Unauthenticated):
        read("gitlab", found, body, secret, 1614265330.0 + 301)


def test_a_right_token_does_not_make_up_for_a_wrong_signature() -> None:
    wrong = base64.b64encode(b"x" * 32).decode()
    found = headers("gitlab", push()) | {
        "webhook-id": "1",
        "webhook-timestamp": str(int(NOW)),
        "webhook-signature": f"v1,{wrong}",
    }
    with pytest.raises(Unauthenticated):
        read("gitlab", found, push(), "s3cret", NOW)


@pytest.mark.parametrize(
    "body",
    [push(after="0" * 40), push(deleted=True), push(ref="refs/tags/v1")],
    ids=["zeroes", "said", "tag"],
)
def test_deletions_and_tags_begin_nothing(body: bytes) -> None:
    assert isinstance(read("github", headers("github", body), body, "s3cret", NOW), Ignored)


def test_a_ping_is_answered() -> None:
    found = headers("github", b"{}") | {"X-GitHub-Event": "ping"}
    assert read("github", found, b"{}", "s3cret", NOW) == Ignored("ping: webhooks arrive here")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        push(ref=7),
        push(after="HEAD"),
        push(ref="refs/heads/--upload-pack=x"),
        push(ref="refs/heads/a\nb"),
        b"x" * (LARGEST + 1),
    ],
    ids=["empty", "list", "bytes", "deep", "number", "no-id", "option", "newline", "large"],
)
def test_what_is_signed_but_no_push_is_named_as_such(body: bytes) -> None:
    with pytest.raises(Invalid):
        read("github", headers("github", body), body, "s3cret", NOW)


@given(st.dictionaries(st.text(max_size=12), st.text(max_size=20), max_size=5), st.binary(max_size=200))
def test_nobody_gets_in_without_the_secret(found: dict[str, str], body: bytes) -> None:
    for forge in ("github", "gitea", "gitlab"):
        with pytest.raises(Unauthenticated):
            read(forge, found, body, "a secret that is long enough", NOW)


@given(st.recursive(st.none() | st.text() | st.integers(), lambda of: st.lists(of) | st.dictionaries(st.text(), of)))
def test_whatever_is_signed_gives_a_push_a_reason_or_a_named_fault(said: object) -> None:
    body = json.dumps({"ref": "refs/heads/main", "after": COMMIT, "repository": said, "pusher": said}).encode()
    found = read("github", headers("github", body), body, "s3cret", NOW)
    assert isinstance(found, Push)
    assert found.pusher.isprintable()
